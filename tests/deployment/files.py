"""What stands in ops/, as the tests of it read it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OPS = ROOT / "ops"
K8S = OPS / "k8s"
README = OPS / "README.md"


def load(path: Path) -> Any:
    """A file with one YAML document."""
    return yaml.safe_load(path.read_text())


def manifests(folder: Path) -> list[dict[str, Any]]:
    """Every object in the YAML files of a folder, kustomize's own left out."""
    return [
        one
        for path in sorted(folder.rglob("*.yaml"))
        if path.name != "kustomization.yaml"
        for one in yaml.safe_load_all(path.read_text())
        if one is not None
    ]


def manifest(kind: str, folder: Path = K8S / "base", name: str = "openstream") -> dict[str, Any]:
    (found,) = [one for one in manifests(folder) if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert rule, by its name."""
    groups = load(OPS / "prometheus" / "rules.yml")["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def panels() -> Iterator[tuple[str, str, str]]:
    """Dashboard, panel and query, of every query of every dashboard."""
    for one in load(OPS / "grafana" / "dashboards.yaml"):
        for row in one["rows"]:
            for panel in row["panels"]:
                for query in panel["queries"].values():
                    yield one["uid"], panel["title"], query


_SILENCED = re.compile(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\bby\s*\([^)]*\)|\b\d+(\.\d+)?(e\d+)?\b')
_WORDS = frozenset({
    "sum", "max", "min", "count", "rate", "increase", "deriv", "histogram_quantile", "topk", "absent",
    "min_over_time", "vector", "and", "or", "unless",
})  # fmt: skip


def metrics_of(query: str) -> set[str]:
    """Every word of a PromQL query that is no function: the names of metrics. Unknown functions show up as names."""
    stripped = query
    while (less := _SILENCED.sub(" ", stripped)) != stripped:
        stripped = less
    return set(re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*", stripped)) - _WORDS


def labels_of(query: str) -> set[str]:
    """The labels a query matches on or groups by."""
    matched = {name for block in re.findall(r"\{([^}]*)\}", query) for name in re.findall(r"(\w+)\s*(?:=|!)", block)}
    grouped = {name.strip() for block in re.findall(r"\bby\s*\(([^)]*)\)", query) for name in block.split(",")}
    return matched | grouped

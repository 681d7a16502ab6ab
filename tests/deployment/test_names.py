"""Dashboards, alerts and the table in ops/README.md name exactly what telemetry shows."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

from deployment.files import OPS, README, alerts, labels_of, load, metrics_of, panels
from support.numbers import Shown, full_metrics, shown

SHOWN = shown(full_metrics())
SERIES = {name: one for one in SHOWN.values() for name in one.series()}
#: Made by Prometheus itself, with the labels of every target.
TARGET = {"instance", "job"}
UP = "up"
_ROW = re.compile(r"^\| `(openstream_\w+)` \| (\w+) \|([^|]*)\| ([^|]+) \|$", re.MULTILINE)


def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", OPS / "grafana" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_table() -> dict[str, Shown]:
    rows = _ROW.findall(README.read_text())
    return {
        name: Shown(name, kind, tuple(sorted(re.findall(r"`(\w+)`", labels))), sentence)
        for name, kind, labels, sentence in rows
    }


def test_every_metric_stands_in_the_table_of_the_runbook_and_every_row_is_a_metric() -> None:
    ours = {name: one for name, one in SHOWN.items() if name.startswith("openstream_")}
    missing = "\n".join(one.row() for name, one in ours.items() if in_table().get(name) != one)
    assert in_table() == ours, f"the table of ops/README.md lacks, or has otherwise:\n{missing}"
    assert len(_ROW.findall(README.read_text())) == len(ours), "a row for each"


def test_every_metric_has_a_sample_so_that_its_labels_are_known() -> None:
    text = full_metrics().exposition("")[1].decode()
    bare = [name for name in SERIES if not re.search(rf"^{name}[{{ ]", text, re.MULTILINE)]
    assert bare == []


def test_names_follow_prometheus() -> None:
    for name, one in SHOWN.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert one.kind != "counter" or name.endswith("_total"), name
        assert not re.search(r"_(ms|mb|kb|minutes|millis\w*)(_|$)", name), "base units only"


@pytest.mark.parametrize(
    "query", sorted({query for _, _, query in panels()} | {one["expr"] for one in alerts().values()})
)
def test_a_query_names_metrics_that_exist_and_labels_they_have(query: str) -> None:
    named = metrics_of(query)
    assert named
    known = named - {UP}
    assert known - SERIES.keys() == set()
    labels = {label for name in known for label in SERIES[name].labels} | TARGET
    if any(name.endswith("_bucket") for name in known):
        labels.add("le")
    assert labels_of(query) - labels == set()


def test_words_that_are_no_metrics_are_found_out() -> None:
    query = 'histogram_quantile(0.99, sum by (le) (rate(opentream_x_bucket{topic="up",a=~"b|c"}[5m]))) > 2 and nope(up)'
    assert metrics_of(query) == {"opentream_x_bucket", "nope", "up"}
    assert labels_of(query) == {"le", "topic", "a"}


def test_a_counter_is_never_shown_without_its_rate() -> None:
    for _, title, query in panels():
        for name in metrics_of(query) - {UP}:
            if SERIES[name].kind in {"counter", "histogram"}:
                assert re.search(rf"(rate|increase)\({name}\b", query), title


def test_the_dashboards_are_what_their_page_says() -> None:
    rendered: dict[str, str] = build().rendered()
    folder = OPS / "grafana" / "dashboards"
    assert {path.name: path.read_text() for path in folder.iterdir()} == rendered, "run ops/grafana/build.py"


def test_the_dashboards_show_what_an_operator_asks_for() -> None:
    asked = {
        "throughput": "openstream_ingest_events_total",
        "lag": "openstream_group_lag_events",
        "lag in seconds": "openstream_group_lag_seconds",
        "pending": "openstream_group_pending_events",
        "storage": "openstream_redis_memory_used_bytes",
        "backlog": "openstream_unpersisted_events",
        "errors": "openstream_http_responses_total",
        "restarts": "openstream_actor_restarts_total",
        "leases": "openstream_lease_changes_total",
    }
    drawn = {name for _, _, query in panels() for name in metrics_of(query)}
    assert set(asked.values()) - drawn == set()


def test_the_dashboards_ask_the_data_source_that_is_provisioned() -> None:
    sources = load(OPS / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    assert build().DATASOURCE["uid"] in {source["uid"] for source in sources}
    variables = {variable["name"]: variable["query"]["query"] for variable in build().VARIABLES}
    assert set(variables) == {"topic", "group", "node"}
    for query in variables.values():
        assert re.findall(r"\((\w+)", query)[0] in SERIES

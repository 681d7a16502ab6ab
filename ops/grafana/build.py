"""Writes dashboards/*.json, which Grafana reads, from dashboards.yaml, which people read.

Both stand in git; a test holds them together, and every metric that is named to telemetry.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
#: Grafana's grid is 24 wide.
WIDTH, HEIGHT, STAT_HEIGHT = 24, 8, 4


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "label": name.capitalize(), "type": "query", "datasource": DATASOURCE,
        "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1,
        "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


VARIABLES = (
    _variable("topic", "label_values(openstream_stream_length, topic)"),
    _variable("group", 'label_values(openstream_group_pending_events{topic=~"$topic"}, group)'),
    _variable("node", "label_values(openstream_build_info, instance)"),
)
LINKS = {"type": "dashboards", "tags": ["openstream"], "title": "OpenStream", "keepTime": True, "includeVars": True}


def panel(declared: dict[str, Any], number: int, place: dict[str, int]) -> dict[str, Any]:
    kind = declared.get("kind", "timeseries")
    targets = [
        {
            "refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend,
            "exemplar": "_delay_seconds" in expr, "instant": kind == "bargauge",
        }
        for index, (legend, expr) in enumerate(declared["queries"].items())
    ]  # fmt: skip
    options: dict[str, Any] = {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list"}}
    if kind != "timeseries":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "orientation": "auto"}
    below_zero = any("deriv(" in expr for expr in declared["queries"].values())
    defaults = {"unit": declared["unit"]} | ({} if below_zero else {"min": 0})
    return {
        "id": number, "type": kind, "title": declared["title"], "description": declared["tells"], "gridPos": place,
        "datasource": DATASOURCE, "targets": targets, "options": options,
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }  # fmt: skip


def dashboard(declared: dict[str, Any]) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    top = 0
    for row in declared["rows"]:
        place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": row["title"], "gridPos": place})
        top += 1
        stats = row["panels"][0].get("kind") == "stat"
        height = STAT_HEIGHT if stats else HEIGHT
        across = len(row["panels"]) if stats else 2 if len(row["panels"]) in {2, 4} else 3
        for index, one in enumerate(row["panels"]):
            line, column = divmod(index, across)
            width = WIDTH // across
            place = {"x": column * width, "y": top + line * height, "w": width, "h": height}
            panels.append(panel(one, len(panels) + 1, place))
        top += height * -(-len(row["panels"]) // across)
    return {
        "uid": declared["uid"], "title": declared["title"], "tags": ["openstream"], "timezone": "browser",
        "schemaVersion": 39, "editable": False, "refresh": "10s", "time": {"from": "now-30m", "to": "now"},
        "links": [LINKS], "templating": {"list": list(VARIABLES)}, "panels": panels,
    }  # fmt: skip


def rendered() -> dict[str, str]:
    """Every file and what it should hold."""
    return {
        f"{one['uid'].removeprefix('openstream-')}.json": json.dumps(dashboard(one), indent=2, ensure_ascii=False)
        + "\n"
        for one in yaml.safe_load((HERE / "dashboards.yaml").read_text())
    }


if __name__ == "__main__":
    for name, text in rendered().items():
        (HERE / "dashboards" / name).write_text(text)

"""Numbers out of `/v1/metrics/summary`, added up the way tables show them. An unknown lag makes a sum unknown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from openstream_client.models import Topic

Row = dict[str, Any]


def total(values: Iterable[int | None]) -> int | None:
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


def stats_of(summary: Row, topic: str) -> list[Row]:
    """The partitions of a topic; none when it is too new to have been sampled."""
    return next((list(one["partition_stats"]) for one in summary["topics"] if one["topic"] == topic), [])


def topic_rows(topics: Sequence[Topic], summary: Row) -> list[Row]:
    rows = []
    for topic in topics:
        stats, groups = stats_of(summary, topic.topic), group_rows(summary, topic.topic)
        rows.append(
            {
                "topic": topic.topic,
                "partitions": topic.partitions,
                "length": total(one["length"] for one in stats),
                "unpersisted": total(one["unpersisted"] for one in stats),
                "groups": len(groups),
                "lag": total(one["lag"] for one in groups),
            }
        )
    return rows


def partition_rows(summary: Row, topic: str) -> list[Row]:
    names = ("partition", "length", "last_id", "persisted_id", "unpersisted", "owner")
    return [{name: one.get(name) for name in names} for one in stats_of(summary, topic)]


def group_rows(summary: Row, topic: str) -> list[Row]:
    """The groups of a topic over all its partitions. A partition served from PostgreSQL may not know its lag."""
    found: dict[str, list[Row]] = {}
    for partition in stats_of(summary, topic):
        for group in partition["groups"]:
            found.setdefault(group["name"], []).append(group)
    return [
        {
            "topic": topic,
            "group": name,
            "consumers": max(one["consumers"] for one in parts),
            "pending": total(one["pending"] for one in parts),
            "lag": total(one["lag"] for one in parts),
        }
        for name, parts in sorted(found.items())
    ]

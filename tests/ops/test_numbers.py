"""What tables and checks are made of: sums, previews of resets, findings."""

from __future__ import annotations

from typing import Any

import pytest

from openstream_client.models import Group, GroupPartition
from openstream_ops.diagnosis import claims_of, of_cluster, of_summary
from openstream_ops.reset_preview import work_out
from openstream_ops.sums import group_rows, total


def summary(**changes: Any) -> dict[str, Any]:
    group = {"name": "g", "consumers": 1, "pending": 2, "lag": 3}
    stats = [
        {"partition": 0, "groups": [group], "last_id": "9-0"},
        {"partition": 1, "groups": [{**group, "consumers": 0, "lag": 4}], "last_id": "0-0"},
    ]
    redis = {"ok": True, "used_memory": 50, "used_memory_human": "50B", "maxmemory": 100}
    return {
        "topics": [{"topic": "orders", "partition_stats": stats}],
        "redis": redis,
        "postgres": {"ok": True, "detail": ""},
        "sampled_age_ms": 500,
        **changes,
    }


def states(found: list[Any]) -> dict[str, str]:
    return {one.check: one.state for one in found}


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    assert total([1, 2]) == 3
    assert total([]) == 0
    assert total([1, None]) is None


def test_a_group_is_the_sum_of_its_partitions() -> None:
    assert group_rows(summary(), "orders") == [
        {"topic": "orders", "group": "g", "consumers": 1, "pending": 4, "lag": 7}
    ]
    assert group_rows(summary(), "too new to be sampled") == []


def test_a_healthy_cluster_has_nothing_to_complain_about() -> None:
    assert set(states(of_summary(summary())).values()) == {"ok", "unknown"}  # eviction and AOF are not told


@pytest.mark.parametrize(
    ("changes", "check", "state"),
    [
        ({"redis": {"ok": False}}, "redis", "failed"),
        ({"redis": {"ok": True, "used_memory": 90, "maxmemory": 100}}, "redis", "warning"),
        ({"redis": {"ok": True, "maxmemory_policy": "allkeys-lru", "aof_enabled": True}}, "redis settings", "failed"),
        ({"redis": {"ok": True, "maxmemory_policy": "noeviction", "aof_enabled": True}}, "redis settings", "ok"),
        ({"postgres": {"ok": False, "detail": "gone"}}, "postgres", "failed"),
        ({"sampled_age_ms": None}, "samples", "warning"),
    ],
)
def test_what_is_wrong_is_found_and_has_a_hint(changes: dict[str, Any], check: str, state: str) -> None:
    found = of_summary(summary(**changes))
    assert states(found)[check] == state
    assert state == "ok" or next(one.hint for one in found if one.check == check)


def test_a_group_nobody_reads_is_a_warning_and_one_that_is_read_is_not() -> None:
    one = summary()
    assert states(of_summary(one))["lag"] == "ok"
    for partition in one["topics"][0]["partition_stats"]:
        partition["groups"][0]["consumers"] = 0
    assert states(of_summary(one))["lag"] == "warning"


def test_partitions_without_owner_and_actors_in_trouble_are_found() -> None:
    leaf = {"id": "reaper", "state": "backing_off", "last_error": "boom", "children": []}
    tree = {"id": "node", "state": "running", "last_error": None, "children": [leaf]}
    owned = {"topic": "orders", "partition": 0, "owner": "a"}
    found = of_cluster({"nodes": [1], "partitions": [owned, {**owned, "owner": None}], "tree": tree})
    assert states(found) == {"owners": "warning", "actors": "warning"}
    assert "node/reaper" in found[1].detail
    assert "boom" in found[1].detail


def test_claims_of_what_is_no_token_are_none() -> None:
    assert claims_of("a.eyJyb2xlIjoiYWRtaW4ifQ.c") == {"role": "admin"}
    for text in ("", "a", "a.b.c", "a.bnVsbA.c"):
        assert claims_of(text) == {}


def test_without_a_dry_run_of_the_node_old_and_new_are_known_and_counts_are_not_guessed() -> None:
    parts = [GroupPartition(0, "5-0", 1, 7), GroupPartition(1, "9-0", 0, 0), GroupPartition(2, "9-0", 0, None)]
    group = Group(topic="orders", group="g", pending=1, lag=None, partitions=parts)

    def seen(start: str, only: list[int] | None = None) -> list[tuple[Any, ...]]:
        found = work_out(group, {0: "12-0", 1: "9-0"}, start, only)
        return [(one.partition, one.from_id, one.to_id, one.replayed, one.skipped) for one in found.partitions]

    assert seen("$") == [(0, "5-0", "12-0", 0, 7), (1, "9-0", "9-0", 0, 0), (2, "9-0", "9-0", 0, None)]
    assert seen("0-0", [0]) == [(0, "5-0", "0-0", None, 0)]
    assert seen("10-0", [1]) == [(1, "9-0", "10-0", 0, None)]
    assert seen("9-0", [1]) == [(1, "9-0", "9-0", 0, 0)]

"""What people see: the shapes of API.md, JSON all the way, and never a wait."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from openstream_runtime.actors.sampler import Sampler
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.gateway.watching import human_bytes, stream_key
from openstream_runtime.ports.nodes import NodeInfo
from support.actors import Rig, event
from support.desk import open_desk

pytestmark = pytest.mark.anyio
AT = TopicPartition("orders", 0)


async def looked_around(rig: Rig) -> None:
    await Sampler(rig.world, lambda _: None).look()


async def test_the_summary_is_what_the_contract_says(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", [event(1), event(2)], partitions=1)
        await desk.gateway.produce("secret", [event(1)], partitions=1)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        await desk.read(count=1)
        rig.world.board.set_nodes([NodeInfo("a", "http://a", 1, "1.0")])
        await looked_around(rig)
        summary = json.loads(json.dumps(desk.gateway.summary(lambda name: name != "secret")))
    [topic] = summary["topics"]
    assert (topic["topic"], topic["partitions"]) == ("orders", 1)
    [stats] = topic["partition_stats"]
    assert set(stats) >= {"partition", "stream", "length", "last_id", "persisted_id", "unpersisted", "owner", "groups"}
    assert (stats["stream"], stats["length"], stats["unpersisted"]) == ("os:stream:orders:0", 2, 2)
    [group] = stats["groups"]
    assert set(group) >= {"name", "consumers", "pending", "lag", "last-delivered-id", "entries_read"}
    assert (group["name"], group["consumers"], group["pending"], group["lag"]) == ("g", 1, 1, 1)
    assert set(summary["redis"]) >= {"used_memory", "used_memory_human"}
    assert summary["redis"]["used_memory_human"] == "1.00M"
    assert [node["id"] for node in summary["nodes"]] == ["a"]
    assert summary["sampled_age_ms"] >= 0


async def test_before_the_first_sample_there_are_zeros_and_no_errors(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await rig.topic(partitions=2)
        summary = json.loads(json.dumps(desk.gateway.summary(lambda _: True)))
        assert [one["length"] for one in summary["topics"][0]["partition_stats"]] == [0, 0]
        assert summary["sampled_age_ms"] is None
        cluster = json.loads(json.dumps(desk.gateway.cluster()))
        assert [(one["owner"], one["epoch"]) for one in cluster["partitions"]] == [(None, None)] * 2


async def test_the_cluster_tells_owners_epochs_and_the_tree(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic = await rig.topic(partitions=3)
        await desk.gateway.produce("orders", [event(1)])
        await rig.store.events.take(topic.id, 1, "b")
        await rig.world.leases.acquire(TopicPartition("orders", 1), "b:1", 60_000)
        rig.world.board.held[AT] = 7
        await looked_around(rig)
        cluster = json.loads(json.dumps(desk.gateway.cluster()))
    assert [(one["owner"], one["epoch"]) for one in cluster["partitions"]] == [("a", 7), ("b", 1), (None, 0)]
    assert (cluster["node"], cluster["draining"]) == ("a", False)
    assert [child["id"] for child in cluster["tree"]["children"]] == ["tailer", "ingestion", "confirmer", "groups"]
    ingestor = cluster["tree"]["children"][1]["children"][0]
    assert ingestor["id"] == "orders"
    assert ingestor["details"]["accepted"] == 1


async def test_readiness_has_four_conditions(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        assert [(check.name, check.ok) for check in desk.gateway.readiness()] == [
            ("redis", False), ("postgres", False), ("member", False), ("not draining", True),
        ]  # fmt: skip
        rig.world.board.redis.answered()
        rig.world.board.postgres.answered()
        rig.world.board.set_nodes([rig.world.board.node])
        assert all(check.ok and not check.detail for check in desk.gateway.readiness())
        desk.gateway.begin_draining()
        assert [check.detail for check in desk.gateway.readiness() if not check.ok] == ["the node is draining"]


async def test_a_topic_that_is_being_deleted_is_not_shown(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic = await rig.topic()
        rig.world.board.add_topic(replace(topic, deleting=True))
        assert desk.gateway.summary(lambda _: True)["topics"] == []
        assert desk.gateway.cluster()["partitions"] == []


async def test_metrics_are_handed_through(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        assert desk.gateway.metrics("text/x")[0] == "text/x"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1.00K"), (3 << 19, "1.50M"), (5 << 30, "5.00G"), (2**60, "1048576.00T")],
)
def test_bytes_for_people(size: int, text: str) -> None:
    assert human_bytes(size) == text


def test_the_name_of_a_stream_is_the_one_people_know() -> None:
    assert stream_key(AT) == "os:stream:orders:0"

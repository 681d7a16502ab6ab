"""The claim-reaper: what nobody acks becomes available again, and consumers that are gone are forgotten."""

from __future__ import annotations

import anyio
import pytest

from openstream_runtime.actors import reaper as module
from openstream_runtime.actors.reaper import Reaper
from openstream_runtime.domain.names import RELEASED
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Topic
from support.actors import Rig, eventually, make_world, running

pytestmark = pytest.mark.anyio
AT = TopicPartition("orders", 0)


@pytest.fixture
def rig() -> Rig:
    return make_world(claim_idle_ms=10_000, consumer_idle_ms=60_000)


async def a_group(rig: Rig, *events: int) -> Topic:
    topic = await rig.topic()
    await rig.append(topic, *events)
    group, _ = await rig.store.catalog.create_group(topic, "g", "0-0")
    rig.world.board.add_group(group)
    await rig.world.groups.create(topic.name, "g", {0: "0-0"})
    return topic


def holders(rig: Rig) -> list[str]:
    group = rig.redis.group(AT, "g")
    assert group is not None
    return sorted(one.consumer for one in group.pending.values())


async def test_what_is_idle_too_long_is_released_and_the_bell_rings(rig: Rig) -> None:
    topic = await a_group(rig, 1, 2, 3)
    async with running(Reaper(rig.world, topic, AT)):
        await rig.world.groups.read(topic.name, "g", "slow", [0], count=2)
        began = anyio.current_time()
        await eventually(lambda: holders(rig) == [RELEASED, RELEASED], within=14)
        assert anyio.current_time() - began >= 10
        assert rig.redis.bells == ["group:orders:g:0"]
        found = await rig.world.groups.read(topic.name, "g", "next", [0], count=3)
        assert [one.deliveries for one in found.deliveries] == [
            2,
            2,
            1,
        ]  # released ones first, and they were handed out
    assert rig.meter.of("released") == [("orders", "g", 2)]


async def test_much_is_released_in_steps_and_all_of_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    topic = await a_group(rig, *range(35))
    await rig.world.groups.read(topic.name, "g", "slow", [0], count=100)
    async with running(Reaper(rig.world, topic, AT)):
        await eventually(lambda: holders(rig) == [RELEASED] * 35, within=15)
    assert [events for *_, events in rig.meter.of("released")] == [10, 10, 10, 5]


async def test_consumers_long_idle_with_nothing_pending_are_removed(rig: Rig) -> None:
    topic = await a_group(rig, 1)
    group = rig.redis.group(AT, "g")
    assert group is not None
    async with running(Reaper(rig.world, topic, AT)):
        await anyio.sleep(20)
        found = await rig.world.groups.read(topic.name, "g", "gone", [0], count=1)
        await rig.world.groups.ack(topic.name, "g", {0: [one.event.position for one in found.deliveries]})
        assert "gone" in group.consumers
        await anyio.sleep(30)
        assert "gone" in group.consumers
        await eventually(lambda: "gone" not in group.consumers, within=45)


async def test_with_redis_away_it_waits_and_does_not_spin(rig: Rig) -> None:
    topic = await a_group(rig, 1)
    async with running(Reaper(rig.world, topic, AT)):
        await rig.world.groups.read(topic.name, "g", "slow", [0], count=2)
        rig.redis.unavailable = True
        before = rig.redis.calls.total()
        await anyio.sleep(120)
        assert rig.redis.calls.total() - before < 60
        rig.redis.unavailable = False
        await eventually(lambda: holders(rig) == [RELEASED], within=20)


async def test_groups_of_another_topic_are_left_alone(rig: Rig) -> None:
    topic = await a_group(rig, 1)
    await rig.world.groups.read(topic.name, "g", "slow", [0], count=1)
    async with running(Reaper(rig.world, Topic(topic.id + 1, "orders", 1), AT)):
        await anyio.sleep(60)
    assert holders(rig) == ["slow"]


@pytest.mark.parametrize(("idle_ms", "period"), [(100, 0.25), (10_000, 2.5), (10**9, 15.0)])
def test_it_looks_four_times_an_idle_limit_within_reason(idle_ms: int, period: float) -> None:
    rig = make_world(claim_idle_ms=idle_ms)
    assert Reaper(rig.world, Topic(1, "orders", 1), AT).period == period
    assert Reaper.spec(rig.world, Topic(1, "orders", 1), AT).id == "reaper"

"""The auditor: what a Redis lost is counted once, to the event, and nothing is that was not lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from openstream_runtime.actors.auditor import Auditor
from openstream_runtime.actors.sampler import Sampler
from openstream_runtime.actors.verifying import verify
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.log import AppendBatch, Appended
from supervisors import ChildSpec
from support.actors import Rig, event, eventually, make_world, supervised
from support.persisting import pass_time, persisting

pytestmark = pytest.mark.anyio
AT = TopicPartition("orders", 0)


@pytest.fixture
def rig() -> Rig:
    return make_world()


async def acknowledged(rig: Rig, topic: Topic, *payloads: int) -> list[Position]:
    """Appended, and told to a producer of this node, as its ingestor does."""
    began = rig.world.clock.monotonic()
    positions = await rig.append(topic, *payloads)
    rig.world.acknowledged.add(AT, topic.id, positions)
    rig.world.board.heights.saw(AT, positions[-1], began)
    return positions


@asynccontextmanager
async def auditing(*rigs: Rig) -> AsyncIterator[None]:
    specs = [
        ChildSpec(id=f"{rig.world.board.node.id}/{spec.id}", actor=spec.actor, grace=1.0)
        for rig in rigs
        for spec in (Sampler.spec(rig.world, lambda _: None), Auditor.spec(rig.world))
    ]
    async with supervised(*specs):
        yield


async def test_what_was_lost_is_counted_and_named(rig: Rig) -> None:
    topic = await rig.topic()
    positions = await acknowledged(rig, topic, *range(10))
    with capture_logs() as logs:
        async with auditing(rig):
            await pass_time(5)
            rig.redis.lose_tail(AT, 4)
            async with persisting(rig, topic):
                await eventually(lambda: rig.meter.of("lost_tail") == [("orders", 0, 4)])
                await pass_time(60)
    assert rig.meter.of("lost_tail") == [("orders", 0, 4)]
    [line] = [one for one in logs if one["log_level"] == "error"]
    assert (line["partition"], line["events"]) == ("orders/0", 4)
    assert (line["first"], line["last"]) == (str(positions[6]), str(positions[9]))
    assert line["ids"] == [f"{positions[6]}..{positions[9]}"]
    assert rig.stored(topic) == [str(number) for number in range(6)]


async def test_each_node_counts_what_it_had_acknowledged_itself(rig: Rig) -> None:
    topic, other = await rig.topic(), rig.node("b")
    other.world.board.add_topic(topic)
    await acknowledged(rig, topic, 1, 2)
    await acknowledged(other, topic, 3)
    async with auditing(rig, other):
        await pass_time(5)
        rig.redis.lose_tail(AT, 2)
        async with persisting(other, topic):
            await pass_time(30)
    assert rig.meter.of("lost_tail") == [("orders", 0, 1)]
    assert other.meter.of("lost_tail") == [("orders", 0, 1)]


async def test_an_owner_that_nobody_disturbs_notices_the_failover_by_itself(rig: Rig) -> None:
    topic = await rig.topic()
    async with auditing(rig), persisting(rig, topic):
        await acknowledged(rig, topic, 1)
        await eventually(lambda: rig.stored(topic) == ["1"])
        rig.store.trouble.unavailable = True
        [outcome] = await rig.world.log.append([AppendBatch(topic, 0, [event(2)], 10**9, 10**9)])
        assert isinstance(outcome, Appended)
        rig.world.acknowledged.add(AT, topic.id, outcome.positions)
        await pass_time(3)
        rig.redis.lose_tail(AT, 1)
        rig.store.trouble.unavailable = False
        await eventually(lambda: rig.meter.of("lost_tail") == [("orders", 0, 1)])
        [after] = await acknowledged(rig, topic, 3)
        assert after > outcome.positions[0]
        await eventually(lambda: rig.stored(topic) == ["1", "3"])
        await pass_time(60)
    assert rig.meter.of("lost_tail") == [("orders", 0, 1)]


async def test_a_redis_that_was_emptied_before_anything_was_persisted_lost_all_of_it(rig: Rig) -> None:
    topic = await rig.topic()
    await acknowledged(rig, topic, 1, 2, 3)
    async with auditing(rig):
        await pass_time(5)
        rig.redis.flush()
        async with persisting(rig, topic):
            await acknowledged(rig, topic, 4)
            await eventually(lambda: rig.meter.of("lost_tail") == [("orders", 0, 3)])
            await pass_time(60)
    assert rig.meter.of("lost_tail") == [("orders", 0, 3)]


async def test_a_restart_that_lost_nothing_is_not_said_to_have(rig: Rig) -> None:
    topic = await rig.topic()
    async with auditing(rig), persisting(rig, topic):
        for round_ in range(5):
            await acknowledged(rig, topic, 10 * round_, 10 * round_ + 1)
            rig.redis.restart()
            await acknowledged(rig, topic, 10 * round_ + 2)
            await pass_time(7)
        await eventually(lambda: len(rig.stored(topic)) == 15)
        await pass_time(60)
    assert rig.meter.of("lost_tail") == []
    assert len(rig.world.acknowledged.tails[AT]) == 0


async def test_what_redis_lost_and_postgresql_has_is_not_lost(rig: Rig) -> None:
    topic = await rig.topic()
    async with auditing(rig), persisting(rig, topic):
        await acknowledged(rig, topic, 1, 2, 3)
        await eventually(lambda: len(rig.stored(topic)) == 3)
        rig.redis.lose_tail(AT, 3)
        await acknowledged(rig, topic, 4)
        await pass_time(60)
    assert rig.meter.of("lost_tail") == []
    assert rig.stored(topic) == ["1", "2", "3", "4"]


async def test_while_postgresql_is_away_nothing_is_claimed_and_afterwards_the_truth(rig: Rig) -> None:
    topic = await rig.topic()
    await acknowledged(rig, topic, *range(6))
    async with auditing(rig), persisting(rig, topic):
        rig.store.trouble.unavailable = True
        await pass_time(5)
        rig.redis.lose_tail(AT, 2)
        await pass_time(60)
        assert rig.meter.of("lost_tail") == []
        rig.store.trouble.unavailable = False
        await pass_time(60)
    stored = len(rig.stored(topic))
    assert sum(lost for _, _, lost in rig.meter.of("lost_tail")) == 6 - stored
    assert stored in (4, 6)  # the first commit may have been faster than the trouble


async def test_a_topic_that_was_deleted_has_lost_nothing(rig: Rig) -> None:
    topic = await rig.topic()
    await acknowledged(rig, topic, 1, 2)
    await rig.store.catalog.begin_delete("orders")
    async with auditing(rig):
        await pass_time(5)
        rig.redis.lose_tail(AT, 2)
        rig.world.board.set_catalog([], [])
        await pass_time(30)
    assert rig.meter.of("lost_tail") == []
    assert rig.world.acknowledged.tails == {}


async def test_an_id_that_was_acknowledged_and_lost_names_no_other_event_whatever_the_clocks_say(rig: Rig) -> None:
    topic = await rig.topic()
    lost = await acknowledged(rig, topic, 1, 2)
    rig.redis.lose_tail(AT, 2)
    rig.redis.skew_ms = -30_000  # of the new primary, and of this node
    assert await verify(rig.world, topic, 0)
    [outcome] = await rig.world.log.append([AppendBatch(topic, 0, [event(3)], 10**9, 10**9)])
    assert isinstance(outcome, Appended)
    assert outcome.positions[0] > lost[-1]


async def test_ids_of_a_new_primary_stand_above_those_an_old_one_gives_out_for_a_while(rig: Rig) -> None:
    topic = await rig.topic()
    await acknowledged(rig, topic, 1)
    rig.redis.restart()
    assert await verify(rig.world, topic, 0)
    still_given_out = rig.redis.now_ms() + 4_000
    [outcome] = await rig.world.log.append([AppendBatch(topic, 0, [event(2)], 10**9, 10**9)])
    assert isinstance(outcome, Appended)
    assert outcome.positions[0].ms > still_given_out

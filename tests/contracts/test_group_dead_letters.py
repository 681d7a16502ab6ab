"""What every GroupLog does with what is given back for later, kept for longer, or given up, in memory as on Redis."""

from __future__ import annotations

import pytest

from openstream_runtime.domain.events import Delivery
from openstream_runtime.domain.names import DEAD
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.groups import GroupRead
from openstream_runtime.ports.redelivery import GivenBack, ReleasedIdle
from support.log_harness import Log, appended, at, events, eventually, new_topic, verified

pytestmark = pytest.mark.anyio
HOUR_MS = 3_600_000


async def a_group(log: Log, count: int, *, partitions: int = 1) -> tuple[Topic, list[Position]]:
    topic = await verified(log, partitions)
    positions = await appended(log, topic, events(count))
    await log.groups.create(topic.name, "g", dict.fromkeys(range(partitions), "0-0"))
    return topic, positions


async def read(log: Log, topic: Topic, consumer: str = "a", *, most: int | None = None, count: int = 1000) -> GroupRead:
    return await log.groups.read(topic.name, "g", consumer, [0], count=count, max_deliveries=most)


def told(found: GroupRead) -> list[tuple[Position, int]]:
    return [(one.event.position, one.deliveries) for one in found.deliveries]


async def trim(log: Log, topic: Topic, below: Position, persisted: Position) -> None:
    assert await log.leases.acquire(at(topic), "owner:1", 60_000)
    await log.events.mark_persisted(at(topic), "owner:1", persisted, count=None, trim_below=below)


# ---- nack


async def test_what_is_nacked_is_handed_out_again_and_counted(log: Log) -> None:
    topic, positions = await a_group(log, 4)
    await read(log, topic)
    done = await log.groups.nack(topic.name, "g", {0: positions[1:3]})
    assert done == GivenBack(2, 0)
    assert told(await read(log, topic, "b")) == [(positions[1], 2), (positions[2], 2)]


async def test_only_what_somebody_holds_is_nacked(log: Log) -> None:
    topic, positions = await a_group(log, 4)
    await read(log, topic, "a", count=2)
    await log.groups.ack(topic.name, "g", {0: positions[:1]})
    nothing = GivenBack(0, 0)
    assert await log.groups.nack(topic.name, "g", {0: positions[1:]}, consumer="b") == nothing
    assert await log.groups.nack(topic.name, "g", {0: positions, 7: positions}, consumer="a") == GivenBack(1, 0)
    assert await log.groups.nack(topic.name, "g", {0: positions}) == nothing  # it waits already
    assert await log.groups.nack(topic.name, "nobody", {0: positions}) == nothing
    assert await log.groups.nack(new_topic().name, "g", {0: positions}) == nothing


async def test_a_delayed_event_waits_for_its_time_and_the_read_says_how_long(log: Log) -> None:
    topic, positions = await a_group(log, 3)
    await read(log, topic)
    await log.groups.nack(topic.name, "g", {0: positions[:1]}, delay_ms=HOUR_MS)
    await log.groups.nack(topic.name, "g", {0: positions[1:2]}, delay_ms=HOUR_MS // 2)
    found = await read(log, topic)
    assert told(found) == []
    assert found.due_ms is not None
    assert HOUR_MS // 2 - 60_000 < found.due_ms <= HOUR_MS // 2
    # Neither a claim nor the reaper takes it before its time.
    assert told(await log.groups.claim(topic.name, "g", "b", [0], min_idle_ms=0, count=9)) == [(positions[2], 2)]
    assert await log.groups.release_idle(topic.name, "g", 0, min_idle_ms=0, count=9) == ReleasedIdle(1, 0, 0)
    assert told(await read(log, topic)) == [(positions[2], 3)]


async def test_when_the_delay_is_over_it_comes_once(log: Log) -> None:
    topic, positions = await a_group(log, 2)
    await read(log, topic)
    await log.groups.nack(topic.name, "g", {0: positions}, delay_ms=30)
    came: list[Delivery] = []

    async def look() -> int:
        came.extend((await read(log, topic, "b", count=1)).deliveries)
        return len(came)

    await eventually(look, lambda count: count == 2)
    assert [(one.event.position, one.deliveries) for one in came] == [(one, 2) for one in positions]
    assert told(await read(log, topic, "b")) == []
    assert (await read(log, topic, "b")).due_ms is None


async def test_a_delayed_event_can_be_acked_and_then_never_comes(log: Log) -> None:
    topic, positions = await a_group(log, 1)
    await read(log, topic)
    await log.groups.nack(topic.name, "g", {0: positions}, delay_ms=20)
    assert await log.groups.ack(topic.name, "g", {0: positions}) == 1
    await eventually(lambda: read(log, topic), lambda found: found.due_ms is None)
    assert told(await read(log, topic)) == []


async def test_a_delay_survives_the_trim_and_comes_as_a_stub(log: Log) -> None:
    topic, positions = await a_group(log, 3)
    await read(log, topic)
    await log.groups.nack(topic.name, "g", {0: positions[:2]}, delay_ms=50)
    await trim(log, topic, positions[2], positions[2])
    found = await eventually(lambda: read(log, topic, "b"), lambda one: bool(one.stubs))
    assert [(one.position, one.deliveries) for one in found.stubs] == [(positions[0], 2), (positions[1], 2)]


async def test_a_reset_forgets_delays_and_the_dead(log: Log) -> None:
    topic, positions = await a_group(log, 3)
    await read(log, topic)
    await log.groups.nack(topic.name, "g", {0: positions[:1]}, delay_ms=10)
    await log.groups.nack(topic.name, "g", {0: positions[1:2]}, max_deliveries=1)
    assert (await log.groups.set_position(topic.name, "g", {0: "0-0"})).dropped == 3
    assert await log.groups.dead(topic.name, "g", 0, count=9) == []
    found = await read(log, topic)
    assert (told(found), found.due_ms) == ([(one, 1) for one in positions], None)


# ---- extend


async def test_extending_starts_the_idle_time_anew_and_tells_what_is_lost(log: Log) -> None:
    topic, positions = await a_group(log, 4)
    await read(log, topic, "a", count=2)
    await read(log, topic, "b", count=1)
    await eventually(lambda: log.groups.describe(topic.name, "g", [0]), lambda d: d[0].consumers[0].idle_ms >= 60)
    lost = await log.groups.extend(topic.name, "g", "a", {0: positions, 3: positions[:1]})
    assert lost == {0: positions[2:], 3: positions[:1]}
    claimed = await log.groups.claim(topic.name, "g", "c", [0], min_idle_ms=55, count=9)
    assert told(claimed) == [(positions[2], 2)]
    assert await log.groups.extend(topic.name, "g", "c", {0: positions}) == {0: [*positions[:2], positions[3]]}
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert described.pending == 3


async def test_extending_does_not_count_as_a_delivery_and_works_on_stubs(log: Log) -> None:
    topic, positions = await a_group(log, 2)
    await read(log, topic)
    await trim(log, topic, positions[1], positions[1])
    assert await log.groups.extend(topic.name, "g", "a", {0: positions}) == {}
    await log.groups.nack(topic.name, "g", {0: positions})
    found = await read(log, topic, "b")
    assert [one.deliveries for one in found.stubs] == [2]
    assert told(found) == [(positions[1], 2)]
    assert await log.groups.extend(topic.name, "nobody", "a", {0: positions}) == {0: positions}


# ---- dead


async def test_the_last_delivery_given_back_is_dead_in_the_order_of_dying(log: Log) -> None:
    topic, positions = await a_group(log, 3)
    for consumer in ("a", "b"):
        await read(log, topic, consumer, most=2)
        if consumer == "a":
            assert await log.groups.nack(topic.name, "g", {0: positions}, max_deliveries=2) == GivenBack(3, 0)
    assert await log.groups.nack(topic.name, "g", {0: positions[2:]}, max_deliveries=2) == GivenBack(0, 1)
    assert await log.groups.nack(topic.name, "g", {0: positions[:1]}, delay_ms=99, max_deliveries=2) == GivenBack(0, 1)
    dead = await log.groups.dead(topic.name, "g", 0, count=9)
    assert [(one.position, one.deliveries, one.consumer, one.reason, one.held) for one in dead] == [
        (positions[2], 2, "b", "nacked", True),
        (positions[0], 2, "b", "nacked", True),
    ]
    assert [one.event.position for one in dead if one.event] == [positions[2], positions[0]]
    assert dead[0].queued < dead[1].queued
    assert (await log.groups.dead(topic.name, "g", 0, count=1)) == dead[:1]
    assert told(await read(log, topic, "c", most=2)) == []
    assert told(await log.groups.claim(topic.name, "g", "c", [0], min_idle_ms=HOUR_MS, count=9, max_deliveries=2)) == []


async def test_what_is_idle_at_its_last_delivery_dies_by_the_reaper(log: Log) -> None:
    topic, positions = await a_group(log, 3)
    await read(log, topic, "a", count=2)
    name = topic.name
    assert await log.groups.release_idle(name, "g", 0, min_idle_ms=0, count=9, max_deliveries=2) == ReleasedIdle(
        2, 0, 0
    )
    await read(log, topic, "b", most=2)
    assert await log.groups.release_idle(name, "g", 0, min_idle_ms=0, count=9, max_deliveries=2) == ReleasedIdle(
        1, 2, 2
    )
    assert await log.groups.release_idle(name, "g", 0, min_idle_ms=0, count=9, max_deliveries=2) == ReleasedIdle(
        0, 0, 2
    )
    dead = await log.groups.dead(name, "g", 0, count=9)
    assert [(one.position, one.consumer, one.reason) for one in dead] == [
        (positions[0], "b", "timed_out"),
        (positions[1], "b", "timed_out"),
    ]


async def test_neither_a_read_nor_a_claim_hands_out_more_often_than_allowed(log: Log) -> None:
    topic, positions = await a_group(log, 2)
    await read(log, topic)
    await log.groups.nack(topic.name, "g", {0: positions[:1]})  # and then the limit is lowered
    assert told(await read(log, topic, "b", most=1)) == []
    claimed = await log.groups.claim(topic.name, "g", "b", [0], min_idle_ms=0, count=9, max_deliveries=1)
    assert told(claimed) == []
    dead = await log.groups.dead(topic.name, "g", 0, count=9)
    assert [one.position for one in dead] == positions
    assert dead[1].consumer == "a"


async def test_what_never_arrived_is_not_what_kills_an_event(log: Log) -> None:
    topic, positions = await a_group(log, 1)
    for _ in range(3):
        assert told(await read(log, topic, most=1)) == [(positions[0], 1)]
        await log.groups.release(topic.name, "g", "a", {0: positions}, undelivered=True)


async def test_burying_acks_what_is_dead_once_and_nothing_else(log: Log) -> None:
    topic, positions = await a_group(log, 3)
    await read(log, topic)
    await log.groups.nack(topic.name, "g", {0: positions[:2]}, max_deliveries=1)
    dead = await log.groups.dead(topic.name, "g", 0, count=9)
    assert await log.groups.bury(topic.name, "g", 0, dead[:1]) == 1
    assert await log.groups.bury(topic.name, "g", 0, dead[:1]) == 0
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert described.pending == 2
    assert await log.groups.dead(topic.name, "g", 0, count=9) == dead[1:]
    # A reset gives it to somebody else: who comes too late with his shovel takes nothing away.
    await log.groups.set_position(topic.name, "g", {0: "0-0"})
    await read(log, topic, "b")
    assert await log.groups.bury(topic.name, "g", 0, dead) == 0
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert described.pending == 3


async def test_the_dead_are_never_numbered_twice(log: Log) -> None:
    topic, positions = await a_group(log, 4)
    seen: list[Position] = []
    for position in positions:
        await read(log, topic, count=1)
        await log.groups.nack(topic.name, "g", {0: [position]}, max_deliveries=1)
        dead = await log.groups.dead(topic.name, "g", 0, count=9)
        seen += [one.queued for one in dead]
        await log.groups.bury(topic.name, "g", 0, dead)
    await log.groups.set_position(topic.name, "g", {0: "0-0"})
    await read(log, topic)
    await log.groups.nack(topic.name, "g", {0: positions}, max_deliveries=1)
    seen += [one.queued for one in await log.groups.dead(topic.name, "g", 0, count=9)]
    assert len(seen) == len(set(seen)) == 8
    assert seen == sorted(seen)


async def test_who_acks_the_dead_in_time_is_heard(log: Log) -> None:
    topic, positions = await a_group(log, 1)
    await read(log, topic)
    await log.groups.nack(topic.name, "g", {0: positions}, max_deliveries=1)
    assert await log.groups.ack(topic.name, "g", {0: positions}) == 1
    [dead] = await log.groups.dead(topic.name, "g", 0, count=9)
    assert (dead.held, dead.event) == (False, None)
    assert await log.groups.bury(topic.name, "g", 0, [dead]) == 1


async def test_dead_events_that_are_trimmed_stay_dead_and_pending(log: Log) -> None:
    topic, positions = await a_group(log, 3)
    await read(log, topic)
    await log.groups.nack(topic.name, "g", {0: positions[:1]}, max_deliveries=1)
    await trim(log, topic, positions[2], positions[2])
    await log.groups.nack(topic.name, "g", {0: positions[1:2]}, max_deliveries=1)
    dead = await log.groups.dead(topic.name, "g", 0, count=9)
    assert [(one.position, one.held, one.event) for one in dead] == [(one, True, None) for one in positions[:2]]
    [low] = await log.groups.lows([at(topic)])
    assert low["g"].position < positions[0]
    assert await log.groups.bury(topic.name, "g", 0, dead) == 2
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert described.pending == 1
    await log.groups.ack(topic.name, "g", {0: positions[2:]})
    [low] = await log.groups.lows([at(topic)])
    assert low["g"].position == positions[2]


async def test_nobody_sees_the_consumers_that_are_ours(log: Log) -> None:
    topic, positions = await a_group(log, 3)
    await read(log, topic)
    await log.groups.nack(topic.name, "g", {0: positions[:1]}, max_deliveries=1)
    await log.groups.nack(topic.name, "g", {0: positions[1:2]}, delay_ms=HOUR_MS)
    await log.groups.nack(topic.name, "g", {0: positions[2:]})
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert ([one.name for one in described.consumers], described.pending) == (["a"], 3)
    [stats] = await log.events.stats([at(topic)])
    assert [one.consumers for one in stats.groups] == [1]
    assert await log.groups.remove_idle_consumers(topic.name, "g", 0, min_idle_ms=0) == 1
    assert await log.groups.extend(topic.name, "g", DEAD, {}) == {}


async def test_a_deleted_group_leaves_nothing_to_the_next_of_its_name(log: Log) -> None:
    topic, positions = await a_group(log, 2)
    await read(log, topic)
    await log.groups.nack(topic.name, "g", {0: positions[:1]}, max_deliveries=1)
    await log.groups.nack(topic.name, "g", {0: positions[1:]}, delay_ms=10)
    await log.groups.delete(topic.name, "g", [0])
    assert await log.groups.dead(topic.name, "g", 0, count=9) == []
    await log.groups.create(topic.name, "g", {0: "0-0"})
    found = await read(log, topic)
    assert (told(found), found.due_ms) == ([(one, 1) for one in positions], None)
    assert await log.groups.dead(topic.name, "g", 0, count=9) == []

"""What every GroupLog does with what was handed out and not acked, in memory as on Redis."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from openstream_runtime.domain.events import Delivery
from openstream_runtime.domain.positions import Position
from openstream_runtime.ports.groups import GroupRead
from support.log_harness import Log, appended, event, events, eventually, new_topic, verified

pytestmark = pytest.mark.anyio


def handed(deliveries: Sequence[Delivery]) -> list[tuple[int, Position, int]]:
    return [(one.partition, one.event.position, one.deliveries) for one in deliveries]


async def read(log: Log, topic: str, consumer: str, *partitions: int, count: int = 1000) -> GroupRead:
    return await log.groups.read(topic, "g", consumer, partitions or [0], count=count)


async def test_released_events_are_served_first_and_counted_again(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(6))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    await read(log, topic.name, "a", count=4)
    assert await log.groups.release(topic.name, "g", "a", {0: positions[1:3]}, undelivered=False) == 2
    found = await read(log, topic.name, "b", count=3)
    assert handed(found.deliveries) == [(0, positions[1], 2), (0, positions[2], 2), (0, positions[4], 1)]
    assert await log.groups.release(topic.name, "g", "b", {0: positions[1:3]}, undelivered=False) == 2
    assert handed((await read(log, topic.name, "a", count=1)).deliveries) == [(0, positions[1], 3)]


async def test_what_never_arrived_counts_the_next_time_as_it_would_have(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(2))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    for _ in range(3):
        found = await read(log, topic.name, "a")
        assert handed(found.deliveries) == [(0, one, 1) for one in positions]
        assert await log.groups.release(topic.name, "g", "a", {0: positions}, undelivered=True) == 2
    await read(log, topic.name, "a")
    await log.groups.release(topic.name, "g", "a", {0: positions}, undelivered=False)
    for _ in range(2):
        assert handed((await read(log, topic.name, "b")).deliveries) == [(0, one, 2) for one in positions]
        await log.groups.release(topic.name, "g", "b", {0: positions}, undelivered=True)


async def test_only_what_a_consumer_still_holds_can_be_released(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(3))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    await read(log, topic.name, "a")
    await log.groups.ack(topic.name, "g", {0: positions[:1]})
    assert await log.groups.release(topic.name, "g", "b", {0: positions}, undelivered=False) == 0
    assert await log.groups.release(topic.name, "g", "a", {0: positions, 1: positions}, undelivered=False) == 2
    assert await log.groups.release(topic.name, "g", "a", {0: positions}, undelivered=False) == 0
    assert await log.groups.release(topic.name, "nobody", "a", {0: positions}, undelivered=False) == 0


async def test_claiming_takes_released_events_at_once_and_pending_ones_when_idle_long_enough(log: Log) -> None:
    topic = await verified(log, 2)
    positions = await appended(log, topic, events(150))
    await log.groups.create(topic.name, "g", {0: "0-0", 1: "0-0"})
    await read(log, topic.name, "a")
    await log.groups.release(topic.name, "g", "a", {0: positions[100:102]}, undelivered=False)
    claimed = await log.groups.claim(topic.name, "g", "b", [1, 0], min_idle_ms=3_600_000, count=500)
    assert handed(claimed.deliveries) == [(0, positions[100], 2), (0, positions[101], 2)]
    claimed = await log.groups.claim(topic.name, "g", "c", [0, 1], min_idle_ms=0, count=120)
    assert handed(claimed.deliveries) == [(0, one, 3 if one in positions[100:102] else 2) for one in positions[:120]]
    assert claimed.tails == {}
    [mine] = (await log.groups.claim(topic.name, "g", "c", [0], min_idle_ms=0, count=1)).deliveries
    assert handed([mine]) == [(0, positions[0], 3)]


async def test_claiming_waits_for_the_idle_time(log: Log) -> None:
    topic = await verified(log)
    [position] = await appended(log, topic, events(1))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    await read(log, topic.name, "a")

    async def claim() -> GroupRead:
        return await log.groups.claim(topic.name, "g", "b", [0], min_idle_ms=50, count=9)

    claimed = await eventually(claim, lambda found: bool(found.deliveries))
    assert handed(claimed.deliveries) == [(0, position, 2)]


async def test_claiming_stops_near_the_bytes_asked_for(log: Log) -> None:
    topic = await verified(log)
    await appended(log, topic, [event(payload=b'"' + b"x" * 100_000 + b'"') for _ in range(40)])
    await log.groups.create(topic.name, "g", {0: "0-0"})
    await read(log, topic.name, "a")
    claimed = await log.groups.claim(topic.name, "g", "b", [0], min_idle_ms=0, count=100, max_bytes=1_000_000)
    assert 8 <= len(claimed.deliveries) <= 20


async def test_idle_events_are_released_whoever_holds_them_but_never_twice(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(2100))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    await read(log, topic.name, "a", count=2000)
    await read(log, topic.name, "b", count=1000)
    name = topic.name
    assert (await log.groups.release_idle(name, "g", 0, min_idle_ms=3_600_000, count=9999)).again == 0
    assert (await log.groups.release_idle(name, "g", 0, min_idle_ms=0, count=1500)).again == 1500
    assert (await log.groups.release_idle(name, "g", 0, min_idle_ms=0, count=9999)).again == 600
    assert (await log.groups.release_idle(name, "g", 0, min_idle_ms=0, count=9999)).again == 0
    assert (await log.groups.release_idle(name, "nobody", 0, min_idle_ms=0, count=9)).again == 0
    assert (await log.groups.release_idle(new_topic().name, "g", 0, min_idle_ms=0, count=9)).again == 0
    found = await read(log, name, "c", count=3000)
    assert handed(found.deliveries) == [(0, one, 2) for one in positions]


async def test_consumers_are_removed_when_idle_and_empty_and_never_with_something_pending(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(3))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    await read(log, topic.name, "holds", count=1)
    await read(log, topic.name, "done", count=1)
    await log.groups.ack(topic.name, "g", {0: positions[1:2]})
    await read(log, topic.name, "gave-back", count=1)
    await log.groups.release(topic.name, "g", "gave-back", {0: positions[2:]}, undelivered=False)
    name = topic.name
    assert await log.groups.remove_idle_consumers(name, "g", 0, min_idle_ms=3_600_000) == 0
    assert await log.groups.remove_idle_consumers(name, "g", 0, min_idle_ms=0) == 2
    [described] = await log.groups.describe(name, "g", [0])
    assert [(one.name, one.pending) for one in described.consumers] == [("holds", 1)]
    assert described.pending == 2
    assert handed((await read(log, name, "new")).deliveries) == [(0, positions[2], 2)]
    assert await log.groups.remove_idle_consumers(name, "nobody", 0, min_idle_ms=0) == 0
    assert await log.groups.remove_idle_consumers(new_topic().name, "g", 0, min_idle_ms=0) == 0


async def test_a_claim_hands_out_once_what_was_released_however_short_the_idle_time(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(6))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    await read(log, topic.name, "a")
    await log.groups.release(topic.name, "g", "a", {0: positions[:3]}, undelivered=False)
    claimed = await log.groups.claim(topic.name, "g", "b", [0], min_idle_ms=0, count=99)
    assert handed(claimed.deliveries) == [(0, one, 2) for one in positions]

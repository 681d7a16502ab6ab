"""What every GroupLog does, in memory as on Redis."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from openstream_runtime.domain.events import Delivery
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.ports.groups import GroupPartition, GroupRead, Placed
from support.log_harness import Log, appended, cursor, event, events, eventually, new_topic, verified

pytestmark = pytest.mark.anyio


def handed(deliveries: Sequence[Delivery]) -> list[tuple[int, Position, int]]:
    return [(one.partition, one.event.position, one.deliveries) for one in deliveries]


async def read(log: Log, topic: str, consumer: str, *partitions: int, count: int = 1000) -> GroupRead:
    return await log.groups.read(topic, "g", consumer, partitions or [0], count=count)


async def test_a_group_is_created_once_on_each_partition(log: Log) -> None:
    topic = await verified(log, 3)
    [end] = await appended(log, topic, events(1), 1)
    assert await log.groups.create(topic.name, "g", {0: "0-0", 1: "$"}) == Placed({0: ZERO, 1: end})
    again = await log.groups.create(topic.name, "g", {0: "0-0", 1: "$", 2: "5-7"})
    assert again == Placed({2: Position(5, 7)})
    assert await log.groups.create(topic.name, "g", {}) == Placed()
    described = await log.groups.describe(topic.name, "g", [2])
    assert described[0].last_delivered == Position(5, 7)


async def test_a_group_is_put_nowhere_where_nobody_has_verified_the_partition(log: Log) -> None:
    topic = new_topic(2)
    await log.events.verify(topic, 1, cursor())
    for put in (log.groups.create, log.groups.set_position):
        assert list((await put(topic.name, "g", {0: "$", 1: "0-0"})).unverified) == [0]
    assert list((await read(log, topic.name, "c", 0, 1)).missing) == [0]


async def test_a_group_reads_from_where_it_was_created(log: Log) -> None:
    topic = await verified(log, 3)
    positions = [await appended(log, topic, events(3), partition) for partition in range(3)]
    await log.groups.create(topic.name, "g", {0: "0-0", 1: "$", 2: str(positions[2][1])})
    found = await read(log, topic.name, "c", 0, 1, 2)
    assert handed(found.deliveries) == [(0, one, 1) for one in positions[0]] + [(2, positions[2][2], 1)]
    [later] = await appended(log, topic, events(1), 1)
    assert handed((await read(log, topic.name, "c", 0, 1, 2)).deliveries) == [(1, later, 1)]


async def test_partitions_are_served_in_the_order_given_up_to_the_count(log: Log) -> None:
    topic = await verified(log, 3)
    positions = [await appended(log, topic, events(150), partition) for partition in range(3)]
    await log.groups.create(topic.name, "g", dict.fromkeys(range(3), "0-0"))
    found = await read(log, topic.name, "c", 2, 0, 1, count=200)
    assert handed(found.deliveries) == [(2, one, 1) for one in positions[2]] + [
        (0, one, 1) for one in positions[0][:50]
    ]
    rest = await read(log, topic.name, "c", 2, 0, 1, count=1000)
    assert handed(rest.deliveries) == [(0, one, 1) for one in positions[0][50:]] + [(1, one, 1) for one in positions[1]]


async def test_an_event_is_handed_out_whole(log: Log) -> None:
    topic = await verified(log)
    sent = event(payload=bytes(range(256)), partition_key="k", headers=b'{"a":"b"}', timestamp_ms=42)
    [position] = await appended(log, topic, [sent])
    await log.groups.create(topic.name, "g", {0: "0-0"})
    [one] = (await read(log, topic.name, "c")).deliveries
    got = one.event
    assert (got.position, got.event_type, got.partition_key, got.payload) == (position, "test", "k", sent.payload)
    assert (got.timestamp_ms, got.headers) == (42, b'{"a":"b"}')


async def test_a_read_stops_near_the_bytes_asked_for(log: Log) -> None:
    topic = await verified(log)
    big = b'"' + b"x" * 100_000 + b'"'
    positions = await appended(log, topic, [event(payload=big) for _ in range(100)])
    await log.groups.create(topic.name, "g", {0: "0-0"})
    first = await log.groups.read(topic.name, "g", "c", [0], count=100, max_bytes=1)
    assert 1 <= len(first.deliveries) <= 8
    found = await log.groups.read(topic.name, "g", "c", [0], count=100, max_bytes=2_000_000)
    assert 15 <= len(found.deliveries) <= 30
    begin = len(first.deliveries)
    assert [one.event.position for one in found.deliveries] == positions[begin : begin + len(found.deliveries)]


async def test_each_event_reaches_one_consumer(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(10))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    first = await read(log, topic.name, "a", count=4)
    second = await read(log, topic.name, "b", count=100)
    assert [one.event.position for one in [*first.deliveries, *second.deliveries]] == positions


async def test_a_read_that_finds_nothing_says_after_what_to_wait(log: Log) -> None:
    topic = await verified(log, 2)
    positions = await appended(log, topic, events(3))
    await log.groups.create(topic.name, "g", {0: "0-0", 1: "$"})
    found = await read(log, topic.name, "c", 0, 1)
    assert (len(found.deliveries), found.tails, list(found.missing)) == (3, {}, [])
    found = await read(log, topic.name, "c", 1, 0)
    assert (list(found.deliveries), found.tails, list(found.missing)) == ([], {1: ZERO, 0: positions[-1]}, [])


async def test_partitions_that_do_not_know_the_group_are_named(log: Log) -> None:
    topic = await verified(log, 3)
    [position] = await appended(log, topic, events(1), 1)
    nowhere = await read(log, topic.name, "c", 2, 0)
    assert (list(nowhere.deliveries), nowhere.tails, list(nowhere.missing)) == ([], {}, [0, 2])
    await log.groups.create(topic.name, "g", {1: "$"})
    found = await read(log, topic.name, "c", 0, 1, 2)
    assert (list(found.deliveries), found.tails, list(found.missing)) == ([], {1: position}, [0, 2])
    unknown = await read(log, new_topic().name, "c", 0)
    assert list(unknown.missing) == [0]
    claimed = await log.groups.claim(topic.name, "g", "c", [0, 1, 2], min_idle_ms=0, count=5)
    assert (list(claimed.deliveries), list(claimed.missing)) == ([], [0, 2])


async def test_acking_counts_what_was_pending_and_is_safe_twice(log: Log) -> None:
    topic = await verified(log, 2)
    positions = [await appended(log, topic, events(1200), partition) for partition in range(2)]
    await log.groups.create(topic.name, "g", {0: "0-0", 1: "0-0"})
    await log.groups.read(topic.name, "g", "c", [0, 1], count=5000)
    items = {0: positions[0], 1: [*positions[1][:5], Position(1, 1)]}
    assert await log.groups.ack(topic.name, "g", items) == 1205
    assert await log.groups.ack(topic.name, "g", items) == 0
    assert await log.groups.ack(topic.name, "nobody", items) == 0
    assert await log.groups.ack(new_topic().name, "g", items) == 0
    assert await log.groups.ack(topic.name, "g", {0: []}) == 0
    assert [one.pending for one in await log.groups.describe(topic.name, "g", [0, 1])] == [0, 1195]


async def test_moving_a_group_drops_what_it_had_pending_and_reads_from_there(log: Log) -> None:
    topic = await verified(log, 3)
    positions = await appended(log, topic, events(5))
    await log.groups.create(topic.name, "g", {0: "0-0", 1: "0-0"})
    await read(log, topic.name, "a", count=4)
    await log.groups.release(topic.name, "g", "a", {0: positions[:1]}, undelivered=False)
    moved = {0: str(positions[1]), 1: "$", 2: "0-0"}
    assert (await log.groups.set_position(topic.name, "g", moved)).dropped == 4
    found = await read(log, topic.name, "b", 0, 1, 2)
    assert handed(found.deliveries) == [(0, one, 1) for one in positions[2:]]
    assert await log.groups.set_position(topic.name, "g", {0: "$"}) == Placed({0: positions[-1]}, dropped=3)
    assert list((await read(log, topic.name, "b")).deliveries) == []


async def test_a_deleted_group_is_gone(log: Log) -> None:
    topic = await verified(log, 2)
    await appended(log, topic, events(2))
    await log.groups.create(topic.name, "g", {0: "0-0", 1: "0-0"})
    assert await log.groups.delete(topic.name, "g", [0, 1, 7]) == 2
    assert await log.groups.delete(topic.name, "g", [0, 1]) == 0
    assert list((await read(log, topic.name, "c", 0, 1)).missing) == [0, 1]


async def test_groups_on_one_stream_do_not_see_each_other(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(3))
    for name in ("one", "two"):
        await log.groups.create(topic.name, name, {0: "0-0"})
    for name in ("one", "two"):
        found = await log.groups.read(topic.name, name, "c", [0], count=9)
        assert handed(found.deliveries) == [(0, position, 1) for position in positions]


async def test_a_group_is_described_for_people(log: Log) -> None:
    topic = await verified(log, 3)
    positions = await appended(log, topic, events(10))
    await log.groups.create(topic.name, "g", {0: "0-0", 1: "0-0"})
    await read(log, topic.name, "c", count=4)
    await log.groups.release(topic.name, "g", "c", {0: positions[:1]}, undelivered=False)

    async def describe() -> list[GroupPartition]:
        return await log.groups.describe(topic.name, "g", [2, 0, 1])

    nothing, first, empty = await eventually(describe, lambda found: found[1].lag_ms > 0)
    assert nothing == GroupPartition(2, ZERO, 0, 0, 0, ())
    assert (first.partition, first.last_delivered, first.pending, first.lag) == (0, positions[3], 4, 6)
    assert 0 < first.lag_ms < 60_000
    [consumer] = first.consumers
    assert (consumer.name, consumer.pending) == ("c", 3)
    assert consumer.idle_ms >= 0
    assert (empty.partition, empty.last_delivered, empty.pending, empty.lag, empty.lag_ms) == (1, ZERO, 0, 0, 0)


async def test_lag_is_told_for_a_group_that_began_in_the_middle(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(350))
    await log.groups.create(topic.name, "g", {0: str(positions[99])})
    assert (await log.groups.describe(topic.name, "g", [0]))[0].lag == 250
    await log.groups.set_position(topic.name, "g", {0: str(positions[-1])})
    assert (await log.groups.describe(topic.name, "g", [0]))[0].lag == 0


async def test_a_thousand_partitions_are_read_in_one_call(log: Log) -> None:
    topic = await verified(log, 1000)
    everywhere = range(1000)
    assert len((await log.groups.create(topic.name, "g", dict.fromkeys(everywhere, "0-0"))).positions) == 1000
    found = await log.groups.read(topic.name, "g", "c", everywhere, count=100)
    assert (list(found.deliveries), found.tails, list(found.missing)) == ([], dict.fromkeys(everywhere, ZERO), [])
    [position] = await appended(log, topic, events(1), 999)
    found = await log.groups.read(topic.name, "g", "c", everywhere, count=100)
    assert handed(found.deliveries) == [(999, position, 1)]


async def test_a_consumer_may_have_any_printable_name(log: Log) -> None:
    topic = await verified(log)
    await appended(log, topic, events(1))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    name = "größe 🚀 \"'{}:$0-0"
    await read(log, topic.name, name)
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert [one.name for one in described.consumers] == [name]


async def test_the_sampled_lag_of_a_group_that_began_at_the_end_is_known_from_its_first_event_on(log: Log) -> None:
    topic = await verified(log)
    await appended(log, topic, events(7))
    await log.groups.set_position(topic.name, "g", {0: "$"})
    await appended(log, topic, events(5))
    [stats] = await log.events.stats(topic.all_partitions())
    assert [group.lag for group in stats.groups] == [5]

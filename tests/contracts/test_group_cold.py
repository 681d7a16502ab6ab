"""What every GroupLog does for a group that lags behind the trim, in memory as on Redis: it loses nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from openstream_runtime.domain.events import Delivery
from openstream_runtime.domain.positions import ZERO, Cursor, Position
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.groups import Cold, GroupLow, GroupRead, Placed, Stub
from support.log_harness import Log, appended, at, cursor, events, owned, verified

pytestmark = pytest.mark.anyio


def handed(deliveries: Sequence[Delivery]) -> list[tuple[int, Position, int]]:
    return [(one.partition, one.event.position, one.deliveries) for one in deliveries]


async def read(log: Log, topic: Topic, consumer: str = "c", *partitions: int, count: int = 1000) -> GroupRead:
    return await log.groups.read(topic.name, "g", consumer, partitions or [0], count=count)


async def trimmed(log: Log, topic: Topic, token: str, upto: Position, partition: int = 0) -> int:
    """Everything up to there is persisted and trimmed."""
    return await log.events.mark_persisted(at(topic, partition), token, upto, count=None, trim_below=upto.next())


async def test_a_group_that_has_not_read_what_is_trimmed_goes_on_in_the_store_and_comes_back(log: Log) -> None:
    topic = await verified(log)
    await log.groups.create(topic.name, "g", {0: "0-0"})
    positions = await appended(log, topic, events(10))
    assert len((await read(log, topic, count=2)).deliveries) == 2
    token = await owned(log, topic)
    assert await trimmed(log, topic, token, positions[5]) == 6
    found = await read(log, topic)
    assert (list(found.deliveries), list(found.stubs)) == ([], [])
    assert found.cold == Cold(0, positions[1], positions[5])
    assert await log.groups.advance(topic.name, "g", "c", found.cold, positions[2:4], positions[3])
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert (described.last_delivered, described.lag, described.pending) == (positions[3], 6, 4)
    assert described.cold_upto == positions[5]
    assert [(one.name, one.pending) for one in described.consumers] == [("c", 4)]
    cold = (await read(log, topic)).cold
    assert cold == Cold(0, positions[3], positions[5])
    assert await log.groups.advance(topic.name, "g", "c", cold, positions[4:6], positions[5])
    back = await read(log, topic)
    assert back.cold is None
    assert handed(back.deliveries) == [(0, one, 1) for one in positions[6:]]
    assert await log.groups.ack(topic.name, "g", {0: positions}) == 10
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert (described.lag, described.pending, described.cold_upto) == (0, 0, None)


async def test_of_two_who_advance_from_the_same_place_one_wins(log: Log) -> None:
    topic = await verified(log)
    await log.groups.create(topic.name, "g", {0: "0-0"})
    positions = await appended(log, topic, events(4))
    await trimmed(log, topic, await owned(log, topic), positions[-1])
    cold = (await read(log, topic)).cold
    assert cold is not None
    assert await log.groups.advance(topic.name, "g", "a", cold, positions[:2], positions[1])
    assert not await log.groups.advance(topic.name, "g", "b", cold, positions[:3], positions[2])
    assert await log.groups.ack(topic.name, "g", {0: positions}) == 2


async def test_the_trim_that_goes_on_meanwhile_moves_the_boundary_and_counts(log: Log) -> None:
    topic = await verified(log)
    await log.groups.create(topic.name, "g", {0: "0-0"})
    positions = await appended(log, topic, events(10))
    token = await owned(log, topic)
    await trimmed(log, topic, token, positions[2])
    cold = (await read(log, topic)).cold
    assert cold is not None
    await trimmed(log, topic, token, positions[6])
    assert await log.groups.advance(topic.name, "g", "c", cold, positions[:3], positions[2])
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert (described.last_delivered, described.lag, described.cold_upto) == (positions[2], 7, positions[6])
    [stats] = await log.events.stats([at(topic)])
    assert [(one.lag, one.pending, one.last_delivered) for one in stats.groups] == [(7, 3, positions[2])]


async def test_what_is_held_when_it_is_trimmed_comes_again_as_a_stub_with_its_count(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(20))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    await read(log, topic, "a")
    await log.groups.release(topic.name, "g", "a", {0: positions[:12]}, undelivered=False)
    token = await owned(log, topic)
    await trimmed(log, topic, token, positions[9])
    found = await read(log, topic, "b")
    assert list(found.stubs) == [Stub(0, one, 2) for one in positions[:10]]
    assert handed(found.deliveries) == [(0, positions[10], 2), (0, positions[11], 2)]
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert (described.pending, described.lag) == (20, 0)
    assert {one.name: one.pending for one in described.consumers} == {"a": 8, "b": 12}
    await trimmed(log, topic, token, positions[-1])
    claimed = await log.groups.claim(topic.name, "g", "c", [0], min_idle_ms=0, count=99)
    assert list(claimed.stubs) == [Stub(0, one, 3 if n < 12 else 2) for n, one in enumerate(positions)]
    assert await log.groups.ack(topic.name, "g", {0: positions[:5]}) == 5
    assert await log.groups.release(topic.name, "g", "c", {0: positions[3:7]}, undelivered=True) == 2
    assert (await log.groups.release_idle(topic.name, "g", 0, min_idle_ms=0, count=9)).again == 9
    again = await read(log, topic, "d")
    assert [one.position for one in again.stubs] == [*positions[5:16]]
    assert [one.deliveries for one in again.stubs][:2] == [3, 3]


async def test_thousands_of_held_entries_move_out_of_the_way_in_one_trim(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(2_300))
    for name in ("g", "other"):
        await log.groups.create(topic.name, name, {0: "0-0"})
        await log.groups.read(topic.name, name, "c", [0], count=2_000)
    assert await trimmed(log, topic, await owned(log, topic), positions[2_199]) == 2_200
    for name in ("g", "other"):
        [described] = await log.groups.describe(topic.name, name, [0])
        assert (described.pending, described.lag, described.cold_upto) == (2_000, 300, positions[2_199])
        claimed = await log.groups.claim(topic.name, name, "d", [0], min_idle_ms=0, count=5_000)
        assert [one.position for one in claimed.stubs] == positions[:2_000]


async def test_a_cold_partition_has_its_turn_and_does_not_stand_before_the_others(log: Log) -> None:
    topic = await verified(log, 2)
    cold_ones, hot_ones = [await appended(log, topic, events(3), partition) for partition in (0, 1)]
    await log.groups.create(topic.name, "g", {0: "0-0", 1: "0-0"})
    await trimmed(log, topic, await owned(log, topic), cold_ones[-1])
    first = await read(log, topic, "c", 0, 1)
    assert (first.cold, list(first.deliveries)) == (Cold(0, ZERO, cold_ones[-1]), [])
    behind = await read(log, topic, "c", 1, 0, count=2)
    assert (behind.cold, handed(behind.deliveries)) == (None, [(1, one, 1) for one in hot_ones[:2]])
    without = await log.groups.read(topic.name, "g", "c", [0, 1], count=9, hot_only=True)
    assert (without.cold, handed(without.deliveries)) == (None, [(1, hot_ones[2], 1)])


async def test_a_group_put_below_the_trim_begins_in_the_store(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(6))
    await trimmed(log, topic, await owned(log, topic), positions[3])
    assert await log.groups.create(topic.name, "g", {0: "0-0"}) == Placed({0: ZERO})
    assert (await read(log, topic)).cold == Cold(0, ZERO, positions[3])
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert (described.lag, described.cold_upto) == (None, positions[3])  # nobody has counted what PostgreSQL has
    await log.groups.set_position(topic.name, "g", {0: str(positions[3])})
    assert handed((await read(log, topic)).deliveries) == [(0, one, 1) for one in positions[4:]]
    await log.groups.set_position(topic.name, "g", {0: str(positions[1])})
    cold = (await read(log, topic)).cold
    assert cold == Cold(0, positions[1], positions[3])
    assert await log.groups.advance(topic.name, "g", "c", cold, positions[2:3], positions[2])
    assert await log.groups.set_position(topic.name, "g", {0: "$"}) == Placed({0: positions[-1]}, dropped=1)
    assert not await log.groups.advance(topic.name, "g", "c", cold, positions[2:3], positions[2])
    assert (await read(log, topic)).cold is None


async def test_a_deleted_group_leaves_nothing_to_the_next_of_its_name(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(6))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    await read(log, topic, count=2)
    await trimmed(log, topic, await owned(log, topic), positions[3])
    assert await log.groups.delete(topic.name, "g", [0]) == 1
    await log.groups.create(topic.name, "g", {0: str(positions[4])})
    found = await read(log, topic)
    assert (found.cold, list(found.stubs), handed(found.deliveries)) == (None, [], [(0, positions[5], 1)])


async def test_events_wait_until_they_are_persisted_where_a_group_asks_for_that(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(30))
    await log.groups.create(topic.name, "g", {0: "0-0"})

    async def persisted_only(count: int = 100) -> GroupRead:
        return await log.groups.read(topic.name, "g", "c", [0], count=count, persisted=True)

    nothing = await persisted_only()
    assert (list(nothing.deliveries), nothing.unpersisted, nothing.tails) == ([], True, {0: positions[-1]})
    token = await owned(log, topic)
    await log.events.mark_persisted(at(topic), token, positions[19], count=20, trim_below=None)
    assert handed((await persisted_only(5)).deliveries) == [(0, one, 1) for one in positions[:5]]
    found = await persisted_only()
    assert handed(found.deliveries) == [(0, one, 1) for one in positions[5:20]]
    await log.events.mark_persisted(at(topic), token, positions[-1], count=10, trim_below=None)
    assert [one.event.position for one in (await persisted_only()).deliveries] == positions[20:]
    assert not (await persisted_only()).unpersisted


async def test_everything_up_to_its_low_mark_a_group_has_acknowledged(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(10))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    await log.groups.create(topic.name, "idle", {0: str(positions[7])})
    known = {"g": GroupLow(ZERO), "idle": GroupLow(positions[7])}
    assert await log.groups.lows([at(topic), at(topic, 7)]) == [known, {}]
    await read(log, topic, count=6)
    await log.groups.ack(topic.name, "g", {0: [positions[0], positions[1], positions[3]]})
    [lows] = await log.groups.lows([at(topic)])
    assert positions[1] <= lows["g"].position < positions[2]
    token = await owned(log, topic)
    await trimmed(log, topic, token, positions[-1])
    assert [one["g"].position for one in await log.groups.lows([at(topic)])] == [lows["g"].position]
    await log.groups.ack(topic.name, "g", {0: positions})
    assert (await log.groups.lows([at(topic)]))[0]["g"].position == positions[5]


async def test_groups_of_a_redis_that_came_back_empty_or_behind_go_on_where_they_were(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(4))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    await read(log, topic, count=2)
    # PostgreSQL is two events ahead of what is left here.
    far = Position(positions[-1].ms, positions[-1].seq + 2)
    await log.events.verify(topic, 0, Cursor(1, 0, far), floor=Position(far.ms + 60_000, 0))
    found = await read(log, topic)
    assert (list(found.deliveries), found.cold) == ([], Cold(0, positions[1], far))
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert (described.pending, described.lag) == (2, None)
    [new] = await appended(log, topic, events(1))
    assert new > Position(far.ms + 60_000, 0)
    assert await log.groups.advance(topic.name, "g", "c", Cold(0, positions[1], far), [], far)
    assert handed((await read(log, topic)).deliveries) == [(0, new, 1)]


async def test_what_nobody_counted_is_told_and_counted_once(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(8))
    token = await owned(log, topic)
    await trimmed(log, topic, token, positions[3])
    await log.groups.create(topic.name, "g", {0: str(positions[0])})
    cold = Cold(0, positions[0], positions[3])
    assert await log.groups.lows([at(topic)]) == [{"g": GroupLow(positions[0], cold)}]
    await log.groups.counted(topic.name, "g", Cold(0, ZERO, positions[3]), 99)  # of another place: too late
    await log.groups.counted(topic.name, "g", cold, 3)
    assert await log.groups.lows([at(topic)]) == [{"g": GroupLow(positions[0])}]
    assert [one.lag for one in await log.groups.describe(topic.name, "g", [0])] == [7]


async def test_ids_do_not_begin_above_the_floor_while_nothing_was_lost(log: Log) -> None:
    topic = await verified(log)
    [first] = await appended(log, topic, events(1))
    await log.events.verify(topic, 0, cursor(first), floor=Position(first.ms + 3_600_000, 0))
    [second] = await appended(log, topic, events(1))
    assert second.ms < first.ms + 3_600_000

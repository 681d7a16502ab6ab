"""What every EventLog does with what is persisted: counts, trims and shows it, in memory as on Redis."""

from __future__ import annotations

import pytest

from openstream_runtime.domain.errors import LeaseLost, Unavailable
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.ports.log import Appended, Refusal, Refused
from support.log_harness import (
    Log,
    append_one,
    appended,
    at,
    cursor,
    events,
    new_topic,
    owned,
    verified,
)

pytestmark = pytest.mark.anyio


async def test_what_waits_for_postgresql_is_bounded_until_some_of_it_is_persisted(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(3))
    assert await append_one(log, topic, events(1), max_unpersisted=3) == Refused(Refusal.UNPERSISTED)
    token = await owned(log, topic)
    await log.events.mark_persisted(at(topic), token, positions[0], count=1, trim_below=None)
    assert isinstance(await append_one(log, topic, events(1), max_unpersisted=3), Appended)
    assert await append_one(log, topic, events(1), max_unpersisted=3) == Refused(Refusal.UNPERSISTED)


async def test_edges_tell_the_ends_also_of_a_stream_that_was_trimmed_to_nothing(log: Log) -> None:
    topic = await verified(log)
    empty = await log.events.edges(at(topic))
    assert (empty.length, empty.first, empty.last, empty.bytes) == (0, None, ZERO, None)
    assert (await log.events.edges(at(new_topic()))).first is None
    positions = await appended(log, topic, events(10))
    edges = await log.events.edges(at(topic), with_bytes=True)
    assert (edges.length, edges.first, edges.last) == (10, positions[0], positions[-1])
    assert edges.bytes is not None
    assert edges.bytes > 0
    assert abs(edges.now_ms - positions[-1].ms) < 60_000
    token = await owned(log, topic)
    last = positions[-1]
    assert await log.events.mark_persisted(at(topic), token, last, count=10, trim_below=last.next()) == 10
    edges = await log.events.edges(at(topic))
    assert (edges.length, edges.first, edges.last) == (0, None, positions[-1])


async def test_trimming_stops_at_the_cursor_even_when_asked_to_go_on(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(10))
    token = await owned(log, topic)
    beyond = Position(2**62, 0)
    assert await log.events.mark_persisted(at(topic), token, positions[3], count=4, trim_below=beyond) == 4
    assert [one.position for one in await log.events.read_after(at(topic), ZERO, count=99)] == positions[4:]
    # A cursor from before trims no further than itself, and what is published stays.
    assert await log.events.mark_persisted(at(topic), token, positions[1], count=2, trim_below=beyond) == 0
    [stats] = await log.events.stats([at(topic)])
    assert (stats.persisted, stats.unpersisted, stats.length) == (positions[3], 6, 6)


async def test_trimming_stops_where_retention_says(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(10))
    token = await owned(log, topic)
    assert await log.events.mark_persisted(at(topic), token, positions[-1], count=10, trim_below=positions[4]) == 4
    assert await log.events.mark_persisted(at(topic), token, positions[-1], count=0, trim_below=None) == 0
    assert (await log.events.edges(at(topic))).first == positions[4]


async def test_a_stale_lease_token_publishes_nothing_and_trims_nothing(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(10))
    for token in ("nobody:1", ""):
        with pytest.raises(LeaseLost):
            await log.events.mark_persisted(at(topic), token, positions[-1], count=10, trim_below=positions[-1])
    stale = await owned(log, topic)
    await log.leases.release(at(topic), stale)
    await owned(log, topic)
    with pytest.raises(LeaseLost) as caught:
        await log.events.mark_persisted(at(topic), stale, positions[-1], count=10, trim_below=positions[-1])
    assert caught.value.facts == {"topic": topic.name, "partition": 0}
    [stats] = await log.events.stats([at(topic)])
    assert (stats.length, stats.persisted, stats.unpersisted) == (10, ZERO, 10)


async def test_the_same_mark_published_again_counts_once(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(10))
    token = await owned(log, topic)
    for _ in range(3):
        await log.events.mark_persisted(at(topic), token, positions[3], count=4, trim_below=None)
    [stats] = await log.events.stats([at(topic)])
    assert (stats.unpersisted, stats.persisted_count) == (6, 4)


async def test_a_mark_without_a_count_counts_anew_and_a_mark_at_the_end_mends_every_count(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(300))
    token = await owned(log, topic)
    await log.events.mark_persisted(at(topic), token, positions[99], count=17, trim_below=None)
    assert (await log.events.stats([at(topic)]))[0].unpersisted == 283
    await log.events.mark_persisted(at(topic), token, positions[99], count=None, trim_below=None)
    assert (await log.events.stats([at(topic)]))[0].unpersisted == 200
    await log.events.mark_persisted(at(topic), token, positions[-1], count=3, trim_below=None)
    [stats] = await log.events.stats([at(topic)])
    assert (stats.unpersisted, stats.persisted_count) == (0, 300)


async def test_stats_show_groups_and_owner_without_our_own_consumer(log: Log) -> None:
    topic = await verified(log, 2)
    positions = await appended(log, topic, events(5))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    await log.groups.read(topic.name, "g", "c", [0], count=3)
    await log.groups.release(topic.name, "g", "c", {0: positions[:1]}, undelivered=False)
    await log.leases.acquire(at(topic), "node-7:abc", 60_000)
    first, second = await log.events.stats(topic.all_partitions())
    assert (first.length, first.last, first.unpersisted, first.owner) == (5, positions[-1], 5, "node-7")
    [group] = first.groups
    assert (group.name, group.consumers, group.pending, group.lag) == ("g", 1, 3, 2)
    assert group.last_delivered == positions[2]
    assert (second.length, second.last, second.owner, list(second.groups)) == (0, ZERO, None, [])


async def test_stats_of_a_stream_trimmed_to_nothing_still_tell_its_last_position(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(2))
    token = await owned(log, topic)
    await log.events.mark_persisted(at(topic), token, positions[-1], count=2, trim_below=positions[-1].next())
    [stats] = await log.events.stats([at(topic)])
    assert (stats.length, stats.last, stats.unpersisted) == (0, positions[-1], 0)
    assert (await appended(log, topic, events(1)))[0] > positions[-1]


async def test_stats_of_many_partitions_come_in_the_order_asked(log: Log) -> None:
    topic = await verified(log, 600)
    await appended(log, topic, events(2), 599)
    partitions = topic.all_partitions()[::-1]
    stats = await log.events.stats(partitions)
    assert [one.length for one in stats] == [2] + [0] * 599
    assert await log.events.stats([]) == []


async def test_who_owns_a_partition_nobody_verified_trims_nothing(log: Log) -> None:
    topic = new_topic()
    token = await owned(log, topic)
    with pytest.raises(Unavailable, match="verified"):
        await log.events.mark_persisted(at(topic), token, Position(5, 0), count=0, trim_below=Position(5, 1))


async def test_the_time_of_a_verification_is_told_and_one_that_changes_nothing_leaves_it(log: Log) -> None:
    topic = new_topic()
    [before] = await log.events.stats([at(topic)])
    await log.events.verify(topic, 0, cursor())
    [first] = await log.events.stats([at(topic)])
    [position] = await appended(log, topic, events(1))
    await log.events.verify(topic, 0, cursor(position))
    [second] = await log.events.stats([at(topic)])
    assert before.verified_ms == 0 < first.verified_ms == second.verified_ms
    # Behind what PostgreSQL has: something was lost.
    await log.events.verify(topic, 0, cursor(Position(position.ms + 60_000, 0)))
    [third] = await log.events.stats([at(topic)])
    assert third.verified_ms >= position.ms >= first.verified_ms - 1


async def test_a_cursor_among_ids_that_were_never_given_out_shows_what_another_redis_had(log: Log) -> None:
    topic = await verified(log)
    [known] = await appended(log, topic, events(1))
    assert not (await log.groups.create(topic.name, "g", {0: "0-0"})).unverified
    # A cursor ahead of Redis: what it stands for was lost. Ids go on far above it.
    first, late = Position(known.ms + 1_000, 0), Position(known.ms + 2_000, 0)
    await log.events.verify(topic, 0, cursor(first), floor=Position(known.ms + 60_000, 0))
    [after] = await appended(log, topic, events(1))
    assert (await log.events.edges(at(topic))).trimmed == first
    # A commit that was under way when that happened: it was lost as well, and PostgreSQL has it.
    await log.events.verify(topic, 0, cursor(late))
    assert (await log.events.edges(at(topic))).trimmed == late
    assert [one.position for one in await log.events.read_after(at(topic), ZERO, count=9)] == [after]
    # What came after that was not lost, and once is enough.
    await log.events.verify(topic, 0, cursor(after))
    assert (await log.events.edges(at(topic))).trimmed == late


async def test_who_names_a_server_reads_from_no_other(log: Log) -> None:
    topic = new_topic()
    server = await log.events.verify(topic, 0, cursor())
    [position] = await appended(log, topic, events(1))
    assert [one.position for one in await log.events.read_after(at(topic), ZERO, count=9, server=server)] == [position]
    with pytest.raises(Unavailable):
        await log.events.read_after(at(topic), ZERO, count=9, server="another")

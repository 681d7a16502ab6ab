"""What every EventLog does, in memory as on Redis."""

from __future__ import annotations

from itertools import pairwise

import pytest

from openstream_runtime.domain.errors import NotFound
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.log import Appended, Refusal, Refused
from support.log_harness import (
    PLENTY,
    Log,
    append_one,
    appended,
    at,
    batch,
    cursor,
    event,
    events,
    new_topic,
    owned,
    verified,
)

pytestmark = pytest.mark.anyio


async def test_a_partition_nobody_verified_takes_nothing_and_everything_afterwards(log: Log) -> None:
    topic = new_topic()
    assert await append_one(log, topic, events(3)) == Refused(Refusal.UNVERIFIED)
    assert await log.events.read_after(at(topic), ZERO, count=10) == []
    await log.events.verify(topic, 0, cursor())
    assert len(await appended(log, topic, events(3))) == 3


async def test_every_field_comes_back_byte_for_byte(log: Log) -> None:
    topic = await verified(log)
    sent = [
        event(payload=b' {"n": -0.0, "e": 1e2, "a":1,"a":2}\n'),
        event(payload=bytes(range(256)), partition_key=""),
        event(payload='"grüße 🚀\\u0000"'.encode(), partition_key="schlüssel 🚀\r\n", headers=b'{"k":"v"}'),
        event(payload=b"", headers=b"{}", timestamp_ms=2**63 - 1),
        event(payload=b"null", timestamp_ms=-5, partition_key="k" * 100_000),
    ]
    positions = await appended(log, topic, sent)
    found = await log.events.read_after(at(topic), ZERO, count=10)
    assert [one.position for one in found] == positions
    for one, before in zip(found, sent, strict=True):
        assert (one.event_type, one.partition_key, one.payload) == (
            before.event_type,
            before.partition_key,
            before.payload,
        )
        assert (one.timestamp_ms, one.headers) == (before.timestamp_ms, before.headers)


async def test_five_thousand_events_stand_in_order_without_a_gap(log: Log) -> None:
    topic = await verified(log)
    await appended(log, topic, events(1))
    positions = await appended(log, topic, events(5000, headers=b'{"a":"b"}', partition_key="k"))
    assert len(positions) == 5000
    assert positions == sorted(set(positions))
    assert all(later == earlier.next() for earlier, later in pairwise(positions))
    found = await log.events.read_after(at(topic), ZERO, count=10_000, max_bytes=1 << 30)
    assert [one.position for one in found[1:]] == positions
    assert [one.payload for one in found[1:]] == [one.payload for one in events(5000)]


async def test_a_payload_of_eight_mebibytes_is_kept_whole(log: Log) -> None:
    topic = await verified(log)
    payload = b'"' + b"x" * (8 << 20) + b'"'
    await appended(log, topic, [event(payload=payload), event("after")])
    first, second = await log.events.read_after(at(topic), ZERO, count=10, max_bytes=64 << 20)
    assert (first.payload, second.payload) == (payload, b'"after"')


async def test_an_empty_batch_is_kept_without_positions(log: Log) -> None:
    topic = await verified(log)
    assert await append_one(log, topic, []) == Appended([])
    assert await log.events.append([]) == []


async def test_batches_of_one_call_have_their_own_outcomes_in_order(log: Log) -> None:
    topic, unknown = await verified(log, 2), new_topic()
    outcomes = await log.events.append(
        [
            batch(topic, events(2), 0),
            batch(unknown, events(2)),
            batch(topic, events(3), 1),
            batch(topic, events(1), 0),
        ]
    )
    assert [len(one.positions) if isinstance(one, Appended) else one for one in outcomes] == [
        2,
        Refused(Refusal.UNVERIFIED),
        3,
        1,
    ]
    first, last = outcomes[0], outcomes[3]
    assert isinstance(first, Appended)
    assert isinstance(last, Appended)
    assert max(first.positions) < min(last.positions)


async def test_a_stream_at_its_length_takes_nothing(log: Log) -> None:
    topic = await verified(log)
    assert isinstance(await append_one(log, topic, events(3), max_stream_len=3), Appended)
    assert await append_one(log, topic, events(1), max_stream_len=3) == Refused(Refusal.LENGTH)
    assert isinstance(await append_one(log, topic, events(1), max_stream_len=4), Appended)


async def test_no_position_is_handed_out_again_that_postgresql_already_knows(log: Log) -> None:
    topic, far = new_topic(), Position(4_000_000_000_000, 7)
    await log.events.verify(topic, 0, cursor(far))
    assert await appended(log, topic, events(2)) == [Position(far.ms, 8), Position(far.ms, 9)]
    # A cursor below what stands already moves nothing back.
    await log.events.verify(topic, 0, cursor(Position(5, 5)))
    assert await appended(log, topic, events(1)) == [Position(far.ms, 10)]


async def test_verifying_lifts_a_stream_that_holds_entries_and_counts_what_is_not_persisted(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(250))
    await log.events.verify(topic, 0, cursor(positions[39]))
    [stats] = await log.events.stats([at(topic)])
    assert (stats.unpersisted, stats.persisted, stats.persisted_count) == (210, positions[39], 40)
    far = Position(positions[-1].ms + 86_400_000, 0)
    await log.events.verify(topic, 0, cursor(far))
    # PostgreSQL is past everything Redis has: what is left of it here stands there too.
    [stats] = await log.events.stats([at(topic)])
    assert (stats.unpersisted, stats.length) == (0, 0)
    assert (await log.events.edges(at(topic))).trimmed == far
    assert await appended(log, topic, events(1)) == [far.next()]


async def test_verifying_twice_changes_nothing(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(5))
    token = await owned(log, topic)
    await log.events.mark_persisted(at(topic), token, positions[2], count=3, trim_below=None)
    before = await log.events.stats([at(topic)])
    await log.events.verify(topic, 0, cursor(positions[1]))  # read from PostgreSQL a moment too early
    assert await log.events.stats([at(topic)]) == before
    assert len(await appended(log, topic, events(1))) == 1


async def test_a_topic_created_anew_finds_nothing_of_the_old_one(log: Log) -> None:
    old = await verified(log)
    old_positions = await appended(log, old, events(5))
    await log.groups.create(old.name, "g", {0: "0-0"})
    new = Topic(old.id + 1, old.name, 1)
    assert await append_one(log, new, events(1)) == Refused(Refusal.UNVERIFIED)
    await log.events.verify(new, 0, cursor())
    [position] = await appended(log, new, events(1))
    assert [one.position for one in await log.events.read_after(at(new), ZERO, count=10)] == [position]
    assert position > old_positions[-1]
    assert (await log.groups.read(new.name, "g", "c", [0], count=10)).missing == [0]


async def test_whoever_still_knows_the_old_topic_cannot_take_the_new_one_away(log: Log) -> None:
    old = await verified(log)
    new = Topic(old.id + 1, old.name, 1)
    await log.events.verify(new, 0, cursor())
    await appended(log, new, events(2))
    with pytest.raises(NotFound):
        await log.events.verify(old, 0, cursor())
    assert await append_one(log, old, events(1)) == Refused(Refusal.UNVERIFIED)
    await appended(log, new, events(1))  # nobody has to verify it again for that
    await log.events.delete_topic(old)
    assert len(await log.events.read_after(at(new), ZERO, count=10)) == 3
    await log.events.delete_topic(new)
    assert await log.events.read_after(at(new), ZERO, count=10) == []


async def test_a_deleted_topic_leaves_no_partition_and_no_lease(log: Log) -> None:
    topic = await verified(log, 3)
    for partition in range(3):
        await appended(log, topic, events(2), partition)
    token = await owned(log, topic)
    await log.events.delete_topic(topic)
    for stats in await log.events.stats(topic.all_partitions()):
        assert (stats.length, stats.last, stats.unpersisted, stats.owner, list(stats.groups)) == (0, ZERO, 0, None, [])
    assert not await log.leases.renew(at(topic), token, 1000)
    assert await append_one(log, topic, events(1)) == Refused(Refusal.UNVERIFIED)


async def test_reading_goes_on_after_a_position_and_stops_at_the_count(log: Log) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(700))
    found = await log.events.read_after(at(topic), positions[9], count=600)
    assert [one.position for one in found] == positions[10:610]
    assert await log.events.read_after(at(topic), positions[-1], count=600) == []
    assert await log.events.read_after(at(topic), ZERO, count=0) == []


async def test_reading_stops_near_the_bytes_asked_for_and_gives_at_least_one(log: Log) -> None:
    topic = await verified(log)
    big = b'"' + b"x" * 100_000 + b'"'
    positions = await appended(log, topic, [event(payload=big) for _ in range(100)])
    assert len(await log.events.read_after(at(topic), ZERO, count=100, max_bytes=1)) >= 1
    found = await log.events.read_after(at(topic), ZERO, count=100, max_bytes=3_000_000)
    assert 30 <= len(found) <= 50
    assert [one.position for one in found] == positions[: len(found)]


async def test_an_append_says_whether_as_many_replicas_as_asked_have_it(log: Log) -> None:
    topic = await verified(log)
    [nobody_else] = await log.events.append([batch(topic, events(2))], replicas=0)
    [too_many] = await log.events.append([batch(topic, events(2))], replicas=3)
    assert isinstance(nobody_else, Appended)
    assert isinstance(too_many, Appended)
    assert (nobody_else.replicated, too_many.replicated) == (True, False)
    assert len(await log.events.read_after(at(topic), ZERO, count=9)) == 4
    assert await log.events.append([batch(new_topic(), events(1))], replicas=0) == [Refused(Refusal.UNVERIFIED)]


async def test_memory_and_ping_answer(log: Log) -> None:
    memory = await log.events.memory()
    assert memory["used_memory"] > 0
    assert memory["maxmemory"] >= 0
    await log.events.ping()


async def test_bounds_are_only_those_of_the_batch(log: Log) -> None:
    topic = await verified(log)
    await appended(log, topic, events(50))
    assert isinstance(await append_one(log, topic, events(5), max_stream_len=PLENTY, max_unpersisted=51), Appended)


async def test_how_far_owners_are_is_read_for_many_partitions_and_zero_where_nobody_published(log: Log) -> None:
    topic, unknown = await verified(log, 2), new_topic()
    first, second = await appended(log, topic, events(2))
    token = await owned(log, topic)
    await log.events.mark_persisted(at(topic), token, first, count=1, trim_below=None)
    everywhere = [at(topic), at(unknown), at(topic, 1)]
    assert await log.events.persisted(everywhere) == [first, ZERO, ZERO]
    await log.events.mark_persisted(at(topic), token, second, count=1, trim_below=second.next())
    assert await log.events.persisted([at(topic)] * 300) == [second] * 300
    assert await log.events.persisted([]) == []
    await log.events.verify(topic, 1, cursor(Position(7, 7)))
    assert await log.events.persisted([at(topic, 1)]) == [Position(7, 7)]

"""How long and how many are remembered, on a real server: bounded, never silently doubled, and with memory full."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest

from openstream_ops.valkey import Valkey
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.producers import Admission, Memory, Once, Stamp, Turn, turn_of
from openstream_runtime.domain.topics import Topic
from openstream_runtime.log import RedisLog, open_log
from openstream_runtime.ports.log import AppendBatch, Appended, AppendOutcome, Refusal, Refused
from openstream_runtime.ports.producers import Finished, Kept
from support.log_harness import PLENTY, append_one, appended, event, events, verified

pytestmark = pytest.mark.anyio
Admin = Callable[..., Awaitable[object]]
FORGOTTEN = Refused(Refusal.FORGOTTEN)
MEMORY = Memory(producer_ms=60_000, producers=5, event_id_ms=60_000, event_ids=10)


@pytest.fixture
async def small(valkey: Valkey) -> AsyncIterator[RedisLog]:
    async with open_log(valkey.url, memory=MEMORY) as log:
        yield log


def turn(producer: str, seq: int = 0) -> Turn:
    return turn_of(Stamp(producer, 0, seq), events(2))


async def begin(log: RedisLog, topic: Topic, one: Turn) -> Admission | Kept | Refused:
    [verdict] = await log.producers.begin([(topic, one)])
    return verdict


async def put(log: RedisLog, topic: Topic, one: Turn, admission: Admission) -> AppendOutcome:
    [outcome] = await log.events.append([AppendBatch(topic, 0, events(2), PLENTY, PLENTY, once=Once(one, admission))])
    return outcome


async def whole(log: RedisLog, topic: Topic, one: Turn) -> Position:
    admission = await begin(log, topic, one)
    assert isinstance(admission, Admission), admission
    outcome = await put(log, topic, one, admission)
    assert isinstance(outcome, Appended), outcome
    assert await log.producers.finish([Finished(topic, one, {0: outcome.positions})]) == [True]
    return outcome.positions[0]


def named(*numbers: int) -> list[NewEvent]:
    return [event(str(number), event_id=f"e{number}") for number in numbers]


async def test_as_many_producers_as_asked_are_known_and_those_long_gone_are_refused(
    small: RedisLog, admin: Admin
) -> None:
    topic = await verified(small)
    asleep = await begin(small, topic, turn("first"))
    assert isinstance(asleep, Admission)
    await whole(small, topic, turn("first"))
    for number in range(4):
        await whole(small, topic, turn(f"p{number}"))
    assert isinstance(await begin(small, topic, turn("first")), Kept)
    await anyio.sleep(0.002)
    for number in range(4, 30):
        await whole(small, topic, turn(f"p{number}"))
    # It is forgotten, and so its next request is refused; so is a share that slept all the time.
    assert await begin(small, topic, turn("first", 2)) == FORGOTTEN
    assert await put(small, topic, turn("first"), asleep) == FORGOTTEN
    await whole(small, topic, turn("p29", 2))
    for name in ("producers", "producers:before"):
        key = f"{{os:stream:{topic.name}:0}}:{name}"
        assert await admin("HLEN", key) <= 2 * MEMORY.producers + 1  # type: ignore[operator]
        assert 0 < await admin("PTTL", key) <= 2 * MEMORY.producer_ms  # type: ignore[operator]


async def test_who_is_silent_for_too_long_is_forgotten(small: RedisLog, admin: Admin) -> None:
    topic = await verified(small)
    asleep = await begin(small, topic, turn("p", 0))
    assert isinstance(asleep, Admission)
    old = Admission(asleep.epoch_ms, asleep.begun_ms - MEMORY.producer_ms)  # as after a minute
    assert await put(small, topic, turn("p"), old) == FORGOTTEN
    await whole(small, topic, turn("p"))
    await admin("DEL", f"{{os:stream:{topic.name}:0}}:producers")  # as after two
    assert await begin(small, topic, turn("p", 2)) == FORGOTTEN


async def test_as_many_event_ids_as_asked_are_known_and_not_many_more(small: RedisLog, admin: Admin) -> None:
    topic = await verified(small)
    first = await appended(small, topic, named(0))
    for number in range(1, MEMORY.event_ids):
        await appended(small, topic, named(number))
        outcome = await append_one(small, topic, named(0))
        assert outcome == Appended(first, duplicates=frozenset({0}))
    for number in range(100, 200):
        await appended(small, topic, named(number))
    fresh = await append_one(small, topic, named(0))
    assert isinstance(fresh, Appended)
    assert not fresh.duplicates
    for name in ("ids", "ids:before"):
        key = f"{{os:stream:{topic.name}:0}}:{name}"
        assert await admin("HLEN", key) <= MEMORY.event_ids + 1  # type: ignore[operator]
        assert 0 < await admin("PTTL", key) <= 2 * MEMORY.event_id_ms  # type: ignore[operator]


async def test_with_memory_full_nothing_begins_and_what_is_kept_is_finished_and_found(
    small: RedisLog, admin: Admin
) -> None:
    topic = await verified(small)
    known = await appended(small, topic, named(1, 2))
    one = turn("p")
    admission = await begin(small, topic, one)
    assert isinstance(admission, Admission)
    other = await begin(small, topic, turn("q"))
    assert isinstance(other, Admission)
    outcome = await put(small, topic, one, admission)
    assert isinstance(outcome, Appended)
    await admin("CONFIG", "SET", "maxmemory", 1)
    try:
        assert await put(small, topic, turn("q"), other) == Refused(Refusal.MEMORY)
        assert await begin(small, topic, turn("r")) == Refused(Refusal.MEMORY)
        assert await append_one(small, topic, named(3)) == Refused(Refusal.MEMORY)
        assert await append_one(small, topic, named(1, 2)) == Appended(known, duplicates=frozenset({0, 1}))
        assert await put(small, topic, one, admission) == Appended(outcome.positions, duplicates=frozenset({0, 1}))
        assert await small.producers.finish([Finished(topic, one, {0: outcome.positions})]) == [True]
        assert await begin(small, topic, one) == Kept({0: outcome.positions})
    finally:
        await admin("CONFIG", "SET", "maxmemory", 0)
    await whole(small, topic, turn("p", 2))
    assert isinstance(await put(small, topic, turn("q"), other), Appended)


async def test_a_redis_that_forgot_its_scripts_is_asked_again(small: RedisLog, admin: Admin) -> None:
    topic = await verified(small)
    admission = await begin(small, topic, turn("p"))
    assert isinstance(admission, Admission)
    await admin("SCRIPT", "FLUSH")
    outcome = await put(small, topic, turn("p"), admission)
    assert isinstance(outcome, Appended)
    await admin("SCRIPT", "FLUSH")
    assert await small.producers.finish([Finished(topic, turn("p"), {0: outcome.positions})]) == [True]
    await admin("SCRIPT", "FLUSH")
    assert isinstance(await begin(small, topic, turn("p", 2)), Admission)


async def test_a_deleted_topic_leaves_nothing_behind(small: RedisLog, admin: Admin) -> None:
    topic = await verified(small, 2)
    await whole(small, topic, turn("p"))
    await appended(small, topic, named(1))
    await small.events.delete_topic(topic)
    assert await admin("KEYS", f"*{topic.name}*") == []


async def test_replicas_are_waited_for_by_who_finishes(start_valkey: Callable[..., Valkey]) -> None:
    async with open_log(start_valkey().url, replica_timeout_ms=50) as log:
        topic = await verified(log)
        admission = await begin(log, topic, turn("p"))
        assert isinstance(admission, Admission)
        outcome = await put(log, topic, turn("p"), admission)
        assert isinstance(outcome, Appended)
        done = [Finished(topic, turn("p"), {0: outcome.positions})]
        assert await log.producers.finish(done, replicas=1) == [False]
        assert await log.producers.finish(done, replicas=0) == [True]


async def test_with_redis_away_nothing_is_begun_and_nobody_knows_what_was_finished(valkey: Valkey) -> None:
    async with open_log(valkey.url, timeout=0.3) as log:
        topic = await verified(log)
        valkey.pause()
        try:
            assert await begin(log, topic, turn("p")) == Refused(Refusal.UNAVAILABLE)
            assert await log.producers.finish([Finished(topic, turn("p"), {0: [Position(1, 1)]})]) == [None]
        finally:
            valkey.resume()

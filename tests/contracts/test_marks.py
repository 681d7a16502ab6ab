"""What makes an append of a replay happen once, in memory as on Redis."""

from __future__ import annotations

import secrets

import pytest

from openstream_runtime.domain.history import END
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.replays import Mark
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.log import AppendBatch, Appended, AppendOutcome, Refusal, Refused
from support.log_harness import PLENTY, Log, at, events, new_topic, verified

pytestmark = pytest.mark.anyio
FIRST, SECOND = Position(10, 3), Position(11, 0)


def a_replay() -> str:
    return f"rp_{secrets.token_hex(4)}"


async def put(
    log: Log, topic: Topic, mark: Mark, count: int = 2, *, partition: int = 0, unpersisted: int = PLENTY
) -> AppendOutcome:
    batch = AppendBatch(topic, partition, events(count), PLENTY, unpersisted, mark)
    [outcome] = await log.events.append([batch])
    return outcome


async def length(log: Log, topic: Topic, partition: int = 0) -> int:
    return (await log.events.edges(at(topic, partition))).length


async def test_a_batch_that_comes_twice_is_kept_once(log: Log) -> None:
    topic, replay = await verified(log), a_replay()
    mark = Mark(replay, 0, ZERO, FIRST)
    assert isinstance(await put(log, topic, mark), Appended)
    assert await put(log, topic, mark) == Refused(Refusal.MARK, FIRST)
    assert await length(log, topic) == 2
    assert isinstance(await put(log, topic, Mark(replay, 0, FIRST, SECOND)), Appended)
    assert await put(log, topic, Mark(replay, 0, FIRST, SECOND)) == Refused(Refusal.MARK, SECOND)
    assert await length(log, topic) == 4


async def test_a_batch_that_begins_behind_the_mark_leaves_no_gap(log: Log) -> None:
    topic, replay = await verified(log), a_replay()
    assert await put(log, topic, Mark(replay, 0, FIRST, SECOND)) == Refused(Refusal.MARK, ZERO)
    assert await length(log, topic) == 0


async def test_sources_targets_and_replays_have_marks_of_their_own(log: Log) -> None:
    topic, replay = await verified(log, 2), a_replay()
    for mark, partition in [
        (Mark(replay, 0, ZERO, FIRST), 0),
        (Mark(replay, 1, ZERO, FIRST), 0),
        (Mark(replay, 0, ZERO, FIRST), 1),
        (Mark(a_replay(), 0, ZERO, FIRST), 0),
    ]:
        assert isinstance(await put(log, topic, mark, partition=partition), Appended)
    assert (await length(log, topic), await length(log, topic, 1)) == (6, 2)


async def test_what_is_refused_leaves_the_mark_where_it_was(log: Log) -> None:
    topic, replay = await verified(log), a_replay()
    mark = Mark(replay, 0, ZERO, FIRST)
    assert await put(log, topic, mark, unpersisted=0) == Refused(Refusal.UNPERSISTED)
    assert isinstance(await put(log, topic, mark), Appended)


async def test_an_unverified_partition_is_refused_and_moves_no_mark(log: Log) -> None:
    topic, mark = new_topic(), Mark(a_replay(), 0, ZERO, FIRST)
    assert await put(log, topic, mark) == Refused(Refusal.UNVERIFIED)
    assert await put(log, topic, mark) == Refused(Refusal.UNVERIFIED)


async def test_a_batch_without_events_moves_the_mark_and_adds_nothing(log: Log) -> None:
    topic, replay = await verified(log), a_replay()
    assert await put(log, topic, Mark(replay, 0, ZERO, FIRST), 0) == Appended([])
    assert await put(log, topic, Mark(replay, 0, FIRST, FIRST), 0) == Appended([])  # to look whether it stands there
    assert await put(log, topic, Mark(replay, 0, ZERO, SECOND)) == Refused(Refusal.MARK, FIRST)
    assert await length(log, topic) == 0
    [stats] = await log.events.stats([at(topic)])
    assert stats.unpersisted == 0


async def test_after_the_end_nothing_is_kept_not_even_a_first_batch(log: Log) -> None:
    topic, replay = await verified(log, 2), a_replay()
    await put(log, topic, Mark(replay, 0, ZERO, FIRST))
    await log.events.end_marks(topic, replay)
    await log.events.end_marks(topic, replay)
    for mark, partition in [
        (Mark(replay, 0, FIRST, SECOND), 0),
        (Mark(replay, 5, ZERO, FIRST), 0),
        (Mark(replay, 0, ZERO, FIRST), 1),
    ]:
        assert await put(log, topic, mark, partition=partition) == Refused(Refusal.MARK, END)
    assert isinstance(await put(log, topic, Mark(a_replay(), 0, ZERO, FIRST)), Appended)
    assert (await length(log, topic), await length(log, topic, 1)) == (4, 0)

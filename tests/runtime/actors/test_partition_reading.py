"""One partition through both stores: which of them is asked, what is served while one is away, and what is gone."""

from __future__ import annotations

import anyio
import pytest

from openstream_runtime.actors.board import Sample
from openstream_runtime.actors.partition_reading import PartitionReading
from openstream_runtime.domain.errors import Gone, NotFound, Unavailable
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import Span
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.store import PersistBatch
from support.actors import Rig
from support.fake_history import outlive

pytestmark = pytest.mark.anyio
AT = TopicPartition("orders", 0)


async def stored(rig: Rig, topic: Topic, first: int, count: int, *, trim: int = 0) -> list[Position]:
    """Events `first` and on: appended, committed, and so many of the oldest in Redis trimmed."""
    positions = await rig.append(topic, *range(first, first + count))
    await commit(rig, topic)
    cut(rig, trim)
    return positions


async def commit(rig: Rig, topic: Topic) -> None:
    """Everything in Redis is in PostgreSQL from now on."""
    cursor = await rig.store.events.take(topic.id, 0, "me")
    assert cursor is not None
    events = rig.redis.streams[AT].after(cursor.position)
    if events:
        upto = events[-1].position
        await rig.store.events.write(
            [PersistBatch(topic.id, 0, cursor.epoch, cursor.generation, cursor.position, upto, events)]
        )


def cut(rig: Rig, count: int) -> None:
    """Trim that many of the oldest entries."""
    stream = rig.redis.streams[AT]
    for below in list(stream.entries)[count - 1 : count] if count else ():
        stream.trim(below.next())


def reading(rig: Rig, topic: Topic, span: Span | None = None, *, up_to_now: bool = False) -> PartitionReading:
    return PartitionReading(rig.world, topic, 0, span or Span(), up_to_now=up_to_now)


async def all_of(one: PartitionReading, *, count: int = 3) -> list[int]:
    found: list[StoredEvent] = []
    for _ in range(1_000):
        if one.ended:
            return [int(event.payload) for event in found]
        found += await one.read(count=count, max_bytes=1 << 20)
    raise AssertionError("no end")


async def test_what_was_trimmed_comes_from_postgresql_and_the_rest_from_redis(rig: Rig) -> None:
    topic = await rig.topic()
    await stored(rig, topic, 0, 20, trim=12)
    await rig.append(topic, *range(20, 25))
    assert await all_of(reading(rig, topic)) == list(range(25))


async def test_what_redis_has_is_not_asked_of_postgresql(rig: Rig) -> None:
    topic = await rig.topic()
    positions = await stored(rig, topic, 0, 20, trim=12)
    rig.store.trouble.unavailable = True
    assert await all_of(reading(rig, topic, Span(positions[12]))) == list(range(12, 20))
    with pytest.raises(Unavailable):
        await all_of(reading(rig, topic, Span(positions[11])))


async def test_a_fresh_stream_is_read_without_postgresql(rig: Rig) -> None:
    topic = await rig.topic()
    await rig.append(topic, 0, 1, 2)
    rig.store.trouble.unavailable = True
    assert await all_of(reading(rig, topic)) == [0, 1, 2]


@pytest.mark.parametrize("kept", [0, 3])
async def test_a_trim_in_the_middle_of_a_read_from_redis_leaves_no_gap(rig: Rig, kept: int) -> None:
    topic = await rig.topic()
    await stored(rig, topic, 0, 20)
    one = reading(rig, topic)
    found = [int(event.payload) for event in await one.read(count=3, max_bytes=1 << 20)]
    go = rig.redis.stall("read_after")
    async with anyio.create_task_group() as tasks:

        async def trim() -> None:
            cut(rig, 20 - kept)
            go.set()

        tasks.start_soon(trim)
        found += [int(event.payload) for event in await one.read(count=3, max_bytes=1 << 20)]
    assert found + await all_of(one) == list(range(20))


async def test_it_goes_cold_hot_and_cold_again(rig: Rig) -> None:
    topic = await rig.topic()
    await stored(rig, topic, 0, 10, trim=5)
    one = reading(rig, topic)
    found = [event for _ in range(4) for event in await one.read(count=2, max_bytes=1 << 20)]
    await stored(rig, topic, 10, 10, trim=15)
    assert [int(event.payload) for event in found] + await all_of(one) == list(range(20))


async def test_bytes_bound_a_page_on_either_side(rig: Rig) -> None:
    topic = await rig.topic()
    await stored(rig, topic, 1000, 10, trim=5)
    one = reading(rig, topic)
    sizes = []
    while not one.ended:
        sizes.append(len(await one.read(count=100, max_bytes=1)))
    assert max(sizes) == 1
    assert sum(sizes) == 10


async def test_with_redis_away_what_postgresql_has_is_served_and_no_end_is_made_up(rig: Rig) -> None:
    topic = await rig.topic()
    positions = await stored(rig, topic, 0, 10, trim=2)
    await rig.append(topic, 10)
    rig.redis.unavailable = True
    assert await all_of(reading(rig, topic, Span(last=positions[-1]))) == list(range(10))
    one = reading(rig, topic)
    assert [int(event.payload) for event in await one.read(count=100, max_bytes=1 << 20)] == list(range(10))
    assert not one.ended
    with pytest.raises(Unavailable):
        await one.read(count=100, max_bytes=1 << 20)
    with pytest.raises(Unavailable):
        await all_of(reading(rig, topic, Span(positions[-1].next())))
    rig.redis.unavailable = False
    assert await all_of(one) == [10]


async def test_redis_that_goes_away_in_the_middle_is_replaced_as_far_as_postgresql_reaches(rig: Rig) -> None:
    topic = await rig.topic()
    positions = await stored(rig, topic, 0, 10)
    one = reading(rig, topic, Span(last=positions[-1]))
    found = [int(event.payload) for event in await one.read(count=4, max_bytes=1 << 20)]
    rig.redis.unavailable = True
    assert found + await all_of(one) == list(range(10))


@pytest.mark.parametrize("sampled", [False, True])
async def test_redis_that_lost_everything_hides_nothing_of_what_postgresql_has(rig: Rig, sampled: bool) -> None:
    topic = await rig.topic()
    await stored(rig, topic, 0, 10, trim=3)
    cursor = await rig.store.events.cursor(topic.id, 0)
    assert cursor is not None
    if sampled:
        rig.world.board.sample = Sample(1.0, cursors={AT: cursor})
    one = reading(rig, topic)
    found = [int(event.payload) for event in await one.read(count=5, max_bytes=1 << 20)]
    rig.redis.flush()
    assert await all_of(reading(rig, topic)) == list(range(10)), "nobody has verified the stream yet"
    await rig.append(topic, 10)
    assert await all_of(reading(rig, topic)) == list(range(11))
    assert found + await all_of(one) == list(range(11))


async def test_redis_that_came_back_behind_the_cursor_hides_nothing(rig: Rig) -> None:
    topic = await rig.topic()
    await stored(rig, topic, 0, 10)
    cursor = await rig.store.events.cursor(topic.id, 0)
    assert cursor is not None
    rig.world.board.sample = Sample(1.0, cursors={AT: cursor})
    rig.redis.lose_tail(AT, 4)
    assert await all_of(reading(rig, topic)) == list(range(10))


async def test_what_is_asked_for_and_dropped_is_gone(rig: Rig) -> None:
    topic = await rig.topic()
    positions = await stored(rig, topic, 0, 10, trim=8)
    outlive(rig.store, topic.id, 0, positions[5])
    with pytest.raises(Gone) as gone:
        await all_of(reading(rig, topic, Span(positions[2])))
    assert gone.value.facts == {"topic": "orders", "partition": 0, "earliest_id": positions[5]}
    assert await all_of(reading(rig, topic, Span(positions[5]))) == [5, 6, 7, 8, 9]
    assert await all_of(reading(rig, topic)) == [5, 6, 7, 8, 9], "who asks for all begins with the first that is kept"
    assert await all_of(reading(rig, topic, Span(last=positions[3]))) == []


async def test_a_reader_that_the_retention_overtakes_is_told(rig: Rig) -> None:
    topic = await rig.topic()
    positions = await stored(rig, topic, 0, 10, trim=8)
    one = reading(rig, topic)
    await one.read(count=2, max_bytes=1 << 20)
    outlive(rig.store, topic.id, 0, positions[5])
    with pytest.raises(Gone):
        await all_of(one)


async def test_redis_that_keeps_more_than_postgresql_makes_nothing_gone(rig: Rig) -> None:
    topic = await rig.topic()
    positions = await stored(rig, topic, 0, 10)
    outlive(rig.store, topic.id, 0, positions[5])
    for span in (Span(), Span(event_type="test"), Span(positions[2], event_type="test")):
        assert await all_of(reading(rig, topic, span)) == [n for n in range(10) if positions[n] >= span.first]


async def test_a_key_is_looked_up_in_postgresql_and_only_the_rest_is_searched(rig: Rig) -> None:
    topic = await rig.topic()
    await stored(rig, topic, 0, 10)
    await rig.append(topic, 10)
    rig.redis.calls.clear()
    assert await all_of(reading(rig, topic, Span(event_type="test")), count=100) == list(range(11))
    assert rig.redis.calls["read_after"] == 1
    assert await all_of(reading(rig, topic, Span(event_type="other")), count=100) == []
    assert await all_of(reading(rig, topic, Span(key="nobody")), count=100) == []
    rig.store.trouble.unavailable = True
    assert await all_of(reading(rig, topic, Span(event_type="test")), count=4) == list(range(11))


async def test_up_to_now_ends_however_fast_producers_are(rig: Rig) -> None:
    topic = await rig.topic()
    await stored(rig, topic, 0, 10, trim=4)
    one = reading(rig, topic, up_to_now=True)
    found = []
    for extra in range(100, 200):
        if one.ended:
            break
        found += [int(event.payload) for event in await one.read(count=3, max_bytes=1 << 20)]
        await rig.append(topic, extra, extra, extra, extra)
    assert one.ended
    assert found == list(range(10))


async def test_up_to_now_is_asked_of_redis_when_it_comes_back(rig: Rig) -> None:
    topic = await rig.topic()
    await stored(rig, topic, 0, 5)
    await rig.append(topic, 5)
    rig.redis.unavailable = True
    one = reading(rig, topic, up_to_now=True)
    found = [int(event.payload) for event in await one.read(count=100, max_bytes=1 << 20)]
    rig.redis.unavailable = False
    assert found + await all_of(one) == list(range(6))


async def test_a_span_that_is_empty_asks_nobody(rig: Rig) -> None:
    topic = await rig.topic()
    assert reading(rig, topic, Span(Position(5, 0), Position(4, 0))).ended


async def test_a_topic_that_has_nothing_is_at_its_end(rig: Rig) -> None:
    topic = await rig.topic()
    assert await all_of(reading(rig, topic)) == []
    assert await all_of(reading(rig, topic, up_to_now=True)) == []
    assert await all_of(reading(rig, topic, Span(ZERO, ZERO))) == []


async def test_a_topic_that_was_deleted_meanwhile_has_no_end(rig: Rig) -> None:
    await rig.topic()
    with pytest.raises(NotFound):
        await all_of(PartitionReading(rig.world, Topic(99, "orders", 1), 0, Span()))

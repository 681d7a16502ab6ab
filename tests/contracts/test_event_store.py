"""What every EventStore does, in memory as on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from openstream_runtime.domain.positions import ZERO, Cursor, Position, TopicPartition
from openstream_runtime.domain.topics import TopicSettings
from openstream_runtime.ports.store import Committed, FencedOff, PersistBatch
from support.store_harness import FakeUnderTest, StoreUnderTest, batch, event, new_topic, real_store, taken

pytestmark = pytest.mark.anyio
FAR_FUTURE = 2**63 - 1


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["fake", "postgresql"])
async def store(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[StoreUnderTest]:
    if request.param == "fake":
        yield FakeUnderTest()
    else:
        async with real_store(request.getfixturevalue("database_url")) as real:
            yield real


async def test_taking_bumps_the_epoch_and_keeps_the_cursor(store: StoreUnderTest) -> None:
    topic = await new_topic(store, 2)
    assert await store.events.take(topic.id, 1, "a") == Cursor(1, 0, ZERO)
    assert await store.events.take(topic.id, 1, "b") == Cursor(2, 0, ZERO)
    assert await store.events.cursor(topic.id, 1) == Cursor(2, 0, ZERO)
    assert await store.events.cursor(topic.id, 0) == Cursor(0, 0, ZERO)


async def test_there_is_nothing_to_take_of_an_unknown_topic_or_partition(store: StoreUnderTest) -> None:
    topic = await new_topic(store, 2)
    for topic_id, partition in [(topic.id, 2), (topic.id, -1), (2**31 - 1, 0)]:
        assert await store.events.take(topic_id, partition, "me") is None
        assert await store.events.cursor(topic_id, partition) is None


async def test_every_field_comes_back_byte_for_byte(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    events = [
        event(1, 0, payload=b' {"n": -0.0, "e": 1e2, "a":1,"a":2}\n'),
        event(1, 1, payload=rb'"\u0000 \ud800"', partition_key=None),
        event(1, 2, payload='"grüße 🚀"'.encode(), partition_key="schlüssel 🚀", event_type="ä\tb\\N\n"),
        event(2, 0, payload=b"null", headers=b'{"k":"v"}', timestamp_ms=0, partition_key=""),
        event(3, 7, payload=b"[" + b"1," * 500_000 + b"1]", timestamp_ms=-(2**63)),
        event(4, 0, partition_key="k" * 100_000, event_type="t" * 100_000, timestamp_ms=2**63 - 1),
    ]
    assert await store.events.write([batch(topic, cursor, events)]) == [Committed()]
    assert await store.rows(topic.id, 0) == [(0, one) for one in events]
    assert await store.events.cursor(topic.id, 0) == Cursor(1, 0, Position(4, 0))
    assert await store.count(topic.id, 0) == 6


async def test_writing_nothing_is_nothing(store: StoreUnderTest) -> None:
    assert await store.events.write([]) == []


async def test_a_cursor_moves_over_positions_that_hold_no_event(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    assert await store.events.write([batch(topic, cursor, [], upto=Position(9, 9))]) == [Committed()]
    assert await store.events.cursor(topic.id, 0) == Cursor(1, 0, Position(9, 9))
    assert await store.count(topic.id, 0) == 0


async def test_a_stale_epoch_writes_nothing(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    stale = await taken(store, topic, owner="a")
    await taken(store, topic, owner="b")
    assert await store.events.write([batch(topic, stale, [event(1)])]) == [FencedOff()]
    assert await store.rows(topic.id, 0) == []
    assert await store.events.cursor(topic.id, 0) == Cursor(2, 0, ZERO)


async def test_an_epoch_that_nobody_was_given_writes_nothing(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    ahead = cursor._replace(epoch=cursor.epoch + 1)
    assert await store.events.write([batch(topic, ahead, [event(1)])]) == [FencedOff()]
    assert await store.rows(topic.id, 0) == []


async def test_another_generation_writes_nothing(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    other = cursor._replace(generation=1)
    assert await store.events.write([batch(topic, other, [event(1)])]) == [FencedOff()]
    assert await store.rows(topic.id, 0) == []


@pytest.mark.parametrize("after", [Position(4, 9), Position(5, 1), Position(6, 0)])
async def test_a_batch_that_does_not_begin_at_the_cursor_writes_nothing(store: StoreUnderTest, after: Position) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    assert await store.events.write([batch(topic, cursor, [event(5, 0)])]) == [Committed()]
    elsewhere = Cursor(cursor.epoch, 0, after)
    assert await store.events.write([batch(topic, elsewhere, [event(7)])]) == [FencedOff()]
    assert [one.position for _, one in await store.rows(topic.id, 0)] == [Position(5, 0)]
    assert await store.events.cursor(topic.id, 0) == Cursor(1, 0, Position(5, 0))


async def test_the_same_batch_twice_is_written_once(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    again = batch(topic, await taken(store, topic), [event(1), event(2)])
    assert await store.events.write([again]) == [Committed()]
    assert await store.events.write([again]) == [FencedOff()]
    assert len(await store.rows(topic.id, 0)) == 2
    assert await store.count(topic.id, 0) == 2


async def test_each_batch_of_a_write_is_fenced_on_its_own(store: StoreUnderTest) -> None:
    topic, other = await new_topic(store, 3), await new_topic(store)
    cursors = [await taken(store, topic, number) for number in range(3)]
    foreign = await taken(store, other)
    await taken(store, topic, 1, owner="thief")
    written = await store.events.write(
        [
            batch(topic, cursors[2], [event(1)], partition=2),
            batch(topic, cursors[1], [event(1)], partition=1),
            batch(other, foreign, [event(1), event(2)]),
            batch(topic, cursors[0], [], upto=Position(3, 0)),
            PersistBatch(2**31 - 1, 0, 1, 0, ZERO, Position(1, 0), [event(1)]),
        ]
    )
    assert written == [Committed(), FencedOff(), Committed(), Committed(), FencedOff()]
    assert [len(await store.rows(topic.id, number)) for number in range(3)] == [0, 0, 1]
    assert len(await store.rows(other.id, 0)) == 2


async def test_batches_of_one_partition_may_follow_each_other_in_one_write(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    first = batch(topic, cursor, [event(1)])
    second = batch(topic, cursor._replace(position=first.upto), [event(2), event(3)])
    astray = batch(topic, cursor._replace(position=Position(9, 9)), [event(10)])
    assert await store.events.write([first, astray, second]) == [Committed(), FencedOff(), Committed()]
    assert [one.position.ms for _, one in await store.rows(topic.id, 0)] == [1, 2, 3]
    assert await store.events.cursor(topic.id, 0) == Cursor(1, 0, Position(3, 0))
    assert await store.count(topic.id, 0) == 3


async def test_ids_from_the_first_millisecond_to_the_last_are_stored(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    events = [event(0, 1), event(1_730_000_000_000), event(253_402_300_800_000), event(FAR_FUTURE, FAR_FUTURE)]
    assert await store.events.write([batch(topic, cursor, events)]) == [Committed()]
    assert [one for _, one in await store.rows(topic.id, 0)] == events


POISON = {
    "NUL in the key": {"partition_key": "a\0b"},
    "NUL in the type": {"event_type": "\0"},
    "lone surrogate in the key": {"partition_key": "\ud800"},
    "undecodable byte in the type": {"event_type": "\udcff"},
    "payload is not UTF-8": {"payload": b'"\xff"'},
    "NUL in the payload": {"payload": b'"\0"'},
    "headers are not UTF-8": {"headers": b"\xc3"},
    "NUL in the headers": {"headers": b"{\0}"},
    "a timestamp beyond bigint": {"timestamp_ms": 2**63},
    "a huge negative timestamp": {"timestamp_ms": -(10**40)},
}


@pytest.mark.parametrize("fields", POISON.values(), ids=POISON.keys())
async def test_a_refused_row_goes_to_quarantine_and_the_others_go_on(
    store: StoreUnderTest, fields: dict[str, Any]
) -> None:
    topic = await new_topic(store, 2)
    first, second = await taken(store, topic, 0), await taken(store, topic, 1)
    events = [event(1), event(2, **fields), event(3)]
    written = await store.events.write([batch(topic, first, events), batch(topic, second, [event(1)], partition=1)])
    assert written == [Committed(quarantined=1), Committed()]
    assert [one.position.ms for _, one in await store.rows(topic.id, 0)] == [1, 3]
    assert len(await store.rows(topic.id, 1)) == 1
    assert await store.quarantined(topic.id, 0) == [(Position(2, 0), "refused")]
    assert await store.events.cursor(topic.id, 0) == Cursor(1, 0, Position(3, 0))
    assert await store.count(topic.id, 0) == 3


async def test_a_batch_of_nothing_but_poison_still_moves_the_cursor(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    poison = [event(number, payload=b"\xfe") for number in range(1, 40)]
    assert await store.events.write([batch(topic, cursor, poison)]) == [Committed(quarantined=39)]
    assert await store.rows(topic.id, 0) == []
    assert await store.events.cursor(topic.id, 0) == Cursor(1, 0, Position(39, 0))


async def test_poison_of_a_fenced_batch_is_not_kept_anywhere(store: StoreUnderTest) -> None:
    topic = await new_topic(store, 2)
    stale = await taken(store, topic)
    await taken(store, topic, owner="thief")
    mine = await taken(store, topic, 1)
    written = await store.events.write(
        [
            batch(topic, stale, [event(1, payload=b"\xff")]),
            batch(topic, mine, [event(1, payload=b"\xff")], partition=1),
        ]
    )
    assert written == [FencedOff(), Committed(quarantined=1)]
    assert await store.quarantined(topic.id, 0) == []


async def test_a_row_that_is_stored_already_and_the_same_is_skipped(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    await store.plant(topic.id, 0, 0, event(2))
    assert await store.events.write([batch(topic, cursor, [event(1), event(2), event(3)])]) == [Committed()]
    assert [one for _, one in await store.rows(topic.id, 0)] == [event(1), event(2), event(3)]
    assert await store.quarantined(topic.id, 0) == []


@pytest.mark.parametrize(
    "other",
    [
        {"payload": b"{}"},
        {"event_type": "other"},
        {"partition_key": None},
        {"headers": b"{}"},
        {"timestamp_ms": 1},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_another_event_under_a_stored_position_is_a_collision(
    store: StoreUnderTest, other: dict[str, Any]
) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    await store.plant(topic.id, 0, 0, event(2))
    events = [event(1), event(2, **other), event(3)]
    assert await store.events.write([batch(topic, cursor, events)]) == [Committed(quarantined=1)]
    assert [one for _, one in await store.rows(topic.id, 0)] == [event(1), event(2), event(3)]
    assert await store.quarantined(topic.id, 0) == [(Position(2, 0), "collision")]


async def test_a_position_of_another_generation_is_no_collision(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    await store.plant(topic.id, 0, 7, event(2))
    assert await store.events.write([batch(topic, cursor, [event(2, payload=b"{}")])]) == [Committed()]
    assert [generation for generation, _ in await store.rows(topic.id, 0)] == [0, 7]


async def test_two_events_of_one_position_in_a_batch_collide_unless_they_are_the_same(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    events = [event(1), event(1), event(2), event(2, payload=b"{}"), event(3)]
    assert await store.events.write([batch(topic, cursor, events)]) == [Committed(quarantined=1)]
    assert [one for _, one in await store.rows(topic.id, 0)] == [event(1), event(2), event(3)]
    assert await store.quarantined(topic.id, 0) == [(Position(2, 0), "collision")]


@pytest.mark.parametrize(
    ("after", "upto", "events"),
    [
        (Position(5, 0), Position(4, 0), []),
        (Position(5, 0), Position(6, 0), [event(5, 0)]),
        (Position(5, 0), Position(6, 0), [event(6, 1)]),
    ],
)
async def test_a_batch_that_contradicts_itself_is_a_bug_of_the_caller(
    store: StoreUnderTest, after: Position, upto: Position, events: list[object]
) -> None:
    topic = await new_topic(store)
    with pytest.raises(ValueError, match="batch"):
        await store.events.write([PersistBatch(topic.id, 0, 1, 0, after, upto, events)])  # type: ignore[arg-type]


async def test_fifty_thousand_rows_fit_in_one_write(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    events = [event(1_730_000_000_000 + number // 7, number % 7) for number in range(50_000)]
    assert await store.events.write([batch(topic, cursor, events)]) == [Committed()]
    assert [one.position for _, one in await store.rows(topic.id, 0)] == [one.position for one in events]
    assert await store.count(topic.id, 0) == 50_000


async def test_cursors_tells_of_every_partition_by_name(store: StoreUnderTest) -> None:
    topic, gone = await new_topic(store, 2), await new_topic(store)
    cursor = await taken(store, topic, 1)
    await store.events.write([batch(topic, cursor, [event(1)], partition=1)])
    await store.catalog.begin_delete(gone.name)
    cursors = await store.events.cursors()
    assert cursors[TopicPartition(topic.name, 0)] == Cursor(0, 0, ZERO)
    assert cursors[TopicPartition(topic.name, 1)] == Cursor(1, 0, Position(1, 0))
    assert TopicPartition(gone.name, 0) not in cursors


async def test_a_topic_that_is_being_deleted_can_neither_be_taken_nor_written(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    await store.catalog.begin_delete(topic.name)
    assert await store.events.write([batch(topic, cursor, [event(1)])]) == [FencedOff()]
    guessed = cursor._replace(epoch=cursor.epoch + 1)
    assert await store.events.write([batch(topic, guessed, [event(1)])]) == [FencedOff()]
    assert await store.events.take(topic.id, 0, "me") is None
    assert await store.events.cursor(topic.id, 0) is None
    assert await store.rows(topic.id, 0) == []


async def test_a_topic_created_again_starts_from_nothing(store: StoreUnderTest) -> None:
    old = await new_topic(store)
    cursor = await taken(store, old)
    await store.events.write([batch(old, cursor, [event(1)])])
    await store.catalog.begin_delete(old.name)
    assert await store.catalog.purge(old, max_rows=100)
    new, is_new = await store.catalog.create_topic(old.name, 1, TopicSettings())
    assert is_new
    assert new.id != old.id
    assert await store.events.cursor(new.id, 0) == Cursor(0, 0, ZERO)
    assert await store.events.write([batch(old, cursor, [event(2)])]) == [FencedOff()]


async def test_owners_that_write_at_the_same_time_never_both_win(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    outcomes: list[object] = []

    async def own(name: str) -> None:
        for _ in range(5):
            cursor = await store.events.take(topic.id, 0, name)
            assert cursor is not None
            mine = event(cursor.position.ms + 1, event_type=name)
            outcomes.extend(await store.events.write([batch(topic, cursor, [mine])]))

    async with anyio.create_task_group() as tasks:
        for name in ("a", "b", "c"):
            tasks.start_soon(own, name)
    rows = await store.rows(topic.id, 0)
    assert len(outcomes) == 15
    assert len(rows) == outcomes.count(Committed()) == await store.count(topic.id, 0)
    assert [one.position.ms for _, one in rows] == list(range(1, len(rows) + 1))


async def test_ping_answers(store: StoreUnderTest) -> None:
    await store.events.ping()

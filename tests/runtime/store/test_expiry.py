"""History that ends: floors first, then whole tables, never what somebody still needs, and nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

import anyio
import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs

from openstream_runtime.domain.history import Span
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.topics import Topic, TopicSettings
from openstream_runtime.ports.store import Committed
from openstream_runtime.store import Store, open_store
from openstream_runtime.store.partitions import DAY_MS, Place, day_name, name_of
from support.store_harness import RealUnderTest, batch, event

pytestmark = pytest.mark.anyio
HOUR = DAY_MS // 24
#: Time begins here; everything happens in the past, where no clock but the one that is passed in matters.
DAY = 100
TABLES = "SELECT relid::text FROM pg_partition_tree('openstream.event_log') WHERE relid::text LIKE %s ORDER BY 1"


@pytest.fixture
async def own(store: RealUnderTest) -> AsyncIterator[Store]:
    """A node's store on the same database."""
    async with open_store(store.database_url) as own:
        yield own


async def topic_of(store: RealUnderTest, name: str, history_ms: int | None, partitions: int = 1) -> Topic:
    topic, _ = await store.catalog.create_topic(name, partitions, TopicSettings(history_ms=history_ms))
    return topic


async def wrote(store: RealUnderTest, topic: Topic, times: Sequence[int], partition: int = 0) -> None:
    cursor = await store.events.take(topic.id, partition, "me")
    assert cursor is not None
    events = [event(ms) for ms in times]
    assert await store.events.write([batch(topic, cursor, events, partition=partition)]) == [Committed()]


async def tables(store: RealUnderTest) -> list[str]:
    """The tables of rows of the days of these tests."""
    return [name for (name,) in await store.query(TABLES, "event_log_d0000000001__\\_k%")]


async def days(store: RealUnderTest) -> list[str]:
    return [name for (name,) in await store.query(TABLES, "event_log_d0000000001__")]


async def floor(store: RealUnderTest, topic: Topic, partition: int = 0) -> Position:
    return (await store.history.floors(topic.id))[partition]


async def left(store: RealUnderTest, topic: Topic, partition: int = 0) -> list[int]:
    """The times of what is still read."""
    page = await store.history.page(topic.id, partition, Span(), count=1000, max_bytes=1 << 20)
    return [one.position.ms for one in page.events]


def at(day: float) -> int:
    return round(day * DAY_MS)


async def test_a_day_goes_for_one_topic_and_stays_for_the_others(store: RealUnderTest, own: Store) -> None:
    short = await topic_of(store, "short", DAY_MS)
    week = await topic_of(store, "week", 7 * DAY_MS)
    ever = await topic_of(store, "ever", None)
    times = [at(DAY + n / 2) for n in range(30)]
    for topic in (short, week, ever):
        await wrote(store, topic, times)
    dropped = await own.maintain(at(DAY + 10))
    assert dropped == 9 + 3
    assert await tables(store) == [
        name_of(Place(DAY + n, keep)) for n in range(15) for keep in (0, 1, 7) if keep == 0 or n + keep >= 10
    ]
    assert await left(store, short) == [ms for ms in times if ms >= at(DAY + 9)]
    assert await left(store, week) == [ms for ms in times if ms >= at(DAY + 3)]
    assert await left(store, ever) == times
    assert (await floor(store, short), await floor(store, week)) == (Position(at(DAY + 9), 0), Position(at(DAY + 3), 0))
    assert await floor(store, ever) == ZERO
    assert await own.maintain(at(DAY + 10)) == 0


async def test_reads_stop_at_once_although_the_table_goes_when_its_day_has_passed(
    store: RealUnderTest, own: Store
) -> None:
    topic = await topic_of(store, "hour", HOUR)
    times = [at(DAY) + minute * 60_000 for minute in range(0, 240, 10)]
    await wrote(store, topic, times)
    now = at(DAY) + 3 * HOUR
    assert await own.maintain(now) == 0
    assert await left(store, topic) == [ms for ms in times if ms >= now - HOUR]
    seen = await store.query("SELECT ms FROM openstream.events ORDER BY ms")
    assert [ms for (ms,) in seen] == await left(store, topic), "the view shows no more than a read"
    assert len(await store.rows(topic.id, 0)) == len(times)
    assert await own.maintain(at(DAY + 1) + HOUR - 1) == 0
    assert await own.maintain(at(DAY + 1) + HOUR) == 1
    assert await tables(store) == []
    assert await days(store) == [], "a day nothing is left of goes, too"


async def test_a_floor_never_goes_back(store: RealUnderTest, own: Store) -> None:
    topic = await topic_of(store, "t", DAY_MS)
    await wrote(store, topic, [at(DAY + n) for n in range(8)])
    await own.maintain(at(DAY + 6))
    assert await floor(store, topic) == Position(at(DAY + 5), 0)
    await own.maintain(at(DAY + 3))  # a node whose clock is behind
    await store.catalog.alter_topic("t", TopicSettings(history_ms=5 * DAY_MS))
    await own.maintain(at(DAY + 6))
    assert await floor(store, topic) == Position(at(DAY + 5), 0)
    await store.catalog.alter_topic("t", TopicSettings())
    await own.maintain(at(DAY + 1000))
    assert await floor(store, topic) == Position(at(DAY + 5), 0)
    assert await left(store, topic) == [at(DAY + 5), at(DAY + 6), at(DAY + 7)]


async def test_nothing_is_touched_above_the_cursor(store: RealUnderTest, own: Store) -> None:
    topic = await topic_of(store, "t", HOUR, 2)
    await wrote(store, topic, [at(DAY) + 5])
    assert await own.maintain(at(DAY + 500)) == 1
    assert await floor(store, topic) == Position(at(DAY) + 5, 1)
    assert await floor(store, topic, 1) == ZERO, "where nothing was ever written there is nothing to raise"
    late = [at(DAY) + 6, at(DAY + 2)]
    await wrote(store, topic, late)  # persisted late, and all there until the next round
    assert await left(store, topic) == late


async def test_while_nothing_can_be_gone_the_floor_stays_where_it_is(store: RealUnderTest, own: Store) -> None:
    topic = await topic_of(store, "t", DAY_MS, 2)
    await wrote(store, topic, [at(DAY), at(DAY + 1)])
    for now in (DAY + 0.5, DAY + 1):
        await own.maintain(at(now))
        assert await floor(store, topic) == ZERO
    await own.maintain(at(DAY + 1) + 1)
    assert await floor(store, topic) == Position(at(DAY) + 1, 0)
    known = await store.catalog.topic("t")
    assert known is not None
    assert known.history_floor_ms == at(DAY) + 1, "a partition nobody has written to does not matter"


async def test_a_history_made_longer_meanwhile_keeps_what_is_there(store: RealUnderTest, own: Store) -> None:
    topic, other = await topic_of(store, "t", DAY_MS), await topic_of(store, "other", DAY_MS)
    await wrote(store, topic, [at(DAY + n) for n in range(4)])
    await wrote(store, other, [at(DAY + n) for n in range(4)])
    await store.raise_floor(topic.id, 0, Position(at(DAY + 1), 0))  # and then the node died before it could drop
    await store.catalog.alter_topic("t", TopicSettings(history_ms=30 * DAY_MS))
    assert await own.maintain(at(DAY + 4)) == 0
    assert await left(store, topic) == [at(DAY + 1), at(DAY + 2), at(DAY + 3)]
    assert await left(store, other) == [at(DAY + 3)], "it lies in the same tables, and is not shown any more"
    assert await own.maintain(at(DAY + 33)) == 3
    assert await own.maintain(at(DAY + 34)) == 1


async def test_what_was_kept_for_ever_goes_when_its_topics_are_given_an_end(store: RealUnderTest, own: Store) -> None:
    topic, other = await topic_of(store, "t", None), await topic_of(store, "other", None)
    for one in (topic, other):
        await wrote(store, one, [at(DAY), at(DAY + 3)])
    assert await own.maintain(at(DAY + 50)) == 0
    await store.catalog.alter_topic("t", TopicSettings(history_ms=DAY_MS))
    assert await own.maintain(at(DAY + 50)) == 0, "the other one still wants it"
    assert (await left(store, topic), await left(store, other)) == ([], [at(DAY), at(DAY + 3)])
    deleted = await store.catalog.begin_delete("other")
    assert deleted is not None
    assert await own.maintain(at(DAY + 50)) == 2, "rows of a deleted topic hold nothing"
    assert await store.catalog.purge(deleted, max_rows=100)
    assert await tables(store) == []


async def test_a_clock_that_is_ahead_costs_no_history(store: RealUnderTest, own: Store) -> None:
    topic = await topic_of(store, "t", 365 * DAY_MS)
    yesterday = round(time.time() * 1000) - DAY_MS
    await wrote(store, topic, [yesterday])
    assert await own.maintain(yesterday + 10_000 * DAY_MS) == 0
    assert await left(store, topic) == [yesterday]


async def test_floors_move_in_steps_and_what_happens_is_said(store: RealUnderTest, own: Store) -> None:
    topic = await topic_of(store, "t", 64 * HOUR, 2)
    for partition in (0, 1):
        await wrote(store, topic, [at(DAY + n) for n in range(9)], partition)
    before = await store.catalog.version()
    with capture_logs() as logs:
        for minute in range(60):
            await own.maintain(at(DAY + 4) + minute * 60_000)
    raised = [entry for entry in logs if entry["event"] == "history floor raised"]
    assert [(one["topic"], one["partitions"], one["floor_ms"]) for one in raised] == [("t", 2, at(DAY + 4) - 64 * HOUR)]
    assert [(one["table"], one["topics"]) for one in logs if one["event"] == "history dropped"] == [
        (name_of(Place(DAY, 3)), ["t"])
    ]
    assert await store.catalog.version() == before + 1, "nodes read the catalog again"
    known = await store.catalog.topic("t")
    assert known is not None
    assert known.history_floor_ms == at(DAY + 4) - 64 * HOUR


@pytest.mark.parametrize("whole_day", [False, True])
async def test_a_long_reader_holds_up_the_drop_and_nobody_else(
    store: RealUnderTest, own: Store, *, whole_day: bool
) -> None:
    topic, ever = await topic_of(store, "t", DAY_MS), await topic_of(store, "ever", None)
    await wrote(store, topic, [at(DAY)])
    await wrote(store, ever, [at(DAY + 1)])
    if whole_day:  # what locks the table that everybody writes to
        await store.query("DROP TABLE openstream." + name_of(Place(DAY, 1)))
    longest = 0.0
    done = anyio.Event()
    written = 0

    async def write_on() -> None:
        """Would be refused after the store's own lock_timeout if it waited behind somebody that waits."""
        nonlocal longest, written
        while not done.is_set():
            began = time.perf_counter()
            await wrote(store, ever, [at(DAY + 1) + 1 + written])
            assert await left(store, ever)
            longest = max(longest, time.perf_counter() - began)
            written += 1

    async with await AsyncConnection.connect(store.database_url) as reader:
        await reader.execute("SELECT count(*) FROM openstream.events")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_on)
            for _ in range(5):
                assert await own.maintain(at(DAY + 5)) == 0
            done.set()
        assert day_name(DAY) in await days(store)
        assert await left(store, topic) == [], "its floor is raised all the same"
    assert written > 0
    print(f"{written} writes and reads beside five attempts; the longest took {longest * 1000:.0f} ms")
    assert await own.maintain(at(DAY + 5)) == (0 if whole_day else 1)
    assert day_name(DAY) not in await days(store)


async def test_a_partition_that_is_being_written_is_left_for_the_next_round(store: RealUnderTest, own: Store) -> None:
    topic = await topic_of(store, "t", DAY_MS, 2)
    for partition in (0, 1):
        await wrote(store, topic, [at(DAY), at(DAY + 9)], partition)
    async with await AsyncConnection.connect(store.database_url) as writer:
        await writer.execute("SELECT FROM openstream.partitions WHERE partition = 0 FOR NO KEY UPDATE")
        with anyio.fail_after(10):
            assert await own.maintain(at(DAY + 5)) == 0, "every partition of a topic is asked"
        assert (await floor(store, topic), await floor(store, topic, 1)) == (ZERO, Position(at(DAY + 4), 0))
    assert await own.maintain(at(DAY + 5)) == 1
    assert await floor(store, topic) == Position(at(DAY + 4), 0)


async def test_nodes_at_it_together_drop_each_table_once(store: RealUnderTest) -> None:
    topic = await topic_of(store, "t", DAY_MS)
    await wrote(store, topic, [at(DAY + n) for n in range(20)])
    counts: list[int] = []

    async def node() -> None:
        async with open_store(store.database_url) as own:
            counts.append(await own.maintain(at(DAY + 30)))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(node)
    async with open_store(store.database_url) as last:
        counts.append(await last.maintain(at(DAY + 30)))
    assert sum(counts) == 20
    assert await tables(store) == []


async def test_an_event_that_comes_after_its_day_was_dropped_is_kept_all_the_same(
    store: RealUnderTest, own: Store
) -> None:
    short, late = await topic_of(store, "short", DAY_MS), await topic_of(store, "late", DAY_MS)
    await wrote(store, short, [at(DAY)])
    assert await own.maintain(at(DAY + 5)) == 1
    await wrote(store, late, [at(DAY) + 7])
    assert await left(store, late) == [at(DAY) + 7]
    assert await store.quarantined(late.id, 0) == []

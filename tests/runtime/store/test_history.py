"""How PostgreSQL finds a page: by an index, on the days it needs, with nothing held afterwards."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import anyio
import psycopg
import pytest

from openstream_runtime.domain.history import END, Span
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.topics import Topic, TopicSettings
from openstream_runtime.ports.store import Committed
from openstream_runtime.store import open_store
from openstream_runtime.store.queries import query
from support.store_harness import RealUnderTest, batch, event, new_topic, taken

pytestmark = pytest.mark.anyio
DAY = 86_400_000
DAYS, ROWS_A_DAY, KEYS = 5, 20_000, 1_000
MANY = DAYS * ROWS_A_DAY


async def filled(store: RealUnderTest, days: int = DAYS, rows: int = MANY, classes: Sequence[int] = (0,)) -> Topic:
    """Many events over some days, spread over keys and classes of history; statistics are fresh."""
    topic = await new_topic(store)
    for day, keep in itertools.product(range(days), classes):
        await store.catalog.alter_topic(topic.name, TopicSettings(history_ms=keep * DAY or None))
        mine = batch(topic, await taken(store, topic), [event(day * DAY + 1, keep)])
        assert await store.events.write([mine]) == [Committed()]
    await store.query(
        "INSERT INTO openstream.event_log (topic_id, partition, generation, idx, keep, ms, seq, event_type, "
        "partition_key, payload, timestamp_ms) "
        "SELECT %s, 0, 0, 0, (%s::smallint[])[1 + n / %s %% %s], n %% %s * 86400000::bigint + 2 + n / %s, n, "
        "'type-' || n %% 7, 'user-' || n %% %s, '{}', n FROM generate_series(1, %s) AS n",
        *(topic.id, list(classes), days, len(classes), days, days, rows // 100, rows),
    )
    await store.query("ANALYZE openstream.event_log")
    return topic


async def plan(store: RealUnderTest, name: str, topic: Topic, span: Span, *, count: int = 100) -> dict[str, Any]:
    """What EXPLAIN (ANALYZE) says of a page."""
    values = {
        "topic_id": topic.id, "partition": 0, "first_ms": span.first.ms, "first_seq": span.first.seq,
        "last_ms": span.last.ms, "last_seq": span.last.seq, "event_type": span.event_type, "key": span.key,
        "count": count, "max_bytes": 1 << 20, "scan": count,
    }  # fmt: skip
    async with await psycopg.AsyncConnection.connect(store.database_url) as connection:
        explain = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query(name)
        row = await (await connection.execute(explain, values, prepare=False)).fetchone()
    assert row is not None
    found: dict[str, Any] = row[0][0]
    return found


def nodes(tree: dict[str, Any]) -> list[dict[str, Any]]:
    return [tree, *(found for child in tree.get("Plans", ()) for found in nodes(child))]


async def indexes_of_keys(store: RealUnderTest) -> set[str]:
    rows = await store.query("SELECT relid::text FROM pg_partition_tree('openstream.event_log_key') WHERE isleaf")
    return {name.removeprefix("openstream.") for (name,) in rows}


def scans(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes that read events, those of them that ran."""
    every = [one for one in nodes(found["Plan"]) if str(one.get("Relation Name", "")).startswith("event_log")]
    assert every
    return [one for one in every if one["Actual Loops"]]


async def test_a_keys_history_is_found_by_its_index_among_many(store: RealUnderTest) -> None:
    topic = await filled(store)
    # Days that are made and empty cost nothing, however they are read: leave them out.
    span = Span(last=Position(DAYS * DAY, 0), key="user-7")
    found = await plan(store, "history_page_of_key", topic, span, count=1000)
    used = scans(found)
    assert {one["Node Type"] for one in used} == {"Index Scan"}, used
    assert {one["Index Name"] for one in used} <= await indexes_of_keys(store)
    assert sum(one["Actual Rows"] + one.get("Rows Removed by Filter", 0) for one in used) <= MANY // KEYS + 10
    assert not [one for one in nodes(found["Plan"]) if one["Node Type"] == "Sort"]
    began = time.perf_counter()
    page = await store.history.page(topic.id, 0, Span(key="user-7"), count=1000, max_bytes=1 << 20)
    print(f"a key's {len(page.events)} events of {MANY}: {(time.perf_counter() - began) * 1000:.1f} ms")
    assert len(page.events) == MANY // KEYS
    assert page.upto == END


@pytest.mark.chaos
async def test_a_million_events_of_a_month_and_three_histories_are_paged_by_their_index(store: RealUnderTest) -> None:
    days, rows = 30, 1_000_000
    topic = await filled(store, days, rows, (0, 7, 30))
    found = await plan(
        store, "history_page_of_key", topic, Span(last=Position(days * DAY, 0), key="user-7"), count=1000
    )
    used = scans(found)
    assert {one["Node Type"] for one in used} == {"Index Scan"}, used
    assert {one["Index Name"] for one in used} <= await indexes_of_keys(store)
    assert sum(one["Actual Rows"] + one.get("Rows Removed by Filter", 0) for one in used) == 100
    # Blocks looked at, which are the same however busy the machine is: a few for each table and one for each event.
    assert found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"] < 100 + 5 * len(used)
    found = await plan(store, "history_page", topic, Span(Position(15 * DAY, 0)), count=500)
    assert len(scans(found)) == 3, "of all the days that follow only the first is opened, in its three classes"
    assert sum(one["Actual Rows"] for one in scans(found)) <= 500 + 3
    assert not [one for one in nodes(found["Plan"]) if one["Node Type"] == "Sort"]

    async def fastest(span: Span, expected: int) -> float:
        """In milliseconds, of a few: what the machine does beside it is not what is measured."""
        took = []
        for _ in range(10):
            began = time.perf_counter()
            page = await store.history.page(topic.id, 0, span, count=500, max_bytes=1 << 20)
            took.append((time.perf_counter() - began) * 1000)
            assert len(page.events) == expected
        return min(took)

    spans = {"the start": Span(), "the middle": Span(Position(15 * DAY, 0)), "the end": Span(Position(30 * DAY - 1, 0))}
    for where, expected in {"the start": 500, "the middle": 500, "the end": 0}.items():
        print(f"a page at {where}: {await fastest(spans[where], expected):.1f} ms")
    print(f"a key's 100 events: {await fastest(Span(key='user-7'), 100):.1f} ms")


async def test_a_page_reads_no_more_than_its_rows_and_no_other_days(store: RealUnderTest) -> None:
    topic = await filled(store)
    found = await plan(store, "history_page", topic, Span(Position(2 * DAY, 0)), count=100)
    [used] = scans(found)
    assert used["Node Type"] == "Index Scan"
    assert used["Actual Rows"] == 100, "one day, and not one row too many"
    bounded = await plan(store, "history_page", topic, Span(Position(3 * DAY, 0), Position(4 * DAY - 1, 0)))
    named = [one["Relation Name"] for one in nodes(bounded["Plan"]) if "event_log" in one.get("Relation Name", "")]
    assert len(named) == 1, "days outside the bounds are not even in the plan"


async def test_every_day_has_the_index_of_keys_also_one_that_is_made_later(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    await store.events.write([batch(topic, await taken(store, topic), [event(40_000 * DAY)])])
    rows = await store.query(
        "SELECT count(*) FROM pg_partition_tree('openstream.event_log') WHERE isleaf "
        "UNION ALL SELECT count(*) FROM pg_partition_tree('openstream.event_log_key') WHERE isleaf"
    )
    assert rows[0] == rows[1]


async def test_a_reader_that_takes_its_time_holds_no_connection(empty_url: str, store: RealUnderTest) -> None:
    topic = await new_topic(store)
    events = [event(n) for n in range(1, 200)]
    await store.events.write([batch(topic, await taken(store, topic), events)])
    async with open_store(empty_url, max_connections=1) as other:
        at, seen = ZERO, 0
        while at < END:
            page = await other.history.page(topic.id, 0, Span(at), count=20, max_bytes=1 << 20)
            seen += len(page.events)
            at = page.upto.next()
            # Between the pages the only connection is free for everybody else.
            assert await other.events.cursor(topic.id, 0) is not None
        assert seen == len(events)


async def test_readers_leave_most_of_the_pool_to_writers(empty_url: str, store: RealUnderTest) -> None:
    topic = await new_topic(store)
    async with open_store(empty_url, max_connections=8) as other:
        busiest = 0

        async def read() -> None:
            nonlocal busiest
            for _ in range(5):
                await other.history.page(topic.id, 0, Span(), count=20, max_bytes=1 << 20)
                busiest = max(busiest, other.stats()["pool_size"])

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(read)
        assert busiest <= 3, "fifty readers at once share three connections"


async def test_settings_of_a_topic_do_not_matter_to_its_history(store: RealUnderTest) -> None:
    topic, _ = await store.catalog.create_topic("short", 1, TopicSettings(retention_ms=0))
    await store.events.write([batch(topic, await taken(store, topic), [event(1)])])
    assert len((await store.history.page(topic.id, 0, Span(), count=1, max_bytes=1)).events) == 1

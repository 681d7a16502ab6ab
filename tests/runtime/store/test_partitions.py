"""Time partitions: ahead of time, on demand, by several nodes at once, and after an operator's hand."""

from __future__ import annotations

import time

import anyio
import pytest

from openstream_runtime.domain.positions import Position
from openstream_runtime.ports import Committed
from openstream_runtime.store import open_store
from openstream_runtime.store.partitions import DAY_MS, LAST_DAY, identifier, name_of
from support.store_harness import RealUnderTest, batch, event, new_topic, taken

pytestmark = pytest.mark.anyio
LIST = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'openstream.event_log'::regclass ORDER BY 1"


async def attached(store: RealUnderTest) -> list[str]:
    return [name.removeprefix("openstream.") for (name,) in await store.query(LIST)]


def count_of(day: int) -> str:
    return f"SELECT count(*) FROM openstream.{name_of(day)}"  # noqa: S608 - of an integer


async def test_today_and_two_days_more_exist_once_the_store_is_open(store: RealUnderTest) -> None:
    names = await attached(store)
    today = int(time.time() * 1000) // DAY_MS
    assert len(names) == 3
    assert names[0] in {name_of(today - 1), name_of(today)}  # midnight may have passed since
    first = int(names[0][-12:])
    assert names == [name_of(first + n) for n in range(3)]


async def test_a_day_is_made_when_an_event_needs_it_and_holds_just_that_day(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    edges = [event(10 * DAY_MS), event(11 * DAY_MS - 1), event(11 * DAY_MS)]
    await store.events.write([batch(topic, await taken(store, topic), edges)])
    assert {name_of(10), name_of(11)} <= set(await attached(store))
    assert await store.query(count_of(10)) == [(2,)]
    assert await store.query(count_of(11)) == [(1,)]


async def test_a_day_in_the_middle_of_a_batch_is_made_too(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    events = [event(20 * DAY_MS), event(22 * DAY_MS), event(24 * DAY_MS), event(24 * DAY_MS, 1)]
    assert await store.events.write([batch(topic, await taken(store, topic), events)]) == [Committed()]
    assert len(await store.rows(topic.id, 0)) == 4
    assert {name_of(20), name_of(22), name_of(24)} <= set(await attached(store))


async def test_the_last_day_there_is_reaches_to_the_end(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    end = Position(2**63 - 1, 2**63 - 1)
    last = [event(LAST_DAY * DAY_MS), event(*end)]
    assert await store.events.write([batch(topic, await taken(store, topic), last)]) == [Committed()]
    assert name_of(LAST_DAY) in await attached(store)


async def test_nodes_that_need_the_same_day_make_it_once(store: RealUnderTest) -> None:
    topic = await new_topic(store, 6)
    outcomes: list[object] = []

    async def node(number: int) -> None:
        async with open_store(store.database_url, max_connections=1) as own:
            cursor = await own.events.take(topic.id, number, f"node-{number}")
            assert cursor is not None
            mine = batch(topic, cursor, [event(30 * DAY_MS), event(31 * DAY_MS)], partition=number)
            outcomes.extend(await own.events.write([mine]))

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(node, number)
    assert outcomes == [Committed()] * 6
    assert (await attached(store)).count(name_of(30)) == 1


async def test_a_day_that_was_dropped_behind_our_back_is_made_again(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    await store.events.write([batch(topic, cursor, [event(40 * DAY_MS)])])
    await store.query("DROP TABLE openstream." + name_of(40))
    cursor = cursor._replace(position=Position(40 * DAY_MS, 0))
    assert await store.events.write([batch(topic, cursor, [event(40 * DAY_MS, 1)])]) == [Committed()]
    assert [one.position.seq for _, one in await store.rows(topic.id, 0)] == [1]
    assert await store.quarantined(topic.id, 0) == []


async def test_a_day_that_was_detached_comes_back_with_its_rows_when_a_late_event_needs_it(
    store: RealUnderTest,
) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    await store.events.write([batch(topic, cursor, [event(50 * DAY_MS)])])
    await store.query(f"ALTER TABLE openstream.event_log DETACH PARTITION openstream.{name_of(50)}")
    cursor = cursor._replace(position=Position(50 * DAY_MS, 0))
    assert await store.events.write([batch(topic, cursor, [event(50 * DAY_MS, 1)])]) == [Committed()]
    assert [one.position.seq for _, one in await store.rows(topic.id, 0)] == [0, 1]


async def test_making_a_day_does_not_wait_for_readers_and_writers(store: RealUnderTest) -> None:
    from psycopg import AsyncConnection

    topic = await new_topic(store)
    cursor = await taken(store, topic)
    async with await AsyncConnection.connect(store.database_url) as busy:
        await busy.execute("SELECT count(*) FROM openstream.event_log")
        await busy.execute(
            "INSERT INTO openstream.event_log (topic_id, partition, generation, idx, ms, seq, timestamp_ms, "
            "event_type, payload) SELECT 0, 0, 0, 0, (extract(epoch FROM now()) * 1000)::bigint, 0, 0, 't', '{}'"
        )
        with anyio.fail_after(10):
            assert await store.events.write([batch(topic, cursor, [event(60 * DAY_MS)])]) == [Committed()]


async def test_maintenance_makes_what_is_missing(store: RealUnderTest) -> None:
    async with open_store(store.database_url) as own:
        for name in await attached(store):
            await store.query(f"DROP TABLE openstream.{name}")
        async with open_store(store.database_url):
            assert len(await attached(store)) == 3
        await own.maintain()
        assert len(await attached(store)) == 3


async def test_a_table_of_an_operator_s_own_is_left_alone_by_a_purge(store: RealUnderTest) -> None:
    await store.query("CREATE TABLE openstream.archive PARTITION OF openstream.event_log FOR VALUES FROM (-9) TO (0)")
    topic = await new_topic(store)
    await store.events.write([batch(topic, await taken(store, topic), [event(1)])])
    await store.catalog.begin_delete(topic.name)
    assert await store.catalog.purge(topic, max_rows=10)
    assert await store.query("SELECT count(*) FROM openstream.event_log") == [(0,)]


def test_names_sort_as_their_days_do() -> None:
    days = [0, 9, 10, 20_000, LAST_DAY]
    assert sorted(name_of(day) for day in days) == [name_of(day) for day in days]


@pytest.mark.parametrize(
    "name", ["archive", "event_log", 'event_log_d000000000001"; DROP', "event_log_d00000000000\n1"]
)
def test_only_our_own_names_become_identifiers(name: str) -> None:
    with pytest.raises(ValueError, match="partition"):
        identifier(name)

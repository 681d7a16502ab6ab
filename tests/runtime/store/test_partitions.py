"""Time partitions: ahead of time, on demand, by several nodes at once, and after an operator's hand."""

from __future__ import annotations

import time

import anyio
import pytest

from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import TopicSettings
from openstream_runtime.ports.store import Committed
from openstream_runtime.store import open_store
from openstream_runtime.store.partitions import DAY_MS, LAST_DAY, Place, class_of, day_name, identifier, name_of
from support.store_harness import RealUnderTest, batch, day_made, event, new_topic, taken

pytestmark = pytest.mark.anyio
LIST = "SELECT relid::text FROM pg_partition_tree('openstream.event_log') WHERE isleaf AND level = 2 ORDER BY 1"


def for_ever(day: int) -> str:
    return name_of(Place(day, 0))


async def attached(store: RealUnderTest) -> list[str]:
    return [name.removeprefix("openstream.") for (name,) in await store.query(LIST)]


def count_of(day: int) -> str:
    return f"SELECT count(*) FROM openstream.{for_ever(day)}"  # noqa: S608 - of an integer


async def test_today_and_two_days_more_exist_for_every_class_of_history_once_the_store_is_open(
    store: RealUnderTest,
) -> None:
    assert await attached(store) == [], "without a topic there is nothing to make"
    await new_topic(store)
    for name, history_ms in {"hour": DAY_MS // 24, "day": DAY_MS, "week": 7 * DAY_MS}.items():
        await store.catalog.create_topic(name, 1, TopicSettings(history_ms=history_ms))
    async with open_store(store.database_url):
        names = await attached(store)
    first = int(names[0].removeprefix("event_log_d")[:12])
    today = int(time.time() * 1000) // DAY_MS
    assert first in {today - 1, today}  # midnight may have passed since
    assert names == [name_of(Place(first + n, keep)) for n in range(3) for keep in (0, 1, 7)]


@pytest.mark.parametrize(
    ("history_ms", "keep"),
    [(None, 0), (0, 1), (1, 1), (DAY_MS, 1), (DAY_MS + 1, 2), (30 * DAY_MS, 30), (2**63 - 1, 32767)],
)
def test_a_history_is_classed_by_its_days_rounded_up(history_ms: int | None, keep: int) -> None:
    assert class_of(history_ms) == keep


async def test_a_day_is_made_when_an_event_needs_it_and_holds_just_that_day(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    edges = [event(10 * DAY_MS), event(11 * DAY_MS - 1), event(11 * DAY_MS)]
    await store.events.write([batch(topic, await taken(store, topic), edges)])
    assert {for_ever(10), for_ever(11)} <= set(await attached(store))
    assert await store.query(count_of(10)) == [(2,)]
    assert await store.query(count_of(11)) == [(1,)]


async def test_a_day_in_the_middle_of_a_batch_is_made_too(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    events = [event(20 * DAY_MS), event(22 * DAY_MS), event(24 * DAY_MS), event(24 * DAY_MS, 1)]
    assert await store.events.write([batch(topic, await taken(store, topic), events)]) == [Committed()]
    assert len(await store.rows(topic.id, 0)) == 4
    assert {for_ever(20), for_ever(22), for_ever(24)} <= set(await attached(store))


async def test_the_last_day_there_is_reaches_to_the_end(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    end = Position(2**63 - 1, 2**63 - 1)
    last = [event(LAST_DAY * DAY_MS), event(*end)]
    assert await store.events.write([batch(topic, await taken(store, topic), last)]) == [Committed()]
    assert for_ever(LAST_DAY) in await attached(store)


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
    assert (await attached(store)).count(for_ever(30)) == 1


async def test_a_day_that_was_dropped_behind_our_back_is_made_again(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    await store.events.write([batch(topic, cursor, [event(40 * DAY_MS)])])
    await store.query("DROP TABLE openstream." + for_ever(40))
    cursor = cursor._replace(position=Position(40 * DAY_MS, 0))
    assert await store.events.write([batch(topic, cursor, [event(40 * DAY_MS, 1)])]) == [Committed()]
    assert [one.position.seq for _, one in await store.rows(topic.id, 0)] == [1]
    assert await store.quarantined(topic.id, 0) == []


async def test_making_a_day_does_not_wait_for_readers_and_writers(store: RealUnderTest) -> None:
    from psycopg import AsyncConnection

    topic = await new_topic(store)
    cursor = await taken(store, topic)
    await day_made(store, int(time.time() * 1000))
    async with await AsyncConnection.connect(store.database_url) as busy:
        await busy.execute("SELECT count(*) FROM openstream.event_log")
        await busy.execute(
            "INSERT INTO openstream.event_log (topic_id, partition, generation, idx, keep, ms, seq, timestamp_ms, "
            "event_type, payload) SELECT 0, 0, 0, 0, 0, (extract(epoch FROM now()) * 1000)::bigint, 0, 0, 't', '{}'"
        )
        with anyio.fail_after(10):
            assert await store.events.write([batch(topic, cursor, [event(60 * DAY_MS)])]) == [Committed()]


async def test_maintenance_makes_what_is_missing(store: RealUnderTest) -> None:
    async with open_store(store.database_url) as own:
        await new_topic(store)
        await own.maintain(0)
        names = await attached(store)
        assert len(names) == 3
        for name in names:
            await store.query(f"DROP TABLE openstream.{name}")
        await own.maintain(0)
        assert await attached(store) == names


@pytest.mark.parametrize("gone", [for_ever(50), day_name(50)])
async def test_what_was_detached_comes_back_with_its_rows_when_a_late_event_needs_it(
    store: RealUnderTest, gone: str
) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    await store.events.write([batch(topic, cursor, [event(50 * DAY_MS)])])
    parent = day_name(50) if gone == for_ever(50) else "event_log"
    await store.query(f"ALTER TABLE openstream.{parent} DETACH PARTITION openstream.{gone}")
    cursor = cursor._replace(position=Position(50 * DAY_MS, 0))
    assert await store.events.write([batch(topic, cursor, [event(50 * DAY_MS, 1)])]) == [Committed()]
    assert [one.position.seq for _, one in await store.rows(topic.id, 0)] == [0, 1]


async def test_rows_lie_in_the_class_that_is_set_at_the_time_whatever_a_node_believes(store: RealUnderTest) -> None:
    topic, _ = await store.catalog.create_topic("t", 2, TopicSettings(history_ms=DAY_MS))
    async with open_store(store.database_url) as other:
        for day, history_ms in enumerate([7 * DAY_MS, None, 3, 3], 70):
            await store.catalog.alter_topic("t", TopicSettings(history_ms=history_ms))
            events = (store.events, other.events)[day % 2]
            for partition in (0, 1):
                mine = batch(topic, await taken(store, topic, partition), [event(day * DAY_MS)], partition=partition)
                assert await events.write([mine]) == [Committed()]
    found = await store.query("SELECT tableoid::regclass::text, keep FROM openstream.event_log ORDER BY ms, partition")
    places = [Place(70, 7), Place(71, 0), Place(72, 1), Place(73, 1)]
    assert found == [(name_of(place), place.keep) for place in places for _ in (0, 1)]


async def test_a_table_of_an_operator_s_own_is_left_alone_by_a_purge(store: RealUnderTest) -> None:
    await store.query("CREATE TABLE openstream.archive PARTITION OF openstream.event_log FOR VALUES FROM (-9) TO (0)")
    topic = await new_topic(store)
    await store.events.write([batch(topic, await taken(store, topic), [event(1)])])
    await store.catalog.begin_delete(topic.name)
    assert await store.catalog.purge(topic, max_rows=10)
    assert await store.query("SELECT count(*) FROM openstream.event_log") == [(0,)]


def test_names_sort_as_their_days_do() -> None:
    places = [Place(day, keep) for day in (0, 9, 10, 20_000, LAST_DAY) for keep in (0, 1, 30, 32_767)]
    assert sorted(name_of(place) for place in places) == [name_of(place) for place in places]


@pytest.mark.parametrize(
    "name", ["archive", "event_log", 'event_log_d000000000001"; DROP', "event_log_d00000000000\n1"]
)
def test_only_our_own_names_become_identifiers(name: str) -> None:
    with pytest.raises(ValueError, match="partition"):
        identifier(name)

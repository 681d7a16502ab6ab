"""What every EventStore says of positions: there, still to come, or never to come. In memory as on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.ports.store import Committed, FencedOff, Holding
from openstream_runtime.store.queries import query
from support.store_harness import (
    FakeUnderTest,
    RealUnderTest,
    StoreUnderTest,
    batch,
    event,
    new_topic,
    own_database,
    real_store,
    taken,
)

pytestmark = pytest.mark.anyio
DAY_MS = 86_400_000


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


def held(*positions: Position, cursor: Position | None) -> Holding:
    return Holding(frozenset(positions), cursor)


async def test_what_is_stored_is_held_and_what_is_not_is_told_apart_by_the_cursor(store: StoreUnderTest) -> None:
    topic, cursor = (topic := await new_topic(store, 2)), await taken(store, topic)
    assert await store.events.write([batch(topic, cursor, [event(1), event(3)])]) == [Committed()]
    asked = [Position(1, 0), Position(2, 0), Position(3, 0), Position(4, 0)]
    assert await store.events.holds([((topic.id, 0), asked), ((topic.id, 1), asked)]) == [
        held(Position(1, 0), Position(3, 0), cursor=Position(3, 0)),
        held(cursor=ZERO),
    ]
    # What is behind the cursor and not there stays away: that is what "not held" is worth.
    stale = batch(topic, cursor, [event(2)])
    assert await store.events.write([stale]) == [FencedOff()]


async def test_answers_are_in_the_order_of_the_questions(store: StoreUnderTest) -> None:
    topic = await new_topic(store, 3)
    for number in range(3):
        cursor = await taken(store, topic, number)
        await store.events.write([batch(topic, cursor, [event(number + 1)], partition=number)])
    asked = [((topic.id, number), [Position(number + 1, 0), Position(9, 9)]) for number in (2, 0, 1, 0)]
    assert await store.events.holds(asked) == [
        held(Position(number + 1, 0), cursor=Position(number + 1, 0)) for number in (2, 0, 1, 0)
    ]
    assert await store.events.holds([]) == []
    assert await store.events.holds([((topic.id, 0), [])]) == [held(cursor=None)]


async def test_a_row_in_quarantine_is_held_too(store: StoreUnderTest) -> None:
    topic, cursor = (topic := await new_topic(store)), await taken(store, topic)
    refused = event(1, 0, payload=b"\xff no utf-8")
    assert await store.events.write([batch(topic, cursor, [refused, event(1, 1)])]) == [Committed(quarantined=1)]
    asked = [Position(1, 0), Position(1, 1), Position(1, 2)]
    assert await store.events.holds([((topic.id, 0), asked)]) == [held(*asked[:2], cursor=Position(1, 1))]


async def test_a_topic_that_is_being_deleted_has_no_cursor_and_what_was_stored_is_still_held(
    store: StoreUnderTest,
) -> None:
    topic, cursor = (topic := await new_topic(store)), await taken(store, topic)
    await store.events.write([batch(topic, cursor, [event(1)])])
    await store.catalog.begin_delete(topic.name)
    asked = [((topic.id, 0), [Position(1, 0), Position(2, 0)])]
    assert await store.events.holds(asked) == [held(Position(1, 0), cursor=None)]
    assert await store.catalog.purge(topic, max_rows=10)
    assert await store.events.holds(asked) == [held(cursor=None)]
    assert await store.events.holds([((topic.id, 7), [ZERO])]) == [held(cursor=None)]


async def test_nothing_is_missing_below_the_floor(store: StoreUnderTest) -> None:
    topic, cursor = (topic := await new_topic(store)), await taken(store, topic)
    await store.events.write([batch(topic, cursor, [event(1), event(2), event(5)])])
    await store.raise_floor(topic.id, 0, Position(3, 0))
    asked = [Position(1, 0), Position(2, 9), Position(3, 0), Position(5, 0)]
    found = held(Position(1, 0), Position(2, 9), Position(5, 0), cursor=Position(5, 0))
    assert await store.events.holds([((topic.id, 0), asked)]) == [found]


async def test_thousands_of_positions_over_several_days_are_one_question(store: StoreUnderTest) -> None:
    topic, cursor = (topic := await new_topic(store)), await taken(store, topic)
    there = [event(day * DAY_MS + n, n) for day in (1, 2, 3) for n in range(1_000)]
    assert await store.events.write([batch(topic, cursor, there)]) == [Committed()]
    positions = [one.position for one in there]
    missing = [position.next() for position in positions]
    [found] = await store.events.holds([((topic.id, 0), [*positions, *missing])])
    assert found == held(*positions, cursor=positions[-1])


@pytest.mark.parametrize("generation", [0, 3])
async def test_a_position_is_found_by_the_index_whatever_its_generation(database_url: str, generation: int) -> None:
    async with own_database(database_url) as own, real_store(own) as store:
        topic = await new_topic(store)
        await store.query(
            "UPDATE openstream.partitions SET generation = 3, last_ms = 9, last_seq = 9 WHERE topic_id = %s", topic.id
        )
        for number in range(200):
            await store.plant(topic.id, 0, generation, event(5, number))
        asked = [Position(5, number) for number in range(250)]
        [found] = await store.events.holds([((topic.id, 0), asked)])
        assert found == held(*asked[:200], cursor=Position(9, 9))
        await _looks_up_by_index_only(store, topic.id)


async def _looks_up_by_index_only(store: RealUnderTest, topic_id: int) -> None:
    """A plan that scanned the partition would cost more with every event it ever had."""
    await store.query("ANALYZE openstream.event_log")
    statement = "EXPLAIN " + query("holds").decode()
    plan = "\n".join(
        line for (line,) in await store.query(statement, [topic_id] * 500, [0] * 500, [5] * 500, [1] * 500)
    )
    scans = [line for line in plan.splitlines() if "Scan" in line and "event_log" in line]
    assert scans, plan
    # Days nobody has written yet are empty: to scan one costs nothing.
    assert not [line for line in scans if "Seq Scan" in line and "cost=0.00..0.00" not in line], plan
    conditions = [line for line in plan.splitlines() if "Index Cond" in line and "generation" in line]
    assert conditions, plan
    assert all(f"{name} = " in line for line in conditions for name in ("topic_id", "ms", "seq")), plan

"""What every History does, in memory as on PostgreSQL; and the upper bound of what the log reads."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import END, Span
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.topics import Topic, Visibility
from openstream_runtime.ports.store import GroupMark, HistoryPage
from support import log_harness
from support.log_harness import Log
from support.store_harness import FakeUnderTest, StoreUnderTest, batch, event, new_topic, real_store, taken

pytestmark = pytest.mark.anyio
DAY = 86_400_000
PLENTY = 1 << 30


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


async def filled(store: StoreUnderTest, events: list[StoredEvent], partition: int = 0) -> Topic:
    topic = await new_topic(store, partition + 1)
    await store.events.write([batch(topic, await taken(store, topic, partition), events, partition=partition)])
    return topic


async def page(
    store: StoreUnderTest, topic: Topic, span: Span, *, count: int = 1000, max_bytes: int = PLENTY
) -> HistoryPage:
    return await store.history.page(topic.id, 0, span, count=count, max_bytes=max_bytes)


async def test_a_span_has_its_events_in_order_both_ends_included(store: StoreUnderTest) -> None:
    events = [event(ms, seq) for ms in (5, 9, 10, DAY - 1, DAY, 3 * DAY) for seq in (0, 1, 2)]
    topic = await filled(store, events)
    for first in [ZERO, Position(9, 1), Position(10, 0), Position(DAY, 2), END]:
        for last in [Position(9, 0), Position(DAY - 1, 2), Position(2 * DAY, 0), END]:
            found = await page(store, topic, Span(first, last))
            assert found.events == [one for one in events if first <= one.position <= last]
            assert found.upto == last


async def test_every_field_of_an_event_comes_back(store: StoreUnderTest) -> None:
    events = [
        event(1, 0, payload=rb'"\u0000 -0.0"', headers=b'{"k":"v"}', event_type="ä %s"),
        event(1, 1, partition_key=None, timestamp_ms=-(2**63)),
        event(2, 0, partition_key="", payload=b"[" + b"1," * 100_000 + b"1]", timestamp_ms=2**63 - 1),
    ]
    topic = await filled(store, events)
    assert (await page(store, topic, Span())).events == events


async def test_pages_by_count_join_without_gap_or_double(store: StoreUnderTest) -> None:
    events = [event(1 + n // 4 * DAY, n % 4) for n in range(23)]
    topic = await filled(store, events)
    found: list[StoredEvent] = []
    at = ZERO
    while at < END:
        one = await page(store, topic, Span(at), count=5)
        assert len(one.events) <= 5
        found += one.events
        at = one.upto.next()
    assert found == events


async def test_pages_are_bounded_by_bytes_and_hold_one_event_at_least(store: StoreUnderTest) -> None:
    events = [event(n, payload=b'"' + b"x" * 10_000 + b'"') for n in range(1, 8)]
    topic = await filled(store, events)
    small = await page(store, topic, Span(), max_bytes=1)
    assert (list(small.events), small.upto) == (events[:1], events[0].position)
    some = await page(store, topic, Span(), max_bytes=25_000)
    assert (list(some.events), some.upto) == (events[:3], events[2].position)


async def test_a_key_has_its_events_alone_and_keys_may_be_huge(store: StoreUnderTest) -> None:
    huge = "k" * 100_000
    events = [event(n, partition_key=[huge, "a", huge + "x", None, ""][n % 5]) for n in range(1, 41)]
    topic = await filled(store, events)
    for key in (huge, "a", huge + "x", ""):
        expected = [one for one in events if one.partition_key == key]
        assert (await page(store, topic, Span(key=key))).events == expected
        first = await page(store, topic, Span(key=key), count=3)
        assert (list(first.events), first.upto) == (expected[:3], expected[2].position)
    nobody = await page(store, topic, Span(key="nobody"))
    assert (list(nobody.events), nobody.upto) == ([], END)
    assert (await page(store, topic, Span(key="nul\0"))).events == []


async def test_a_type_is_found_and_a_page_says_how_far_it_looked(store: StoreUnderTest) -> None:
    rows = 5_000 + 1_200
    events = [event(1, n, event_type="rare" if n in (3, 5_600) else "common") for n in range(rows)]
    topic = await filled(store, events)
    first = await page(store, topic, Span(event_type="rare"), count=10)
    assert [one.position.seq for one in first.events] == [3]
    assert first.upto < Position(1, 5_600), "a page looks at a bounded number of rows"
    rest = await page(store, topic, Span(first.upto.next(), event_type="rare"), count=10)
    assert [one.position.seq for one in rest.events] == [5_600]
    assert rest.upto == END
    both = await page(store, topic, Span(key="user-1", event_type="rare"), count=1)
    assert (both.events[0].position, both.upto) == (Position(1, 3), Position(1, 3))


async def test_other_partitions_and_topics_are_not_seen(store: StoreUnderTest) -> None:
    topic = await new_topic(store, 2)
    for partition in (0, 1):
        cursor = await taken(store, topic, partition)
        await store.events.write([batch(topic, cursor, [event(1, partition)], partition=partition)])
    await filled(store, [event(1, 7)])
    assert [one.position.seq for one in (await page(store, topic, Span())).events] == [0]


async def test_nothing_is_found_of_an_unknown_partition_or_a_deleted_topic(store: StoreUnderTest) -> None:
    topic = await filled(store, [event(1)])
    unknown = await store.history.page(topic.id, 7, Span(), count=10, max_bytes=PLENTY)
    assert (list(unknown.events), unknown.upto) == ([], END)
    await store.catalog.begin_delete(topic.name)
    assert (await page(store, topic, Span())).events == []
    assert await store.history.floors(topic.id) == {}


async def test_the_floor_says_below_what_events_may_be_gone(store: StoreUnderTest) -> None:
    topic = await filled(store, [event(n) for n in range(1, 10)], partition=1)
    assert await store.history.floors(topic.id) == {0: ZERO, 1: ZERO}
    await store.raise_floor(topic.id, 1, Position(5, 0))
    assert await store.history.floors(topic.id) == {0: ZERO, 1: Position(5, 0)}
    for _ in range(2):  # what is below it is not shown, whether it is there or not
        found = await store.history.page(topic.id, 1, Span(Position(2, 0)), count=3, max_bytes=PLENTY)
        assert found.floor == Position(5, 0)
        assert [one.position.ms for one in found.events] == [5, 6, 7]
        below = await store.history.page(topic.id, 1, Span(last=Position(4, 9), key="user-1"), count=3, max_bytes=1)
        assert (list(below.events), below.upto, below.floor) == ([], Position(4, 9), Position(5, 0))
        here = await store.history.at(topic.id, 1, [Position(4, 0), Position(5, 0)])
        assert list(here) == [Position(5, 0)]
        assert await store.history.count(topic.id, 1, Position(2, 0), Position(8, 0)) == 4
        await store.drop_below(topic.id, 1, Position(5, 0))


async def test_a_topic_says_from_when_on_all_its_partitions_are_whole(store: StoreUnderTest) -> None:
    topic = await filled(store, [event(n) for n in range(1, 10)], partition=1)

    async def said() -> tuple[int, ...]:
        one = await store.catalog.topic(topic.name)
        assert one is not None
        listed = [other for other in await store.catalog.topics() if other.id == topic.id]
        return one.history_floor_ms, *(other.history_floor_ms for other in listed)

    assert await said() == (0, 0)
    await store.raise_floor(topic.id, 1, Position(5, 0))
    assert await said() == (5, 5), "in the other one nothing is gone"
    await store.raise_floor(topic.id, 0, Position(3, 4))
    assert await said() == (5, 5)


async def test_events_are_found_by_their_positions_and_counted_between_two(store: StoreUnderTest) -> None:
    events = [event(ms, seq) for ms in (5, DAY, 3 * DAY) for seq in (0, 1)]
    topic = await filled(store, events)
    wanted = [events[4].position, events[0].position, Position(7, 7)]
    found = await store.history.at(topic.id, 0, wanted)
    assert found == {events[0].position: events[0], events[4].position: events[4]}
    assert await store.history.at(topic.id, 0, []) == {}
    assert await store.history.at(topic.id, 1, wanted) == {}
    count = store.history.count
    assert await count(topic.id, 0, ZERO, END) == 6
    assert await count(topic.id, 0, events[0].position, events[3].position) == 3
    assert await count(topic.id, 0, events[3].position, events[3].position) == 0
    await store.catalog.begin_delete(topic.name)
    assert (await store.history.at(topic.id, 0, wanted), await count(topic.id, 0, ZERO, END)) == ({}, 0)


async def test_positions_of_groups_are_kept_as_long_as_the_group(store: StoreUnderTest) -> None:
    topic = await new_topic(store, 3)
    await store.catalog.create_group(topic, "g", "0-0")
    marks = [GroupMark(topic.id, "g", number, Position(7, number)) for number in (2, 0)]
    await store.positions.save([*marks, GroupMark(topic.id, "nobody", 0, Position(1, 1))])
    await store.positions.save([])
    assert await store.positions.of(topic.id, "g") == {0: Position(7, 0), 2: Position(7, 2)}
    assert await store.positions.of(topic.id, "nobody") == {}
    await store.positions.save(
        [GroupMark(topic.id, "g", 0, Position(3, 0)), GroupMark(topic.id, "g", 1, Position(9, 0))]
    )
    assert await store.positions.of(topic.id, "g") == {0: Position(3, 0), 1: Position(9, 0), 2: Position(7, 2)}
    await store.catalog.delete_group(topic, "g")
    assert await store.positions.of(topic.id, "g") == {}


async def test_a_group_says_what_it_is_shown(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    made, _ = await store.catalog.create_group(topic, "safe", "$", Visibility.PERSISTED)
    again, is_new = await store.catalog.create_group(topic, "safe", "$", Visibility.APPENDED)
    assert (made.visibility, again.visibility, is_new) == (Visibility.PERSISTED, Visibility.PERSISTED, False)
    assert [one.visibility for one in await store.catalog.groups() if one.topic_id == topic.id] == ["persisted"]


async def test_the_log_reads_up_to_a_position(log: Log) -> None:
    topic = await log_harness.verified(log)
    positions = await log_harness.appended(log, topic, log_harness.events(40))
    for end in (0, 1, 15, 16, 17, 39):
        found = await log.events.read_after(log_harness.at(topic), ZERO, upto=positions[end], count=100)
        assert [one.position for one in found] == positions[: end + 1]
    after = await log.events.read_after(log_harness.at(topic), positions[5], upto=positions[5], count=100)
    assert after == []

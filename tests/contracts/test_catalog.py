"""What every Catalog does, in memory as on PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import anyio
import pytest

from openstream_runtime.domain.errors import Conflict, NotFound
from openstream_runtime.domain.topics import Group, Topic, TopicSettings
from support.store_harness import FakeUnderTest, StoreUnderTest, batch, event, new_topic, real_store, taken

pytestmark = pytest.mark.anyio
SETTINGS = TopicSettings(retention_ms=0, retention_bytes=2**62, history_ms=5, max_stream_len=7)


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


def name() -> str:
    return f"c-{secrets.token_hex(8)}"


async def test_a_new_topic_is_found_as_it_was_made(store: StoreUnderTest) -> None:
    called = name()
    topic, is_new = await store.catalog.create_topic(called, 3, SETTINGS)
    assert is_new
    assert topic == Topic(topic.id, called, 3, SETTINGS, topic.created_ms, deleting=False)
    assert topic.created_ms > 1_600_000_000_000
    assert await store.catalog.topic(called) == topic
    assert topic in await store.catalog.topics()
    cursors = await store.events.cursors()
    assert all(at in cursors for at in topic.all_partitions())


async def test_an_unknown_topic_is_none(store: StoreUnderTest) -> None:
    assert await store.catalog.topic(name()) is None
    assert await store.catalog.alter_topic(name(), SETTINGS) is None
    assert await store.catalog.begin_delete(name()) is None


async def test_a_topic_that_exists_is_given_back_as_it_is(store: StoreUnderTest) -> None:
    topic, _ = await store.catalog.create_topic(name(), 3, SETTINGS)
    before = await store.catalog.version()
    assert await store.catalog.create_topic(topic.name, 9, TopicSettings()) == (topic, False)
    assert await store.catalog.version() == before


async def test_topics_come_by_name_in_the_order_of_their_bytes(store: StoreUnderTest) -> None:
    stem = name()
    for suffix in ("b", "B", "_", "a.1", "a-1", "10", "9"):
        await store.catalog.create_topic(f"{stem}{suffix}", 1, TopicSettings())
    names = [topic.name for topic in await store.catalog.topics() if topic.name.startswith(stem)]
    assert names == sorted(names)
    assert len(names) == 7


async def test_of_many_that_create_the_same_topic_exactly_one_does(store: StoreUnderTest) -> None:
    called = name()
    outcomes: list[tuple[Topic, bool]] = []

    async def create(partitions: int) -> None:
        outcomes.append(await store.catalog.create_topic(called, partitions, TopicSettings()))

    async with anyio.create_task_group() as tasks:
        for partitions in range(1, 9):
            tasks.start_soon(create, partitions)
    assert [is_new for _, is_new in outcomes].count(True) == 1
    (topic,) = {topic for topic, _ in outcomes}
    cursors = await store.events.cursors()
    assert sum(at.topic == called for at in cursors) == topic.partitions


async def test_settings_can_be_altered_and_taken_back(store: StoreUnderTest) -> None:
    topic, _ = await store.catalog.create_topic(name(), 1, TopicSettings())
    altered = await store.catalog.alter_topic(topic.name, SETTINGS)
    assert altered == Topic(topic.id, topic.name, 1, SETTINGS, topic.created_ms)
    assert await store.catalog.topic(topic.name) == altered
    assert await store.catalog.alter_topic(topic.name, TopicSettings()) == topic


async def test_the_version_grows_with_every_change_and_only_then(store: StoreUnderTest) -> None:
    catalog = store.catalog
    topic = await new_topic(store)
    seen = [await catalog.version()]

    async def grew() -> bool:
        seen.append(await catalog.version())
        return seen[-1] > seen[-2]

    await catalog.alter_topic(topic.name, SETTINGS)
    assert await grew()
    await catalog.alter_topic(topic.name, SETTINGS)
    assert not await grew()
    await catalog.create_group(topic, "g", "$")
    assert await grew()
    await catalog.create_group(topic, "g", "0-0")
    assert not await grew()
    await catalog.delete_group(topic, "g")
    assert await grew()
    await catalog.delete_group(topic, "g")
    assert not await grew()
    await catalog.begin_delete(topic.name)
    assert await grew()
    await catalog.begin_delete(topic.name)
    assert not await grew()
    await catalog.purge(topic, max_rows=1)
    assert await grew()


async def test_a_marked_topic_is_listed_as_deleting_and_keeps_its_name_taken(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    marked = await store.catalog.begin_delete(topic.name)
    assert marked == Topic(topic.id, topic.name, 1, TopicSettings(), topic.created_ms, deleting=True)
    assert await store.catalog.begin_delete(topic.name) == marked
    assert await store.catalog.topic(topic.name) == marked
    assert marked in await store.catalog.topics()
    assert await store.catalog.create_topic(topic.name, 1, TopicSettings()) == (marked, False)
    assert await store.catalog.alter_topic(topic.name, SETTINGS) is None


async def test_purge_goes_in_steps_until_nothing_is_left(store: StoreUnderTest) -> None:
    topic, neighbour = await new_topic(store, 2), await new_topic(store)
    for number in range(2):
        cursor = await taken(store, topic, number)
        events = [event(1 + 43_200_000 * n, payload=b"{}" if n % 4 else b"\xff") for n in range(12)]
        await store.events.write([batch(topic, cursor, events, partition=number)])
    await store.events.write([batch(neighbour, await taken(store, neighbour), [event(1)])])
    await store.catalog.create_group(neighbour, "g", "$")
    await store.catalog.create_group(topic, "g", "$")
    await store.catalog.begin_delete(topic.name)
    steps = 1
    while not await store.catalog.purge(topic, max_rows=5):
        assert await store.catalog.topic(topic.name) is not None
        steps += 1
    assert steps == 5  # 24 rows, 5 at a time
    assert await store.catalog.topic(topic.name) is None
    for number in range(2):
        assert await store.rows(topic.id, number) == []
        assert await store.quarantined(topic.id, number) == []
    assert len(await store.rows(neighbour.id, 0)) == 1
    assert await store.catalog.group(neighbour.name, "g") is not None
    assert await store.catalog.purge(topic, max_rows=5)


async def test_a_topic_that_is_not_marked_cannot_be_purged(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    with pytest.raises(Conflict):
        await store.catalog.purge(topic, max_rows=5)


async def test_purging_an_old_topic_leaves_the_new_one_of_its_name_alone(store: StoreUnderTest) -> None:
    old = await new_topic(store)
    await store.catalog.begin_delete(old.name)
    assert await store.catalog.purge(old, max_rows=5)
    new, _ = await store.catalog.create_topic(old.name, 2, TopicSettings())
    assert await store.catalog.purge(old, max_rows=5)
    assert await store.catalog.topic(old.name) == new


async def test_a_group_is_found_as_it_was_made(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    group, is_new = await store.catalog.create_group(topic, "workers", "17-3")
    assert is_new
    assert group == Group(topic.id, topic.name, "workers", "17-3", group.created_ms)
    assert group.created_ms > 1_600_000_000_000
    assert await store.catalog.group(topic.name, "workers") == group
    assert await store.catalog.create_group(topic, "workers", "$") == (group, False)
    assert [one for one in await store.catalog.groups() if one.topic == topic.name] == [group]
    assert await store.catalog.group(topic.name, "others") is None
    assert await store.catalog.group(name(), "workers") is None


async def test_groups_come_by_topic_and_name(store: StoreUnderTest) -> None:
    topics = [await new_topic(store), await new_topic(store)]
    for group in ("b", "a", "C"):
        for topic in topics:
            await store.catalog.create_group(topic, group, "$")
    found = [(one.topic, one.name) for one in await store.catalog.groups() if one.topic in {t.name for t in topics}]
    assert found == sorted(found)
    assert len(found) == 6


async def test_a_deleted_group_is_gone_and_only_that(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    await store.catalog.create_group(topic, "a", "$")
    kept, _ = await store.catalog.create_group(topic, "b", "$")
    assert await store.catalog.delete_group(topic, "a")
    assert not await store.catalog.delete_group(topic, "a")
    assert await store.catalog.group(topic.name, "a") is None
    assert await store.catalog.group(topic.name, "b") == kept


async def test_a_topic_that_goes_takes_its_groups_along_and_gets_no_new_ones(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    await store.catalog.create_group(topic, "g", "$")
    await store.catalog.begin_delete(topic.name)
    assert await store.catalog.group(topic.name, "g") is None
    assert not any(group.topic == topic.name for group in await store.catalog.groups())
    assert not await store.catalog.delete_group(topic, "g")
    with pytest.raises(NotFound):
        await store.catalog.create_group(topic, "new", "$")
    assert await store.catalog.purge(topic, max_rows=9)
    with pytest.raises(NotFound):
        await store.catalog.create_group(topic, "new", "$")


async def test_of_many_that_create_the_same_group_exactly_one_does(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    outcomes: list[tuple[Group, bool]] = []

    async def create(start_id: str) -> None:
        outcomes.append(await store.catalog.create_group(topic, "g", start_id))

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(create, f"{number}-0")
    assert [is_new for _, is_new in outcomes].count(True) == 1
    assert len({group for group, _ in outcomes}) == 1

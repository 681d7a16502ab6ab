"""What is set on groups, and which dead letters went back, in memory as on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import GroupSettings
from support.store_harness import FakeUnderTest, StoreUnderTest, new_topic, real_store

pytestmark = pytest.mark.anyio
FULL = GroupSettings(max_deliveries=5, claim_idle_ms=30_000, dead_letter_topic="morgue", paused=True)
ONE, TWO, THREE = Position(5, 1), Position(5, 2), Position(2**63 - 1, 2**63 - 1)


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


async def test_settings_are_found_as_they_were_made(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    made, _ = await store.catalog.create_group(topic, "g", "$", settings=FULL)
    assert made.settings == FULL
    assert await store.catalog.group(topic.name, "g") == made
    assert made in await store.catalog.groups()
    again, is_new = await store.catalog.create_group(topic, "g", "$")
    assert (again, is_new) == (made, False)
    plain, _ = await store.catalog.create_group(topic, "plain", "$")
    assert plain.settings == GroupSettings()


async def test_settings_are_replaced_as_a_whole_and_everybody_hears_of_it(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    made, _ = await store.catalog.create_group(topic, "g", "5-1", settings=FULL)
    other, _ = await store.catalog.create_group(topic, "other", "$")
    before = await store.catalog.version()
    altered = await store.catalog.alter_group(topic, "g", GroupSettings(paused=True))
    assert altered is not None
    assert (altered.settings, altered.start_id, altered.created_ms) == (
        GroupSettings(paused=True),
        "5-1",
        made.created_ms,
    )
    assert await store.catalog.version() > before
    assert await store.catalog.group(topic.name, "g") == altered
    assert await store.catalog.group(topic.name, "other") == other


async def test_a_group_that_is_not_there_is_not_altered(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    assert await store.catalog.alter_group(topic, "g", FULL) is None
    await store.catalog.create_group(topic, "g", "$")
    await store.catalog.begin_delete(topic.name)
    assert await store.catalog.alter_group(topic, "g", FULL) is None


async def test_letters_count_as_gone_when_a_batch_of_theirs_is_settled(store: StoreUnderTest) -> None:
    topic, other = await new_topic(store, 2), await new_topic(store)
    everything = [ONE, TWO, THREE]
    await store.redrives.note(topic.id, 0, Position(1, 1), [ONE, THREE])
    await store.redrives.note(topic.id, 0, Position(1, 1), [ONE, THREE])
    await store.redrives.note(topic.id, 0, Position(1, 2), [ONE, TWO])
    await store.redrives.note(topic.id, 1, Position(1, 1), [TWO])
    assert await store.redrives.done(topic.id, 0, everything) == frozenset()
    for _ in range(2):
        await store.redrives.settle(topic.id, 0, Position(1, 1))
    assert await store.redrives.done(topic.id, 0, everything) == {ONE, THREE}
    assert await store.redrives.done(topic.id, 0, [TWO, THREE]) == {THREE}
    assert await store.redrives.done(topic.id, 1, everything) == frozenset()
    await store.redrives.settle(topic.id, 0, Position(1, 2))
    assert await store.redrives.done(topic.id, 0, everything) == {ONE, TWO, THREE}
    assert await store.redrives.done(other.id, 0, everything) == frozenset()
    assert await store.redrives.done(topic.id, 0, []) == frozenset()


async def test_a_topic_with_letters_that_went_back_can_be_deleted(store: StoreUnderTest) -> None:
    topic = await new_topic(store)
    await store.redrives.note(topic.id, 0, Position(1, 1), [ONE])
    await store.redrives.settle(topic.id, 0, Position(1, 1))
    marked = await store.catalog.begin_delete(topic.name)
    assert marked is not None
    assert await store.catalog.purge(marked, max_rows=100)
    await store.redrives.note(topic.id, 0, Position(1, 2), [TWO])  # who comes late meets no error
    await store.redrives.settle(topic.id, 0, Position(1, 2))
    assert await store.redrives.done(topic.id, 1, [ONE, TWO]) == frozenset()

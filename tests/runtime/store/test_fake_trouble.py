"""The fake's trouble: what actors are tested against must itself be right."""

from __future__ import annotations

import anyio
import pytest

from openstream_runtime.domain.errors import OutcomeUnknown, Unavailable
from openstream_runtime.domain.positions import Cursor, Position
from openstream_runtime.domain.topics import Topic, TopicSettings
from openstream_runtime.ports.store import Committed, FencedOff
from support.fake_store import FakeStore
from support.store_harness import batch, event


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def owned(store: FakeStore) -> tuple[Topic, Cursor]:
    topic, _ = await store.catalog.create_topic("orders", 1, TopicSettings())
    cursor = await store.events.take(topic.id, 0, "me")
    assert cursor is not None
    return topic, cursor


@pytest.mark.anyio
async def test_unavailable_until_it_is_switched_off() -> None:
    store = FakeStore()
    store.trouble.unavailable = True
    for call in (store.events.ping, store.catalog.version, lambda: store.maintain(0)):
        with pytest.raises(Unavailable):
            await call()
    store.trouble.unavailable = False
    await store.events.ping()
    assert store.calls == {"ping": 2, "version": 1, "maintain": 1}


@pytest.mark.anyio
async def test_unavailable_for_so_many_calls_or_writes() -> None:
    store = FakeStore()
    topic, cursor = await owned(store)
    store.trouble.unavailable_calls = 1
    with pytest.raises(Unavailable):
        await store.events.ping()
    store.trouble.unavailable_writes = 1
    await store.events.ping()
    mine = batch(topic, cursor, [event(1)])
    with pytest.raises(Unavailable):
        await store.events.write([mine])
    assert store.rows(topic.id, 0) == []
    assert await store.events.write([mine]) == [Committed()]


@pytest.mark.anyio
@pytest.mark.parametrize(("committed", "again"), [(True, FencedOff()), (False, Committed())])
async def test_a_lost_commit_has_happened_or_not(committed: bool, again: object) -> None:
    store = FakeStore()
    topic, cursor = await owned(store)
    store.trouble.lost_commits.append(committed)
    mine = batch(topic, cursor, [event(1)])
    with pytest.raises(OutcomeUnknown):
        await store.events.write([mine])
    assert len(store.rows(topic.id, 0)) == committed
    assert await store.events.write([mine]) == [again]
    assert len(store.rows(topic.id, 0)) == 1
    assert store.count(topic.id, 0) == 1


@pytest.mark.anyio
async def test_poison_of_a_test_s_own_choice() -> None:
    store = FakeStore()
    topic, cursor = await owned(store)
    store.trouble.poison = lambda one: one.position.ms == 2
    written = await store.events.write([batch(topic, cursor, [event(1), event(2), event(3)])])
    assert written == [Committed(quarantined=1)]
    assert [row.event.position for row in store.quarantined(topic.id, 0)] == [Position(2, 0)]


@pytest.mark.anyio
async def test_an_owner_whose_partition_was_usurped_is_fenced_off() -> None:
    store = FakeStore()
    topic, cursor = await owned(store)
    assert store.owner(topic.id, 0) == "me"
    assert store.usurp(topic.id, 0).epoch == cursor.epoch + 1
    assert store.owner(topic.id, 0) == "somebody-else"
    assert await store.events.write([batch(topic, cursor, [event(1)])]) == [FencedOff()]


@pytest.mark.anyio
async def test_held_writes_wait_and_are_not_cancelled_meanwhile() -> None:
    store = FakeStore()
    topic, cursor = await owned(store)
    release = store.trouble.hold_writes()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.events.write, [batch(topic, cursor, [event(1)])])
        await anyio.wait_all_tasks_blocked()
        assert store.rows(topic.id, 0) == []
        tasks.cancel_scope.cancel()
        release.set()
    store.trouble.gate = None
    assert store.stats()["pool_size"] == 1
    assert await store.events.write([batch(topic, cursor, [event(1)])]) in ([Committed()], [FencedOff()])
    assert len(store.rows(topic.id, 0)) == 1

"""The copier: batches, what is published and when, and how far it trims."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from openstream_runtime.actors import copier as module
from openstream_runtime.actors.board import Sample
from openstream_runtime.actors.copier import Copier
from openstream_runtime.actors.store_writer import StoreWriter, store_mailbox
from openstream_runtime.domain.errors import Fenced, LeaseLost, Unavailable
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Topic, TopicSettings
from openstream_runtime.ports.store import PersistBatch
from supervisors import Context
from support.actors import Rig, eventually, make_world, running, supervised, tailer
from support.persisting import pass_time

pytestmark = pytest.mark.anyio
AT = TopicPartition("orders", 0)
TOKEN = "a:token"


@asynccontextmanager
async def owner(rig: Rig, topic: Topic) -> AsyncIterator[Copier]:
    """A copier whose lease never ends, beside a store writer and a tailer."""
    writer = store_mailbox()
    await rig.world.leases.acquire(AT, TOKEN, 10**9)
    cursor = await rig.store.events.take(topic.id, 0, "a")
    assert cursor is not None
    async with supervised(tailer(rig), StoreWriter.spec(rig.world, writer)):
        yield Copier(rig.world, topic, AT, writer, TOKEN, cursor)


@asynccontextmanager
async def copying(rig: Rig, topic: Topic) -> AsyncIterator[Copier]:
    async with owner(rig, topic) as copier, _running(copier):
        yield copier


@asynccontextmanager
async def _running(copier: Copier) -> AsyncIterator[Context]:
    class Actor:
        async def run(self, ctx: Context) -> None:
            ctx.ready()
            await copier.run(ctx)

    async with running(Actor()) as ctx:
        yield ctx


async def test_a_backlog_goes_in_batches_and_the_cursor_is_published_on_the_way(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    topic = await rig.topic()
    positions = await rig.append(topic, *range(95))
    async with copying(rig, topic) as copier:
        await eventually(lambda: copier.cursor.position == positions[-1])
        await eventually(lambda: rig.redis.meta[AT].pid == positions[-1], within=0.1)
    assert [events for events, _ in rig.meter.of("store_commit")] == [10] * 9 + [5]
    timed = [position for _, _, batch, _ in rig.meter.of("persist_delay") for position in batch]
    assert timed == list(positions), "every event is timed once"
    assert rig.stored(topic) == [str(number) for number in range(95)]


async def test_retention_by_age_takes_nothing_young_and_leaves_nothing_old() -> None:
    rig = make_world(retention_ms=10_000)
    topic = await rig.topic()
    async with copying(rig, topic):
        for number in range(20):
            await rig.append(topic, number)
            await pass_time(2)
            oldest = int(rig.retained(topic)[0])
            age = 2 * (number + 1 - oldest)
            assert age >= 10 or oldest == 0
            assert age <= 10 + 2 + 1.2 * module.TRIM_IDLE
        await pass_time(30)
        assert rig.retained(topic) == []


async def test_the_retention_of_the_topic_wins_and_a_change_is_seen_without_a_restart(rig: Rig) -> None:
    topic = await rig.topic(retention_ms=3_600_000)
    async with copying(rig, topic):
        await rig.append(topic, *range(5))
        await pass_time(60)
        assert len(rig.retained(topic)) == 5
        altered = await rig.store.catalog.alter_topic(topic.name, TopicSettings(retention_ms=0))
        assert altered is not None
        rig.world.board.add_topic(altered)
        await eventually(lambda: rig.retained(topic) == [], within=8)


async def test_a_long_stream_is_trimmed_to_half_of_where_producers_are_refused() -> None:
    rig = make_world(retention_ms=3_600_000, max_stream_len=100)
    topic = await rig.topic()
    async with copying(rig, topic):
        for number in range(99):
            await rig.append(topic, number)
            await pass_time(0.1)
        await pass_time(30)
        assert len(rig.retained(topic)) <= 60
        assert rig.retained(topic)[-1] == "98"
    assert len(rig.stored(topic)) == 99


async def test_when_redis_is_short_of_memory_whatever_is_persisted_goes() -> None:
    rig = make_world(retention_ms=3_600_000, redis_memory=0.8)
    topic = await rig.topic()
    await rig.append(topic, *range(10))
    async with copying(rig, topic):
        rig.world.board.sample = Sample(taken_at=0.0, used_memory=59, maxmemory=100)
        await pass_time(10)
        assert len(rig.retained(topic)) == 10
        rig.world.board.sample = Sample(taken_at=0.0, used_memory=61, maxmemory=100)
        await pass_time(10)
        assert rig.retained(topic) == []
        rig.world.board.sample = Sample(taken_at=0.0, used_memory=61, maxmemory=0)  # no limit, no shortage
        await rig.append(topic, "kept")
        await pass_time(10)
        assert rig.retained(topic) == ["kept"]


async def test_retention_by_bytes_asks_for_the_size_and_keeps_to_it() -> None:
    rig = make_world(retention_ms=3_600_000)
    topic = await rig.topic(retention_bytes=1_000)
    async with copying(rig, topic):
        for number in range(60):
            await rig.append(topic, str(number) * 50)
            await pass_time(0.1)
        await pass_time(60)
        edges = await rig.world.log.edges(AT, with_bytes=True)
        assert edges.bytes is not None
        assert edges.bytes <= 1_500


async def test_what_is_not_committed_is_never_trimmed() -> None:
    rig = make_world(retention_ms=0, max_stream_len=4)
    topic = await rig.topic()
    async with copying(rig, topic):
        gate = rig.store.trouble.hold_writes()
        await rig.append(topic, *range(50))
        await pass_time(30)
        assert len(rig.retained(topic)) == 50
        rig.store.trouble.gate = None
        gate.set()
        await eventually(lambda: rig.retained(topic) == [], within=8)


async def test_a_batch_under_another_epoch_is_fenced(rig: Rig) -> None:
    topic = await rig.topic()
    await rig.append(topic, 1)
    async with owner(rig, topic) as copier:
        rig.store.usurp(topic.id, 0)
        with pytest.raises(Fenced, match="another owner"):
            await copier.run(Context("copier"))
    assert rig.stored(topic) == []


async def test_a_topic_that_is_gone_is_fenced(rig: Rig) -> None:
    topic = await rig.topic()
    await rig.append(topic, 1)
    async with owner(rig, topic) as copier:
        await rig.store.catalog.begin_delete(topic.name)
        with pytest.raises(Fenced, match="gone"):
            await copier.run(Context("copier"))


async def test_a_cursor_that_moved_under_the_own_epoch_is_read_again(rig: Rig) -> None:
    topic = await rig.topic()
    positions = await rig.append(topic, 1, 2)
    async with owner(rig, topic) as copier:
        events = await rig.world.log.read_after(AT, copier.cursor.position, count=1)
        cursor = copier.cursor
        batch = PersistBatch(topic.id, 0, cursor.epoch, cursor.generation, cursor.position, events[0].position, events)
        await rig.store.events.write([batch])
        with pytest.raises(Unavailable, match="read again"):
            await copier.run(Context("copier"))
    assert positions[0] == events[0].position


async def test_without_the_lease_it_begins_nothing(rig: Rig) -> None:
    topic = await rig.topic()
    await rig.append(topic, 1)
    async with owner(rig, topic) as copier:
        del rig.redis.leases[AT]
        with pytest.raises(LeaseLost):
            await copier.run(Context("copier"))
    assert rig.stored(topic) == []


async def test_asked_to_stop_it_publishes_what_it_has_committed(rig: Rig) -> None:
    topic = await rig.topic()
    async with owner(rig, topic) as copier:
        async with _running(copier) as ctx:
            await pass_time(0.5)  # the next trim, and with it the next publication, is a while away
            gate = rig.store.trouble.hold_writes()
            positions = await rig.append(topic, 1)
            await eventually(lambda: rig.redis.calls["read_after"] >= 2)
            await pass_time(0.1)
            ctx.ask_to_stop()
            rig.store.trouble.gate = None
            gate.set()
        assert rig.redis.meta[AT].pid == positions[0]


@pytest.mark.parametrize("limit", [4, 100, 3_000])
async def test_what_is_persisted_never_keeps_producers_out_however_short_the_stream_may_be(limit: int) -> None:
    rig = make_world(retention_ms=3_600_000)
    topic = await rig.topic(max_stream_len=limit)
    async with copying(rig, topic):
        for first in range(0, 8 * limit, limit // 2):
            await rig.append(topic, *range(first, first + limit // 2))
            await pass_time(8)
            assert len(rig.retained(topic)) <= limit // 2 + limit // 16
    assert len(rig.stored(topic)) == 8 * limit


async def test_a_backlog_in_one_batch_is_trimmed_inside_of_the_batch() -> None:
    rig = make_world(retention_ms=3_600_000)
    topic = await rig.topic(max_stream_len=100)
    await rig.append(topic, *range(1_000))
    async with copying(rig, topic):
        await eventually(lambda: len(rig.retained(topic)) == 50, within=10)

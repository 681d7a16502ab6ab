"""The sampler: what it publishes, at what pace, and what it does without a backend."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from openstream_runtime.actors.board import Sample
from openstream_runtime.actors.sampler import LONGEST, PERIOD, Sampler
from openstream_runtime.domain.positions import TopicPartition
from support.actors import Rig, eventually, running

pytestmark = pytest.mark.anyio
AT = TopicPartition("orders", 0)


async def test_it_publishes_streams_cursors_and_memory(rig: Rig) -> None:
    topic = await rig.topic(partitions=2)
    await rig.append(topic, 1, 2, 3)
    rig.redis.maxmemory = 10 << 20
    published: list[Sample] = []
    async with running(Sampler(rig.world, published.append)):
        await eventually(lambda: published)
    sample = rig.world.board.sample
    assert sample is published[-1]
    assert (sample.streams[AT].length, sample.streams[AT].unpersisted) == (3, 3)
    assert set(sample.cursors) == {AT, TopicPartition("orders", 1)}
    assert (sample.used_memory, sample.maxmemory) == (1 << 20, 10 << 20)


async def test_how_high_ids_stood_is_remembered_when_redis_comes_back_empty(rig: Rig) -> None:
    topic = await rig.topic()
    await rig.append(topic, 1, 2, 3)
    last = rig.redis.streams[AT].last
    async with running(Sampler(rig.world, lambda _: None)):
        await eventually(lambda: AT in rig.world.board.sample.streams)
        rig.redis.flush()
        await anyio.sleep(3 * PERIOD)
    assert rig.world.board.sample.streams[AT].length == 0
    assert rig.world.board.heights.above(AT, rig.world.clock.monotonic()) > last


async def test_the_rate_of_persisting_follows_what_happens(rig: Rig) -> None:
    topic = await rig.topic()
    await rig.append(topic, 1)
    async with running(Sampler(rig.world, lambda _: None)):
        for _ in range(300):
            rig.redis.meta[AT].n += 10
            rig.redis.meta[AT].pn += 10
            await anyio.sleep(0.1)
        assert rig.world.board.sample.persist_rate[AT] == pytest.approx(100, rel=0.2)
        rig.redis.meta[AT].pn = 0  # Redis was emptied: counted anew
        await anyio.sleep(60)
        assert 0 <= rig.world.board.sample.persist_rate[AT] < 1


async def test_without_postgresql_the_streams_are_published_all_the_same(rig: Rig) -> None:
    topic = await rig.topic()
    async with running(Sampler(rig.world, lambda _: None)):
        await eventually(lambda: rig.world.board.sample.cursors)
        rig.store.trouble.unavailable = True
        await rig.world.log.verify(topic, 0, rig.world.board.sample.cursors[AT])
        taken = rig.world.board.sample.taken_at
        await eventually(lambda: rig.world.board.sample.taken_at > taken)
        assert AT in rig.world.board.sample.cursors


async def test_without_redis_the_last_sample_stands_and_it_does_not_spin(rig: Rig) -> None:
    await rig.topic()
    async with running(Sampler(rig.world, lambda _: None)):
        await eventually(lambda: rig.world.board.sample.taken_at)
        rig.redis.unavailable = True
        await anyio.sleep(2 * PERIOD)
        sample, before = rig.world.board.sample, rig.redis.calls["stats"]
        await anyio.sleep(60)
        assert rig.world.board.sample is sample
        assert rig.redis.calls["stats"] - before < 40
        rig.redis.unavailable = False
        await eventually(lambda: rig.world.board.sample is not sample, within=6)


async def test_looks_that_take_long_come_less_often(rig: Rig) -> None:
    real = rig.log.events.stats

    async def slow(*arguments: Any) -> Any:
        await anyio.sleep(1)
        return await real(*arguments)

    rig.log.events.stats = slow  # type: ignore[method-assign,assignment]
    async with running(Sampler(rig.world, lambda _: None)):
        await anyio.sleep(200)
    assert 10 <= rig.redis.calls["stats"] <= 17


@pytest.mark.parametrize(("server", "stood_still"), [("redis", 30), ("postgresql", 3), ("postgresql", 30)])
async def test_after_a_server_stood_still_there_is_a_new_look_within_seconds(
    rig: Rig, server: str, stood_still: float
) -> None:
    port = rig.log.events if server == "redis" else rig.world.store
    name = "stats" if server == "redis" else "cursors"
    real, waits = getattr(port, name), [stood_still]

    async def slow(*arguments: Any) -> Any:
        await anyio.sleep(waits.pop() if waits else 0.0)
        return await real(*arguments)

    setattr(port, name, slow)
    async with running(Sampler(rig.world, lambda _: None)):
        await anyio.sleep(stood_still + 0.1)
        assert rig.world.board.sample.taken_at
        first = rig.redis.calls["stats"]
        await anyio.sleep(1.2 * (LONGEST if server == "redis" else PERIOD) + 0.1)
        assert rig.redis.calls["stats"] > first


async def test_while_postgresql_lets_it_wait_the_memory_is_still_looked_at(rig: Rig) -> None:
    async def never() -> Any:
        await anyio.sleep_forever()

    rig.world.store.cursors = never  # type: ignore[method-assign]
    async with running(Sampler(rig.world, lambda _: None)):
        rig.redis.maxmemory = 10 << 20
        await eventually(lambda: rig.world.board.sample.maxmemory == 10 << 20, within=1)
    assert not rig.world.board.sample.streams, "that look has not ended"


async def test_while_draining_it_asks_nobody(rig: Rig) -> None:
    async with running(Sampler(rig.world, lambda _: None)):
        rig.world.board.begin_draining()
        await anyio.sleep(2 * PERIOD)
        before = rig.redis.calls["stats"]
        await anyio.sleep(60)
        assert rig.redis.calls["stats"] == before


async def test_lag_in_seconds_is_published_for_the_store_and_for_each_group(rig: Rig) -> None:
    topic = await rig.topic()
    await rig.append(topic, 1)
    await rig.log.groups.create("orders", "g", {0: "$"})
    async with running(Sampler(rig.world, lambda _: None)):
        await anyio.sleep(30)
        assert 26 <= rig.world.board.sample.unpersisted_lag[AT] <= 32
        assert rig.world.board.sample.group_lag[AT] == {"g": 0.0}
        await rig.append(topic, 2)
        await anyio.sleep(20)
        assert 46 <= rig.world.board.sample.unpersisted_lag[AT] <= 54, "the oldest counts"
        assert 16 <= rig.world.board.sample.group_lag[AT]["g"] <= 24


async def test_it_feels_how_late_the_event_loop_is(rig: Rig) -> None:
    async with running(Sampler(rig.world, lambda _: None)):
        await anyio.sleep(10)
    felt = rig.meter.of("loop_lag")
    assert 15 <= len(felt) <= 25
    assert all(lag == (pytest.approx(0, abs=0.01),) for lag in felt)

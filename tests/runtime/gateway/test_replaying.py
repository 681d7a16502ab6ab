"""Replays through the gateway: what they cover is settled when they are made, and what cannot be is refused."""

from __future__ import annotations

import pytest

from openstream_runtime.domain.errors import Conflict, Gone, InvalidRequest, NotFound, Unavailable
from openstream_runtime.domain.history import before, first_at, last_at
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.replays import ReplayState
from openstream_runtime.gateway.replaying import ReplayWish
from support.actors import Rig
from support.desk import open_desk
from support.fake_history import outlive
from support.replaying import persist, produce, two_topics

pytestmark = pytest.mark.anyio


async def test_everything_is_what_stands_there_now_redis_included(rig: Rig) -> None:
    orders, _ = await two_topics(rig, 40)
    await produce(rig, orders, 11, start=40)
    async with open_desk(rig) as desk:
        made = await desk.gateway.create_replay("orders", ReplayWish("copy"))
        await produce(rig, orders, 50, start=51)
        await persist(rig, orders)
        assert await desk.gateway.replay(made.id) == made
        assert [one.id for one in await desk.gateway.replays()] == [made.id]
    assert (made.total, made.source_id, made.target_partitions) == (51, orders.id, 3)
    for part in made.parts:
        known = [event.position for _, event in rig.store.rows(orders.id, part.partition)]
        expected = [number for number in range(51) if number % 2 == part.partition]
        assert (part.start, part.upto, part.position) == (ZERO, known[len(expected) - 1], ZERO)
    assert rig.redis.bells.count("replays") == 1


async def test_bounds_by_id_and_by_time_are_both_included(rig: Rig) -> None:
    orders, _ = await two_topics(rig, 40)
    ids = [event.position for _, event in rig.store.rows(orders.id, 0)]
    async with open_desk(rig) as desk:
        by_id = await desk.gateway.create_replay("orders", ReplayWish("copy", from_id=ids[2], to_id=ids[5]))
        by_ms = await desk.gateway.create_replay("orders", ReplayWish("copy", from_ms=ids[2].ms, to_ms=ids[5].ms))
        late = await desk.gateway.create_replay("orders", ReplayWish("copy", to_ms=ids[-1].ms + 10**9))
        never = await desk.gateway.create_replay("orders", ReplayWish("copy", from_ms=ids[-1].ms + 10**9))
    assert (by_id.first, by_id.last) == (ids[2], ids[5])
    assert (by_id.parts[0].start, by_id.parts[0].upto) == (before(ids[2]), ids[5])
    assert (by_ms.first, by_ms.last) == (first_at(ids[2].ms), last_at(ids[5].ms))
    assert late.parts[0].upto == ids[-1], "what comes later is no part of it, wherever it ends"
    assert (never.total, never.parts[0].done) == (0, True)


async def test_a_target_that_does_not_exist_gets_the_partitions_of_its_source(rig: Rig) -> None:
    await two_topics(rig, 4)
    async with open_desk(rig) as desk:
        made = await desk.gateway.create_replay("orders", ReplayWish("fresh", partitions=[1]))
        assert (await desk.gateway.topic("fresh")).partitions == made.target_partitions == 2
    assert [part.partition for part in made.parts] == [1]


@pytest.mark.parametrize(
    "wish",
    [
        ReplayWish("orders"),
        ReplayWish("not a name"),
        ReplayWish("copy", from_id=Position(9, 0), to_id=Position(8, 9)),
        ReplayWish("copy", from_ms=9, to_ms=8),
        ReplayWish("copy", from_ms=9, from_id=Position(9, 0)),
        ReplayWish("copy", to_ms=9, to_id=Position(9, 0)),
        ReplayWish("copy", partitions=[0, 2]),
        ReplayWish("copy", partitions=[-1]),
        ReplayWish("copy", partitions=[]),
        ReplayWish("copy", rate_per_s=0.0),
        ReplayWish("copy", rate_per_s=5e-324),
        ReplayWish("copy", rate_per_s=-1.0),
        ReplayWish("copy", rate_per_s=float("nan")),
    ],
)
async def test_what_cannot_be_is_refused_and_nothing_is_made(rig: Rig, wish: ReplayWish) -> None:
    await two_topics(rig, 4)
    async with open_desk(rig) as desk:
        with pytest.raises(InvalidRequest):
            await desk.gateway.create_replay("orders", wish)
        assert await desk.gateway.replays() == []


async def test_unknown_topics_and_replays_are_not_found(rig: Rig) -> None:
    await two_topics(rig, 4)
    async with open_desk(rig) as desk:
        with pytest.raises(NotFound):
            await desk.gateway.create_replay("nobody", ReplayWish("fresh"))
        with pytest.raises(NotFound):
            await desk.gateway.replay("rp_unknown")
        with pytest.raises(NotFound):
            await desk.gateway.cancel_replay("rp_unknown")
        with pytest.raises(NotFound):
            await desk.gateway.topic("fresh")


async def test_what_is_not_kept_any_more_is_gone_and_everything_means_everything_that_is(rig: Rig) -> None:
    orders, _ = await two_topics(rig, 40)
    ids = [event.position for _, event in rig.store.rows(orders.id, 0)]
    outlive(rig.store, orders.id, 0, ids[10])
    async with open_desk(rig) as desk:
        for wish in (ReplayWish("copy", from_id=ids[3]), ReplayWish("copy", to_id=ids[3])):
            with pytest.raises(Gone) as gone:
                await desk.gateway.create_replay("orders", wish)
            assert gone.value.facts["earliest_id"] == ids[10]
        other = await desk.gateway.create_replay("orders", ReplayWish("copy", from_id=ids[3], partitions=[1]))
        assert other.parts[0].start == before(ids[3])
        for wish in (ReplayWish("copy"), ReplayWish("copy", from_id=ZERO), ReplayWish("copy", from_id=ids[10])):
            made = await desk.gateway.create_replay("orders", wish)
            assert made.parts[0].start == before(ids[10])


async def test_cancelling_twice_is_fine_and_what_has_ended_stays(rig: Rig) -> None:
    await two_topics(rig, 4)
    async with open_desk(rig) as desk:
        made = await desk.gateway.create_replay("orders", ReplayWish("copy"))
        for _ in range(2):
            assert (await desk.gateway.cancel_replay(made.id)).state is ReplayState.CANCELLED
        ended = await desk.gateway.create_replay("orders", ReplayWish("copy", partitions=[0]))
        taken = [await rig.world.replays.take("x", 1_000) for _ in range(2)][-1]
        assert taken is not None
        await rig.world.replays.end(ended.id, taken.epoch, ReplayState.DONE, error=None)
        with pytest.raises(Conflict):
            await desk.gateway.cancel_replay(ended.id)


async def test_a_count_that_takes_too_long_is_left_out(rig: Rig) -> None:
    await two_topics(rig, 4)
    rig.store.replays.uncountable = True
    async with open_desk(rig) as desk:
        made = await desk.gateway.create_replay("orders", ReplayWish("copy"))
    assert (made.total, made.eta_ms) == (None, None)


@pytest.mark.parametrize("backend", ["redis", "postgres"])
async def test_without_a_backend_nothing_is_made(rig: Rig, backend: str) -> None:
    await two_topics(rig, 4)
    async with open_desk(rig) as desk:
        rig.redis.unavailable = backend == "redis"
        rig.store.trouble.unavailable = backend == "postgres"
        with pytest.raises(Unavailable):
            await desk.gateway.create_replay("orders", ReplayWish("fresh"))
        rig.redis.unavailable = rig.store.trouble.unavailable = False
        assert await desk.gateway.replays() == []

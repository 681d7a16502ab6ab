"""What a replay copies: each event once, whatever happens to Redis, answers and topics; or it says why it failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
import pytest

from openstream_runtime.domain.partitioning import partition_of
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.replays import ReplayState
from openstream_runtime.domain.topics import Topic
from openstream_runtime.gateway.replaying import Replaying, ReplayWish
from openstream_runtime.gateway.topics import Topics
from openstream_runtime.ports.log import AppendBatch, AppendOutcome
from openstream_runtime.ports.store import HistoryPage
from support.actors import Rig, eventually, make_world
from support.fake_history import outlive
from support.persisting import persisting
from support.replaying import ask, check_once, ended, in_target, persist, produce, replaying, two_topics

pytestmark = pytest.mark.anyio


def copied(rig: Rig, copy: Topic) -> int:
    return sum(len(events) for events in in_target(rig, copy).values())


async def test_a_copy_stands_where_its_key_belongs_and_says_where_it_comes_from(rig: Rig) -> None:
    orders, copy = await two_topics(rig)
    async with replaying(rig):
        replay = await ask(rig)
        await ended(rig, replay)
    origins = {event.payload: (number, event) for number in (0, 1) for _, event in rig.store.rows(orders.id, number)}
    for target, events in in_target(rig, copy).items():
        for event in events:
            source, original = origins[event.payload]
            key = event.partition_key
            assert target == (source % 3 if key is None else partition_of(key, 3))
            assert (key, event.event_type, event.timestamp_ms) == (original.partition_key, "test", 1)
            assert msgspec.json.decode(event.headers or b"") == {
                "openstream-replay-of": f"orders/{source}/{original.position}",
                "openstream-replay": replay.id,
            }


async def test_bounds_and_partitions_choose_what_is_copied(rig: Rig) -> None:
    orders, copy = await two_topics(rig, 40)
    rows = [event for _, event in rig.store.rows(orders.id, 1)]
    async with replaying(rig):
        replay = await ask(rig, from_id=rows[3].position, to_id=rows[11].position, partitions=[1])
        assert replay.total == 9
        done = await ended(rig, replay)
    assert done.copied == 9
    check_once(rig, copy, replay, {int(event.payload): None for event in rows[3:12]})


@pytest.mark.parametrize("kept", [True, False])
async def test_a_lost_answer_neither_doubles_nor_loses(rig: Rig, kept: bool) -> None:
    _, copy = await two_topics(rig)
    async with replaying(rig):
        for _ in range(4):
            rig.redis.lose_answer("append", kept=kept)
        replay = await ask(rig, rate_per_s=100.0)
        await ended(rig, replay)
    check_once(rig, copy, replay, range(60))


async def test_with_redis_away_it_waits_and_goes_on(rig: Rig) -> None:
    _, copy = await two_topics(rig, 100)
    async with replaying(rig):
        replay = await ask(rig, rate_per_s=50.0)
        await eventually(lambda: copied(rig, copy) >= 20)
        rig.redis.unavailable = True
        await anyio.sleep(100)
        rig.redis.unavailable = False
        await ended(rig, replay)
    check_once(rig, copy, replay, range(100))


async def test_a_target_that_is_full_is_waited_for_and_leaves_room_for_producers() -> None:
    rig = make_world(max_unpersisted=20)
    _, copy = await two_topics(rig, 400, target=1)
    async with replaying(rig):
        replay = await ask(rig, rate_per_s=100.0)
        await anyio.sleep(60)
        stuck = copied(rig, copy)
        assert 10 <= stuck < 20
        async with persisting(rig, copy, tail=False):
            await ended(rig, replay)
            await persist(rig, copy)
    check_once(rig, copy, replay, range(400))


async def test_while_redis_is_nearly_out_of_memory_nothing_is_copied(rig: Rig) -> None:
    _, copy = await two_topics(rig)
    sample = type(rig.world.board.sample)
    rig.world.board.sample = sample(taken_at=0, used_memory=95, maxmemory=100)
    async with replaying(rig):
        replay = await ask(rig)
        await anyio.sleep(20)
        assert copied(rig, copy) == 0
        rig.world.board.sample = sample(taken_at=0, used_memory=50, maxmemory=100)
        rig.redis.out_of_memory = True
        await anyio.sleep(20)
        assert copied(rig, copy) == 0
        rig.redis.out_of_memory = False
        await ended(rig, replay)
    check_once(rig, copy, replay, range(60))


async def test_what_is_only_in_redis_when_it_is_made_is_part_of_it_and_what_comes_later_is_not(rig: Rig) -> None:
    orders, copy = await two_topics(rig, 40)
    await produce(rig, orders, 20, start=40)
    async with replaying(rig):
        replay = await ask(rig)
        assert replay.total == 60
        await produce(rig, orders, 30, start=60)
        await anyio.sleep(20)
        assert copied(rig, copy) == 40
        await persist(rig, orders)
        done = await ended(rig, replay)
    assert done.copied == 60
    check_once(rig, copy, replay, range(60))


async def test_what_redis_lost_before_it_was_persisted_is_not_waited_for(rig: Rig) -> None:
    orders, copy = await two_topics(rig, 40)
    await produce(rig, orders, 20, start=40)
    async with replaying(rig):
        replay = await ask(rig)
        await eventually(lambda: copied(rig, copy) == 40)
        rig.redis.flush()
        done = await ended(rig, replay)
    # The copies were lost with the flush, too, and have been made again.
    assert (done.copied, done.total) == (40, 40)
    check_once(rig, copy, replay, range(40))


@pytest.mark.parametrize("persisted", [True, False])
async def test_after_a_flush_what_was_lost_is_copied_again_and_what_is_stored_is_not(rig: Rig, persisted: bool) -> None:
    _, copy = await two_topics(rig, 200)
    async with replaying(rig, target=copy if persisted else None):
        replay = await ask(rig, rate_per_s=50.0)
        for at_least in (30, 90, 150):
            await eventually(lambda at_least=at_least: copied(rig, copy) >= at_least)  # type: ignore[misc]
            rig.redis.flush()
        done = await ended(rig, replay)
    assert done.copied == 200
    check_once(rig, copy, replay, range(200))
    written = [count for _, count in rig.store.replays.written]
    assert written == sorted(written)


async def test_a_loss_that_no_later_event_meets_is_found_before_the_end(rig: Rig) -> None:
    _, copy = await two_topics(rig, 60)
    async with replaying(rig):
        replay = await ask(rig, partitions=[0], rate_per_s=10.0)
        rows = rig.store.replays._rows
        await eventually(lambda: rows[replay.id].replay.copied >= 20)
        gone = TopicPartition("copy", 0)
        del rig.redis.streams[gone], rig.redis.meta[gone], rig.redis.marks[gone, replay.id]
        await ended(rig, replay)
    check_once(rig, copy, replay, range(0, 60, 2))


async def test_what_was_on_its_way_to_postgres_when_redis_lost_it_is_not_copied_again(rig: Rig) -> None:
    _, copy = await two_topics(rig, 100)
    async with replaying(rig, target=copy):
        replay = await ask(rig, rate_per_s=50.0)
        await eventually(lambda: sum(len(rig.stored(copy, number)) for number in range(3)) >= 20)
        gate = rig.store.trouble.hold_writes()
        await eventually(lambda: copied(rig, copy) >= 60)
        rig.redis.flush()
        assert copied(rig, copy) < 60
        await anyio.sleep(0.5)  # the target's owner has not noticed yet that its lease is gone
        rig.store.trouble.gate = None
        gate.set()
        await ended(rig, replay)
    check_once(rig, copy, replay, range(100))


async def test_marks_that_are_lost_alone_are_found_again_in_the_stream(rig: Rig) -> None:
    _, copy = await two_topics(rig, 100)
    async with replaying(rig):
        replay = await ask(rig, rate_per_s=50.0)
        await eventually(lambda: copied(rig, copy) >= 60)
        rig.redis.marks.clear()
        await ended(rig, replay)
    check_once(rig, copy, replay, range(100))


async def test_a_loss_is_still_seen_by_the_next_owner(rig: Rig) -> None:
    _, copy = await two_topics(rig, 200)
    replay = await ask(rig, rate_per_s=50.0)
    async with replaying(rig):
        await eventually(lambda: copied(rig, copy) >= 100)
        await anyio.sleep(1)
        rig.redis.flush()
        await eventually(lambda: copied(rig, copy) >= 20)  # it has noticed, and is at work again behind its progress
        assert copied(rig, copy) < 60
    async with replaying(rig.node("b")):
        done = await ended(rig, replay)
    assert done.epoch == 2
    check_once(rig, copy, replay, range(200))


async def test_a_deleted_source_fails_it(rig: Rig) -> None:
    _, copy = await two_topics(rig, 100)
    async with replaying(rig):
        replay = await ask(rig, rate_per_s=20.0)
        await eventually(lambda: copied(rig, copy) >= 10)
        await rig.store.catalog.begin_delete("orders")
        failed = await ended(rig, replay, ReplayState.FAILED)
    # A page that had been read is still copied.
    assert failed.error == "the source topic was deleted before everything was copied"


async def test_a_source_that_is_deleted_while_it_is_read_is_not_taken_for_its_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_topics(rig, 100)
    real = rig.world.history.page

    async def page(*args: Any, **named: Any) -> HistoryPage:
        await rig.store.catalog.begin_delete("orders")
        return await real(*args, **named)

    monkeypatch.setattr(rig.world.history, "page", page)
    async with replaying(rig):
        failed = await ended(rig, await ask(rig, partitions=[0]), ReplayState.FAILED)
    assert failed.copied == 0


async def test_a_deleted_target_fails_it(rig: Rig) -> None:
    _, copy = await two_topics(rig, 100)
    async with replaying(rig):
        replay = await ask(rig, rate_per_s=20.0)
        await eventually(lambda: copied(rig, copy) >= 10)
        await rig.store.catalog.begin_delete("copy")
        await rig.world.log.delete_topic(copy)
        failed = await ended(rig, replay, ReplayState.FAILED)
    assert failed.error == "the target topic was deleted before everything was copied"


async def test_history_that_is_dropped_before_it_was_copied_fails_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openstream_runtime.actors.replay_copier.PAGE", 5)
    orders, copy = await two_topics(rig, 100)
    async with replaying(rig):
        replay = await ask(rig, rate_per_s=20.0)
        await eventually(lambda: copied(rig, copy) >= 10)
        _, late = rig.store.rows(orders.id, 0)[-1]
        outlive(rig.store, orders.id, 0, late.position)
        failed = await ended(rig, replay, ReplayState.FAILED)
    assert failed.error is not None
    assert f"only what is at or after {late.position} is kept" in failed.error


async def test_an_empty_source_is_done_at_once(rig: Rig) -> None:
    await two_topics(rig, 0)
    async with replaying(rig):
        done = await ended(rig, await ask(rig))
    assert (done.copied, done.total) == (0, 0)


async def test_a_replay_of_a_replay_says_where_its_own_copies_come_from(rig: Rig) -> None:
    _, copy = await two_topics(rig, 30)
    third = await rig.topic("third", 2)
    async with replaying(rig):
        await ended(rig, await ask(rig))
        await persist(rig, copy)
        again = await Replaying(rig.world, Topics(rig.world)).create("copy", ReplayWish("third"))
        await ended(rig, again)
    found = [msgspec.json.decode(one.headers or b"") for events in in_target(rig, third).values() for one in events]
    assert len(found) == 30
    assert all(said["openstream-replay-of"].startswith("copy/") for said in found)
    assert {said["openstream-replay"] for said in found} == {again.id}


async def test_the_source_grows_while_it_is_copied_and_the_replay_still_ends(rig: Rig) -> None:
    orders, copy = await two_topics(rig, 50)
    async with replaying(rig), persisting(rig, orders, tail=False), anyio.create_task_group() as tasks:

        async def grow() -> None:
            for number in range(50, 5_000, 5):
                await produce(rig, orders, 5, start=number)
                await anyio.sleep(0.05)

        tasks.start_soon(grow)
        replay = await ask(rig, rate_per_s=25.0)
        done = await ended(rig, replay)
        tasks.cancel_scope.cancel()
    assert done.copied == replay.total
    assert copied(rig, copy) == done.copied < 200


async def test_large_events_are_read_and_appended_in_small_steps(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    _, copy = await two_topics(rig, 3_000, source=1, target=2)
    sizes: list[int] = []
    real = rig.log.events.append

    async def append(batches: Sequence[AppendBatch], *, replicas: int | None = None) -> list[AppendOutcome]:
        sizes.append(sum(len(batch.events) for batch in batches))
        return await real(batches, replicas=replicas)

    monkeypatch.setattr(rig.log.events, "append", append)
    async with replaying(rig):
        replay = await ask(rig)
        await ended(rig, replay)
    assert max(sizes) <= 500
    check_once(rig, copy, replay, range(3_000))
    assert Position(0, 0) < in_target(rig, copy)[0][0].position

"""The replayer: who copies, under which lease, and how a replay ends. What is copied: test_replay_copier.py."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import anyio
import pytest

from openstream_runtime.actors import replayer as module
from openstream_runtime.actors.replayer import Replayer
from openstream_runtime.domain.replays import Replay, ReplayState
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.log import AppendBatch, AppendOutcome
from support.actors import Rig, eventually, running
from support.replaying import ask, check_once, ended, in_target, replaying, two_topics

pytestmark = pytest.mark.anyio


def copied(rig: Rig, copy: Topic) -> int:
    return sum(len(events) for events in in_target(rig, copy).values())


async def test_a_replay_is_taken_at_once_copied_and_settled(rig: Rig) -> None:
    orders, copy = await two_topics(rig)
    async with replaying(rig):
        await anyio.sleep(5)
        began = anyio.current_time()
        replay = await ask(rig)
        done = await ended(rig, replay)
        assert anyio.current_time() - began < 1
    assert (done.copied, done.total, done.owner, done.epoch, done.error) == (60, 60, None, 1, None)
    assert all(part.done for part in done.parts)
    check_once(rig, copy, replay, range(60))
    assert sum(events for _, events in rig.meter.of("replayed")) == 60
    assert rig.meter.of("replays_running") == [(1,), (-1,)]
    assert orders.partitions == len(done.parts)


async def test_progress_is_written_at_least_every_second_and_never_goes_back(rig: Rig) -> None:
    _, copy = await two_topics(rig, 100)
    times: list[float] = []
    real = rig.store.replays.progress

    async def progress(*args: object, **named: object) -> object:
        times.append(anyio.current_time())
        return await real(*args, **named)  # type: ignore[arg-type]

    rig.store.replays.progress = progress  # type: ignore[method-assign,assignment]
    async with replaying(rig):
        replay = await ask(rig, rate_per_s=10.0)
        await ended(rig, replay)
    assert len(times) > 10
    assert max(later - one for one, later in pairwise(times)) <= 1
    written = [count for _, count in rig.store.replays.written]
    assert written == sorted(written)
    assert len(set(written)) > 8
    check_once(rig, copy, replay, range(100))


@pytest.mark.parametrize("rate", [0.5, 3.0, 40.0, 1_000.0])
async def test_the_rate_is_exact_from_the_first_second(rig: Rig, rate: float) -> None:
    count = int(rate * 4)
    _, copy = await two_topics(rig, count)
    async with replaying(rig):
        began = anyio.current_time()
        replay = await ask(rig, rate_per_s=rate)
        for second in (1, 2, 3):
            await anyio.sleep(began + second - anyio.current_time())
            assert rate * second * 0.9 - 1 <= copied(rig, copy) <= rate * second * 1.1
        await ended(rig, replay)
        assert 3.6 <= anyio.current_time() - began <= 4.5
    done = await rig.store.replays.find(replay.id)
    assert done is not None
    assert done.copied == count


async def test_rate_and_eta_are_told_while_it_runs(rig: Rig) -> None:
    await two_topics(rig, 200)
    async with replaying(rig):
        replay = await ask(rig, rate_per_s=20.0)
        assert replay.eta_ms == 10_000
        await anyio.sleep(5)
        now = await rig.store.replays.find(replay.id)
        assert now is not None
        assert 18 <= now.rate <= 22
        assert now.eta_ms is not None
        assert 4_000 <= now.eta_ms <= 6_500
        assert (await ended(rig, replay)).eta_ms is None


async def test_an_owner_that_dies_is_followed_within_its_lease(rig: Rig) -> None:
    _, copy = await two_topics(rig, 100)
    async with anyio.create_task_group() as tasks:
        dying = Replayer(rig.world)
        started = anyio.Event()

        async def live() -> None:
            with anyio.CancelScope() as scope:
                async with running(dying):
                    started.set()
                    await eventually(lambda: copied(rig, copy) >= 40)
                    rig.store.replays.release = _nothing  # type: ignore[method-assign,assignment]
                    scope.cancel()

        replay = await ask(rig, rate_per_s=20.0)
        tasks.start_soon(live)
        await started.wait()
        await eventually(lambda: copied(rig, copy) >= 40)
        died = anyio.current_time()
        other = rig.node("b")
        async with replaying(other):
            await eventually(lambda: rig.store.replays._rows[replay.id].replay.owner == "b", within=10)
            assert anyio.current_time() - died <= rig.world.limits.lease_ms / 1000 + 1.5
            done = await ended(other, replay)
    assert (done.epoch, done.copied) == (2, 100)
    check_once(rig, copy, replay, range(100))
    written = [count for _, count in rig.store.replays.written]
    assert written == sorted(written)


async def _nothing(*_: object) -> None:
    await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("first_batch", [True, False])
async def test_an_owner_that_slept_through_its_lease_doubles_nothing_when_it_wakes(rig: Rig, first_batch: bool) -> None:
    _, copy = await two_topics(rig, 100)
    replay = await ask(rig, rate_per_s=None if first_batch else 20.0)
    asleep, wakes = anyio.Event(), anyio.Event()
    real = rig.log.events.append

    async def append(batches: Sequence[AppendBatch], *, replicas: int | None = None) -> list[AppendOutcome]:
        if first_batch or copied(rig, copy) >= 30:
            asleep.set()
            rig.store.replays.progress = progress  # type: ignore[method-assign,assignment]
            await wakes.wait()
        return await real(batches, replicas=replicas)

    progressed = rig.store.replays.progress

    async def progress(name: str, epoch: int, *args: object, **named: object) -> object:
        if epoch == 1:
            await wakes.wait()
        return await progressed(name, epoch, *args, **named)  # type: ignore[arg-type]

    taking = rig.store.replays.take

    async def take(owner: str, lease_ms: int) -> Replay | None:
        return None if owner == "a" and asleep.is_set() else await taking(owner, lease_ms)

    rig.log.events.append = append  # type: ignore[method-assign]
    rig.store.replays.take = take  # type: ignore[method-assign]
    async with running(Replayer(rig.world)):
        await asleep.wait()
        other = rig.node("b")
        async with replaying(other):
            done = await ended(other, replay)
            wakes.set()
            await anyio.sleep(30)
    assert done.epoch == 2
    check_once(rig, copy, replay, range(100))


async def test_a_draining_node_gives_its_replays_back_at_once(rig: Rig) -> None:
    _, copy = await two_topics(rig, 100)
    other = rig.node("b", lease_ms=300_000)
    long = rig.node("a", lease_ms=300_000)
    async with replaying(long):
        replay = await ask(long, rate_per_s=20.0)
        await eventually(lambda: copied(rig, copy) >= 30)
        async with replaying(other):
            long.world.board.begin_draining()
            began = anyio.current_time()
            await eventually(lambda: rig.store.replays._rows[replay.id].replay.owner == "b", within=10)
            assert anyio.current_time() - began < 1.5
            await ended(other, replay)
            await anyio.sleep(10)
    assert long.store.calls["take_replay"] > 1
    check_once(rig, copy, replay, range(100))


async def test_nodes_share_replays_and_one_takes_a_few_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    await two_topics(rig, 20)
    other = rig.node("b")
    replays = [await ask(rig, rate_per_s=2.0) for _ in range(6)]
    rows = rig.store.replays._rows
    async with replaying(rig, other):
        await eventually(lambda: sum(row.replay.owner is not None for row in rows.values()) == 4)
        await anyio.sleep(3)
        owners = [row.replay.owner for row in rows.values()]
        assert (owners.count("a"), owners.count("b"), owners.count(None)) == (2, 2, 2)
        for replay in replays:
            assert (await ended(rig, replay)).epoch == 1


async def test_a_cancelled_replay_ends_at_once_and_nothing_more_is_copied(rig: Rig) -> None:
    _, copy = await two_topics(rig, 100)
    async with replaying(rig):
        replay = await ask(rig, rate_per_s=20.0)
        await eventually(lambda: copied(rig, copy) >= 30)
        assert await rig.store.replays.cancel(replay.id) is not None
        done = await ended(rig, replay, ReplayState.CANCELLED, within=1.5)
        there = copied(rig, copy)
        await anyio.sleep(10)
        assert copied(rig, copy) == there == done.copied


async def test_one_that_is_cancelled_while_nobody_owns_it_is_cleaned_up_later(rig: Rig) -> None:
    _, copy = await two_topics(rig)
    replay = await ask(rig)
    assert await rig.store.replays.cancel(replay.id) is not None
    async with replaying(rig):
        await ended(rig, replay, ReplayState.CANCELLED)
    assert copied(rig, copy) == 0
    assert {at for at, name in rig.redis.marks if name == replay.id} == set(copy.all_partitions())


async def test_a_bug_in_one_replay_fails_it_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await two_topics(rig, 40)
    real = rig.world.history.page

    async def page(topic_id: int, partition: int, *args: object, **named: object) -> object:
        if partition == 1:
            raise ValueError("secret payload")
        return await real(topic_id, partition, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(rig.world.history, "page", page)
    async with replaying(rig):
        bad, good = await ask(rig), await ask(rig, partitions=[0])
        failed = await ended(rig, bad, ReplayState.FAILED)
        await ended(rig, good)
    assert failed.error == "an internal error (ValueError); a node's log has it"
    assert [event for event in rig.events if "Restarting" in type(event).__name__] == []


async def test_with_postgres_away_nothing_is_lost_and_nobody_crashes(rig: Rig) -> None:
    _, copy = await two_topics(rig, 100)
    async with replaying(rig, rig.node("b")):
        replay = await ask(rig, rate_per_s=50.0)
        await eventually(lambda: copied(rig, copy) >= 20)
        rig.store.trouble.unavailable = True
        await anyio.sleep(60)
        assert copied(rig, copy) <= 100
        rig.store.trouble.unavailable = False
        await ended(rig, replay)
    check_once(rig, copy, replay, range(100))
    assert [event for event in rig.events if "Restarting" in type(event).__name__] == []


async def test_it_tells_what_it_does(rig: Rig) -> None:
    await two_topics(rig)
    replayer = Replayer(rig.world)
    assert Replayer.spec(rig.world).id == "replayer"
    async with running(replayer):
        replay = await ask(rig, rate_per_s=5.0)
        await eventually(lambda: replayer.describe() != {"replays": {}})
        assert replayer.describe() == {
            "replays": {replay.id: {"source": "orders", "target": "copy", "epoch": 1, "copied": 0}}
        }

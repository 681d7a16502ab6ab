"""The persister: leases, fencing, and trouble in every phase. PostgreSQL has each event once, in order."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.log import AppendBatch, Appended
from support.actors import Rig, event, eventually, make_world, settle
from support.persisting import one_persister, only_trims_what_is_stored, pass_time, persisting

pytestmark = pytest.mark.anyio
AT = TopicPartition("orders", 0)


@pytest.fixture
def rig() -> Rig:
    return make_world(retention_ms=0)


async def test_it_takes_the_partition_copies_it_publishes_the_cursor_and_trims(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await rig.topic()
    only_trims_what_is_stored(monkeypatch, rig.store, topic)
    await rig.append(topic, 1, 2, 3)
    async with one_persister(rig, topic) as (persister, _):
        await eventually(lambda: rig.stored(topic) == ["1", "2", "3"])
        positions = await rig.append(topic, 4)
        await eventually(lambda: rig.retained(topic) == [])
        assert rig.redis.meta[AT].pid == positions[0]
        assert rig.redis.meta[AT].n == rig.redis.meta[AT].pn == 4
        assert rig.world.board.held == {AT: 1}
        assert persister.describe() == {
            "state": "holding", "epoch": 1, "generation": 0, "persisted_id": str(positions[0]),
            "trimmed_below": str(positions[0].next()), "trim_bound_by": "cursor",
        }  # fmt: skip
        [stats] = await rig.world.log.stats([AT])
        assert stats.owner == "a"
    assert rig.world.board.held == {}
    assert rig.redis.holder(AT) is None
    assert persister.describe()["epoch"] is None
    assert [change for (change,) in rig.meter.of("lease")] == ["acquired", "released"]


async def test_an_event_is_persisted_when_it_comes_and_not_at_the_next_look(rig: Rig) -> None:
    topic = await rig.topic()
    async with one_persister(rig, topic):
        await pass_time(30)
        for number in range(5):
            await rig.append(topic, number)
            await eventually(lambda number=number: len(rig.stored(topic)) == number + 1, within=0.2)  # type: ignore[misc]


async def test_a_commit_that_was_under_way_when_redis_failed_over_leaves_its_events_to_no_group_unread(
    rig: Rig,
) -> None:
    topic, other = await rig.topic(), rig.node("b")
    await rig.append(topic, 0)
    await rig.world.groups.create("orders", "g", {0: "0-0"})
    async with one_persister(rig, topic):
        await eventually(lambda: rig.stored(topic) == ["0"])
        committing = rig.store.trouble.hold_writes()
        await rig.append(topic, 1, 2, 3)
        await pass_time(1)  # they were read from the primary that dies now, with them
        rig.redis.lose_tail(AT, 3)
        cursor = await other.store.events.cursor(topic.id, 0)
        assert cursor is not None
        # Another node's producer comes first: by the cursor as it is now nothing is missing.
        await other.world.log.verify(topic, 0, cursor, floor=Position(rig.redis.now_ms() + 5_000, 0))
        batch = AppendBatch(topic, 0, [event(4)], 10**9, 10**9)
        assert isinstance((await other.world.log.append([batch]))[0], Appended)
        committing.set()
        await eventually(lambda: rig.stored(topic) == ["0", "1", "2", "3", "4"])
        [*_, last_of_the_lost, _] = [one.position for _, one in rig.store.rows(topic.id, 0)]
        assert (await rig.world.log.edges(AT)).trimmed >= last_of_the_lost
        read = await rig.world.groups.read("orders", "g", "c", [0], count=9)
        assert read.cold is not None, "the group goes on in PostgreSQL, which has them"
        assert read.cold.after < last_of_the_lost <= read.cold.upto


async def test_no_event_waits_longer_than_about_a_second_when_nobody_is_woken(rig: Rig) -> None:
    topic = await rig.topic()
    async with persisting(rig, topic, tail=False):
        await pass_time(60)
        for number in range(5):
            await rig.append(topic, number)
            await eventually(lambda number=number: len(rig.stored(topic)) == number + 1, within=1.5)  # type: ignore[misc]


async def test_an_idle_partition_costs_about_a_read_a_second(rig: Rig) -> None:
    topic = await rig.topic()
    async with one_persister(rig, topic):
        await pass_time(10)
        before = rig.redis.calls.total() + rig.store.calls.total()
        await pass_time(100)
        assert rig.redis.calls.total() + rig.store.calls.total() - before < 450  # renewals and the tail included


async def test_it_waits_for_a_lease_somebody_else_holds(rig: Rig) -> None:
    topic = await rig.topic()
    assert await rig.world.leases.acquire(AT, "b:1", 3_000)
    await rig.append(topic, 1)
    async with one_persister(rig, topic) as (persister, _):
        await pass_time(2.5)
        assert rig.store.calls["take"] == 0
        assert persister.describe()["state"] == "waiting for the lease"
        await eventually(lambda: rig.stored(topic) == ["1"], within=2)


async def test_asked_to_stop_while_it_waits_for_the_lease_it_ends(rig: Rig) -> None:
    topic = await rig.topic()
    await rig.world.leases.acquire(AT, "b:1", 3_000_000)
    async with one_persister(rig, topic):
        await pass_time(5)
    assert rig.store.calls["take"] == 0


async def test_a_lease_taken_away_is_noticed_at_the_next_renewal(rig: Rig) -> None:
    topic = await rig.topic()
    async with one_persister(rig, topic):
        await eventually(lambda: rig.world.board.held)
        rig.redis.leases[AT] = ("b:1", rig.redis.now_ms() + 20_000)
        await eventually(lambda: not rig.world.board.held, within=2)
        assert rig.redis.holder(AT) == "b:1"  # not released: it is not ours
        await eventually(lambda: rig.world.board.held == {AT: 2}, within=30)
    assert rig.meter.count("lease")["lost",] == 1


async def test_a_stale_owner_writes_nothing_and_trims_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = await rig.topic()
    trims = only_trims_what_is_stored(monkeypatch, rig.store, topic)
    async with one_persister(rig, topic):
        await eventually(lambda: rig.world.board.held)
        gate = rig.store.trouble.hold_writes()
        await rig.append(topic, 1)
        await pass_time(0.5)
        rig.store.usurp(topic.id, 0)
        rig.redis.leases[AT] = ("b:1", rig.redis.now_ms() + 20_000)
        written, trimmed = rig.stored(topic), sum(trims)
        gate.set()
        rig.store.trouble.gate = None
        await pass_time(10)
        assert (rig.stored(topic), sum(trims)) == (written, trimmed) == ([], 0)
        assert rig.retained(topic) == ["1"]
        await eventually(lambda: rig.stored(topic) == ["1"], within=30)


async def test_fenced_off_it_says_so_and_does_not_fight_for_the_partition(rig: Rig) -> None:
    topic = await rig.topic()
    async with one_persister(rig, topic):
        await eventually(lambda: rig.world.board.held)
        for number in range(20):
            rig.store.usurp(topic.id, 0)
            await rig.append(topic, number)
            await pass_time(0.5)
        assert rig.store.calls["take"] < 21
    assert rig.meter.count("lease")["fenced",] >= 2


async def test_of_a_topic_that_is_gone_it_asks_now_and_then_and_not_all_the_time(rig: Rig) -> None:
    topic = await rig.topic()
    async with one_persister(rig, topic):
        await eventually(lambda: rig.world.board.held)
        await rig.store.catalog.begin_delete(topic.name)
        batch = AppendBatch(topic, 0, [event("late")], 100, 100)
        assert isinstance((await rig.world.log.append([batch]))[0], Appended)
        before = rig.redis.calls.total() + rig.store.calls.total()
        await pass_time(60)
        assert rig.redis.calls.total() + rig.store.calls.total() - before < 400
        assert rig.world.board.held == {}


@pytest.mark.parametrize("kept", [True, False])
async def test_a_commit_whose_answer_is_lost_is_neither_doubled_nor_dropped(rig: Rig, kept: bool) -> None:
    topic = await rig.topic()
    rig.store.trouble.lost_commits.extend([kept, not kept, kept])
    async with one_persister(rig, topic):
        for first in range(0, 40, 10):
            await rig.append(topic, *range(first, first + 10))
            await eventually(lambda first=first: len(rig.stored(topic)) == first + 10)  # type: ignore[misc]
        assert rig.stored(topic) == [str(number) for number in range(40)]
        assert rig.store.count(topic.id, 0) == 40
        await eventually(lambda: rig.retained(topic) == [])
    assert rig.meter.count("lease")["fenced",] == 0


async def test_with_postgresql_away_for_long_nothing_is_trimmed_nothing_spins_and_it_catches_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await rig.topic()
    only_trims_what_is_stored(monkeypatch, rig.store, topic)
    async with one_persister(rig, topic) as (persister, _):
        await rig.append(topic, *range(10))
        await eventually(lambda: len(rig.stored(topic)) == 10)
        positions = rig.redis.streams[AT].last
        rig.store.trouble.unavailable = True
        await append_without_store(rig, topic, *range(10, 20))
        before = rig.redis.calls.total() + rig.store.calls.total()
        await pass_time(120)
        assert persister.describe()["state"] == "waiting for a backend"
        assert rig.redis.calls.total() + rig.store.calls.total() - before < 600
        assert rig.retained(topic)[-10:] == [str(number) for number in range(10, 20)]
        assert positions < rig.redis.streams[AT].last
        rig.store.trouble.unavailable = False
        await eventually(lambda: rig.stored(topic) == [str(number) for number in range(20)], within=5)
        await eventually(lambda: rig.retained(topic) == [])
    assert rig.meter.count("lease")["lost",] == 0


async def append_without_store(rig: Rig, topic: Topic, *payloads: int) -> None:
    away, rig.store.trouble.unavailable = rig.store.trouble.unavailable, False
    await rig.append(topic, *payloads)
    rig.store.trouble.unavailable = away


async def test_with_redis_away_for_long_the_lease_is_lost_and_it_comes_back(rig: Rig) -> None:
    topic = await rig.topic()
    async with one_persister(rig, topic):
        await rig.append(topic, 1)
        await eventually(lambda: rig.stored(topic) == ["1"])
        rig.redis.unavailable = True
        before = rig.redis.calls.total()
        await pass_time(60)
        assert rig.world.board.held == {}
        assert rig.redis.calls.total() - before < 400
        rig.redis.unavailable = False
        await rig.append(topic, 2)
        await eventually(lambda: rig.stored(topic) == ["1", "2"], within=5)


async def test_a_short_blip_of_redis_costs_no_lease(rig: Rig) -> None:
    topic = await rig.topic()
    async with one_persister(rig, topic):
        await eventually(lambda: rig.world.board.held)
        for number in range(5):
            rig.redis.unavailable = True
            await pass_time(1.2)
            rig.redis.unavailable = False
            await rig.append(topic, number)
            await pass_time(3)
        await eventually(lambda: len(rig.stored(topic)) == 5)
    assert rig.store.calls["take"] == 1


async def test_a_renewal_that_is_not_answered_in_time_counts_as_lost(rig: Rig) -> None:
    topic = await rig.topic()
    async with one_persister(rig, topic):
        await eventually(lambda: rig.world.board.held)
        stalled = rig.redis.stall("renew")
        await eventually(lambda: not rig.world.board.held, within=4.5)
        stalled.set()
        await eventually(lambda: rig.world.board.held)


async def test_after_a_flush_it_neither_spins_nor_loses_what_comes_afterwards(rig: Rig) -> None:
    topic = await rig.topic()
    async with one_persister(rig, topic):
        await rig.append(topic, *range(5))
        await eventually(lambda: len(rig.stored(topic)) == 5)
        rig.redis.skew_ms = -3_600_000  # and the clock went back: its own ids would be far below the cursor
        rig.redis.flush()
        before = rig.redis.calls.total()
        await pass_time(30)
        assert rig.redis.calls.total() - before < 300
        await rig.append(topic, *range(5, 10))
        await eventually(lambda: rig.stored(topic) == [str(number) for number in range(10)], within=3)


async def test_a_row_postgresql_refuses_goes_to_quarantine_and_the_rest_goes_on(rig: Rig) -> None:
    topic = await rig.topic()
    rig.store.trouble.poison = lambda one: one.payload == b"bad"
    async with one_persister(rig, topic):
        await rig.append(topic, 1, "bad", 2)
        await eventually(lambda: rig.stored(topic) == ["1", "2"])
        await eventually(lambda: rig.retained(topic) == [])
    assert [one.event.payload for one in rig.store.quarantined(topic.id, 0)] == [b"bad"]
    assert sum(quarantined for *_, quarantined in rig.meter.of("persisted")) == 1
    assert sum(events for _, _, events, _ in rig.meter.of("persisted")) == 3


async def test_asked_to_stop_in_the_middle_of_a_batch_it_commits_publishes_and_releases(rig: Rig) -> None:
    topic = await rig.topic()
    async with one_persister(rig, topic) as (_, ctx):
        await eventually(lambda: rig.world.board.held)
        gate = rig.store.trouble.hold_writes()
        positions = await rig.append(topic, 1, 2, 3)
        await pass_time(0.5)
        ctx.ask_to_stop()
        await pass_time(1)
        assert rig.redis.holder(AT) is not None
        gate.set()
        await eventually(lambda: rig.redis.holder(AT) is None, within=1)
        assert rig.stored(topic) == ["1", "2", "3"]
        assert rig.redis.meta[AT].pid == positions[-1]


async def test_a_store_writer_that_crashes_costs_a_moment(rig: Rig) -> None:
    topic = await rig.topic()
    real = rig.store.events.write
    bugs = [True]

    async def write(batches: Any) -> Any:
        if bugs:
            bugs.pop()
            raise RuntimeError("a bug in the store")
        return await real(batches)

    rig.store.events.write = write  # type: ignore[method-assign]
    async with persisting(rig, topic):
        await rig.append(topic, 1, 2)
        await eventually(lambda: rig.stored(topic) == ["1", "2"], within=3)
    assert rig.store.calls["take"] == 1


async def test_a_persister_that_crashes_gives_the_lease_back_and_is_followed_at_once(rig: Rig) -> None:
    topic = await rig.topic()
    real = rig.log.events.read_after
    bugs = [True]

    async def read_after(*arguments: Any, **options: Any) -> Any:
        if bugs:
            bugs.pop()
            raise RuntimeError("a bug in the log")
        return await real(*arguments, **options)

    rig.log.events.read_after = read_after  # type: ignore[method-assign]
    async with persisting(rig, topic):
        await rig.append(topic, 1)
        await eventually(lambda: rig.stored(topic) == ["1"], within=1)
    assert rig.store.calls["take"] == 2


async def test_a_lease_that_cannot_be_given_back_does_not_hold_up_the_stop(rig: Rig) -> None:
    topic = await rig.topic()
    async with one_persister(rig, topic) as (_, ctx):
        await eventually(lambda: rig.world.board.held)
        rig.redis.stall("release_lease")
        before = anyio.current_time()
        ctx.ask_to_stop()
    assert anyio.current_time() - before < 3


async def test_an_unreachable_store_at_the_beginning_is_waited_for(rig: Rig) -> None:
    topic = await rig.topic()
    rig.store.trouble.unavailable = True
    async with one_persister(rig, topic):
        await pass_time(10)
        assert rig.store.calls["take"] < 25
        rig.store.trouble.unavailable = False
        await rig.append(topic, 1)
        await eventually(lambda: rig.stored(topic) == ["1"], within=5)


async def test_a_topic_that_is_deleted_before_it_is_taken_is_left_alone(rig: Rig) -> None:
    topic = await rig.topic()
    await rig.store.catalog.begin_delete(topic.name)
    async with one_persister(rig, topic):
        await pass_time(5)
        await settle()
        assert rig.world.board.held == {}
    assert rig.meter.count("lease")["fenced",] >= 1

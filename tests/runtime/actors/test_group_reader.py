"""The reader of a group: who waits is served in turn, nobody spins, and nothing is stranded."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Any

import anyio
import pytest

from openstream_runtime.actors.group_reader import (
    AckItems,
    Claim,
    GiveBack,
    GroupReader,
    Message,
    Nudge,
    ReaderMailbox,
    positions_of,
)
from openstream_runtime.actors.placing import first_position
from openstream_runtime.domain.errors import NotFound, OpenStreamError, OutcomeUnknown, Unavailable
from openstream_runtime.domain.names import RELEASED
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Group
from openstream_runtime.ports.groups import GroupRead
from supervisors import ActorGone, CallTimeout
from support.actors import Rig, eventually, running, settle
from support.consuming import Bench, consuming

pytestmark = pytest.mark.anyio


async def test_what_is_there_is_handed_out_at_once_and_counted(rig: Rig) -> None:
    async with consuming(rig, partitions=2) as bench:
        await rig.append(bench.topic, 1, 2)
        await rig.append(bench.topic, 3, partition=1)
        found = await bench.read()
        assert sorted(bench.payloads("c")) == ["1", "2", "3"]
        assert {delivery.deliveries for delivery in found.deliveries} == {1}
        acked = await bench.box.call(AckItems(positions_of(found.deliveries)))
        assert acked == 3
        assert not bench.state().pending
    assert rig.meter.of("read") == [("orders", "g", 3)]


async def test_a_read_that_does_not_block_answers_at_once_with_nothing(rig: Rig) -> None:
    async with consuming(rig) as bench:
        before = anyio.current_time()
        assert (await bench.read(block=0)).deliveries == ()
        assert anyio.current_time() == before


@pytest.mark.parametrize("block", [0.05, 0.3, 1.0, 2.0, 7.3, 30.0])
async def test_a_read_that_finds_nothing_is_answered_at_its_deadline(rig: Rig, block: float) -> None:
    async with consuming(rig) as bench:
        before = anyio.current_time()
        assert (await bench.read(block=block)).deliveries == ()
        assert anyio.current_time() - before == pytest.approx(block, abs=0.01)


async def test_a_waiting_read_is_woken_by_the_event_and_not_by_the_next_look(rig: Rig) -> None:
    async with consuming(rig) as bench, anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(partial(bench.read, f"c{number}", block=60))
            await anyio.sleep(0.7)
            appended = anyio.current_time()
            await rig.append(bench.topic, number)
            await eventually(lambda number=number: f"c{number}" in bench.answers, within=0.2)  # type: ignore[misc]
            assert bench.answered_at[f"c{number}"] - appended < 0.1


async def test_without_a_wake_up_nobody_waits_longer_than_the_next_look(rig: Rig) -> None:
    async with consuming(rig, tail=False) as bench, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(bench.read, block=60))
        await anyio.sleep(10.5)
        await rig.append(bench.topic, 1)
        await eventually(lambda: "c" in bench.answers, within=2.1)


async def test_who_waits_longest_is_served_first(rig: Rig) -> None:
    async with consuming(rig) as bench, anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(partial(bench.read, f"c{number}", count=1, block=60))
            await settle(50)
        for number in range(5):
            await rig.append(bench.topic, number)
            await eventually(lambda number=number: f"c{number}" in bench.answers, within=1)  # type: ignore[misc]
            assert len(bench.answers) == number + 1


async def test_who_comes_anew_does_not_overtake_who_waits(rig: Rig) -> None:
    async with consuming(rig, tail=False) as bench, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(bench.read, "first", count=1, block=60))
        await settle(50)
        await rig.append(bench.topic, "event")  # nobody is woken: there is no tailer
        await bench.read("second", count=1, block=0)
        assert bench.payloads("first") == ["event"]
        assert bench.payloads("second") == []


async def test_many_who_wait_cost_no_reads_and_a_newcomer_costs_one(rig: Rig) -> None:
    async with consuming(rig, partitions=4) as bench, anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(partial(bench.read, f"c{number}", block=60))
        await anyio.sleep(1)
        before = bench.reads
        assert before <= 50
        await anyio.sleep(40)
        assert bench.reads - before <= 45
        before = bench.reads
        await bench.read("new", block=0)
        assert bench.reads - before <= 1
        rig.world.board.begin_draining()
        bench.box.offer(Nudge())


async def test_a_wake_up_for_one_partition_leaves_those_alone_who_wait_for_another(rig: Rig) -> None:
    async with consuming(rig, partitions=4) as bench, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(bench.read, "three", block=120, partitions=[3]))
        await anyio.sleep(0.5)
        before = bench.reads
        for number in range(200):  # a busy partition that nobody of this group reads
            await rig.append(bench.topic, number, partition=1)
            await anyio.sleep(0.05)
        assert bench.reads - before <= 10
        await rig.append(bench.topic, "mine", partition=3)
        await eventually(lambda: "three" in bench.answers, within=0.2)
        assert bench.payloads("three") == ["mine"]


async def test_busy_partitions_do_not_starve_the_quiet_ones(rig: Rig) -> None:
    async with consuming(rig, partitions=4) as bench:
        for number in range(4):
            await rig.append(bench.topic, *range(300), partition=number)
        served: set[int] = set()
        for turn in range(120):  # two consumers that alternate, each with less room than one partition has
            found = await bench.read(f"c{turn % 2}", count=2)
            served |= {delivery.partition for delivery in found.deliveries if turn % 2}
        assert served == {0, 1, 2, 3}


async def test_filters_that_overlap_are_all_served(rig: Rig) -> None:
    async with consuming(rig, partitions=3) as bench, anyio.create_task_group() as tasks:
        for name, numbers in {"a": [0], "b": [0, 1], "c": [2, 1], "d": [2]}.items():
            tasks.start_soon(partial(bench.read, name, count=1, block=60, partitions=numbers))
        await anyio.sleep(1)
        for number in (0, 1, 2, 0, 1, 2):
            await rig.append(bench.topic, number, partition=number)
            await anyio.sleep(0.3)
        await eventually(lambda: len(bench.answers) == 4, within=1)
        assert all(bench.payloads(name) for name in "abcd")


async def test_a_group_redis_has_lost_is_created_again_where_it_began(rig: Rig) -> None:
    async with consuming(rig, partitions=2) as bench:
        await rig.append(bench.topic, 1)
        await bench.read()
        rig.redis.flush()
        await rig.append(bench.topic, 2)
        await rig.append(bench.topic, 3, partition=1)
        found = await bench.read()
        assert sorted(bench.payloads("c")) == ["2", "3"]
        assert {delivery.deliveries for delivery in found.deliveries} == {1}


async def test_a_group_of_new_events_is_created_again_at_its_birth(rig: Rig) -> None:
    async with consuming(rig, start="$") as bench:
        await anyio.sleep(5)
        rig.redis.flush()
        await rig.append(bench.topic, "after the loss, before the read")
        await bench.read()
        assert bench.payloads("c") == ["after the loss, before the read"]


def test_where_a_group_begins_that_redis_knows_nothing_of() -> None:
    assert first_position(Group(1, "t", "g", "$", 1234)) == "1234-0"
    assert first_position(Group(1, "t", "g", "5-1", 1234)) == "5-1"


async def test_a_deleted_group_does_not_come_back(rig: Rig) -> None:
    async with consuming(rig) as bench:
        await rig.store.catalog.delete_group(bench.topic, "g")  # by another node: our board still knows it
        await rig.world.groups.delete(bench.topic.name, "g", [0])
        with pytest.raises(NotFound):
            await bench.read()
        assert rig.redis.group(TopicPartition("orders", 0), "g") is None


@pytest.mark.parametrize("lost", [True, False])
async def test_errors_answer_the_caller_and_the_next_one_is_served(rig: Rig, lost: bool) -> None:
    async with consuming(rig) as bench:
        await rig.append(bench.topic, 1)
        if lost:
            rig.redis.lose_answer("read", kept=False)
        else:
            rig.redis.unavailable = True
        with pytest.raises(OutcomeUnknown if lost else Unavailable):
            await bench.read(block=30)
        rig.redis.unavailable = False
        await bench.read()
        assert bench.payloads("c") == ["1"]
        rig.redis.unavailable = True
        with pytest.raises(Unavailable):
            await bench.box.call(AckItems({}))
        with pytest.raises(Unavailable):
            await bench.box.call(Claim("c", 1, [0], 0))


async def test_who_waits_when_redis_goes_away_hears_of_it_soon(rig: Rig) -> None:
    async with consuming(rig) as bench, anyio.create_task_group() as tasks:
        heard: list[OpenStreamError] = []

        async def wait(name: str) -> None:
            try:
                await bench.read(name, block=60)
            except OpenStreamError as error:
                heard.append(error)

        for number in range(3):
            tasks.start_soon(wait, f"c{number}")
        await anyio.sleep(1)
        rig.redis.unavailable = True
        await eventually(lambda: len(heard) == 3, within=3)


async def test_a_draining_node_answers_everybody_at_once(rig: Rig) -> None:
    async with consuming(rig, partitions=2) as bench, anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(partial(bench.read, f"c{number}", block=60, partitions=[number % 2]))
        await anyio.sleep(1)
        drained = anyio.current_time()
        rig.world.board.begin_draining()
        bench.box.offer(Nudge())
        await eventually(lambda: len(bench.answers) == 20, within=1)
        assert max(bench.answered_at.values()) - drained < 0.05
        await bench.read("late", block=60)
        assert anyio.current_time() - drained < 0.2


async def test_asked_to_stop_it_answers_who_waits_and_sees_to_what_is_in_its_mailbox(rig: Rig) -> None:
    bench_box = ReaderMailbox(100)
    topic = await rig.topic()
    await rig.append(topic, 1, 2)
    await rig.world.groups.create(topic.name, "g", {0: "0-0"})
    found = await rig.world.groups.read(topic.name, "g", "gone", [0], count=2)
    bench = Bench(rig, topic, bench_box)
    async with anyio.create_task_group() as tasks:
        async with running(GroupReader(rig.world, topic.name, "g", bench_box)) as ctx:
            tasks.start_soon(partial(bench.read, "waits", block=60))
            await eventually(lambda: bench.reads >= 2)
            ctx.ask_to_stop()
            bench_box.offer(GiveBack("gone", positions_of(found.deliveries)))
            tasks.start_soon(partial(bench.read, "late", block=60, count=1))
        with anyio.fail_after(1):
            while len(bench.answers) < 1:
                await settle()
        tasks.cancel_scope.cancel()
    assert {one.consumer for one in bench.state().pending.values()} <= {RELEASED, "waits"}


async def test_a_crash_fails_who_waits_and_the_group_goes_on(rig: Rig) -> None:
    async with consuming(rig) as bench, anyio.create_task_group() as tasks:
        gone: list[str] = []

        async def wait(name: str) -> None:
            try:
                await bench.read(name, block=60)
            except ActorGone:
                gone.append(name)

        for number in range(3):
            tasks.start_soon(wait, f"c{number}")
        await anyio.sleep(1)
        real = rig.log.groups.read
        bugs = [True]

        async def read(*arguments: Any, **options: Any) -> GroupRead:
            if bugs:
                bugs.pop()
                raise RuntimeError("a bug")
            return await real(*arguments, **options)

        rig.log.groups.read = read  # type: ignore[method-assign]
        await rig.append(bench.topic, 1)
        await eventually(lambda: len(gone) == 3, within=1)
        await bench.read("after", block=10)
        assert bench.payloads("after") == ["1"]


async def test_what_was_abandoned_while_it_waited_gets_nothing(rig: Rig) -> None:
    async with consuming(rig) as bench:
        for _ in range(3):
            with anyio.move_on_after(0.5):
                await bench.read("gone", block=60)
        await rig.append(bench.topic, 1)
        found = await bench.read("here", block=5)
        assert [(delivery.deliveries) for delivery in found.deliveries] == [1]
        assert "gone" not in {one.consumer for one in bench.state().pending.values()}


async def test_an_answer_nobody_heard_goes_back_at_once_and_is_not_counted(rig: Rig) -> None:
    async with consuming(rig) as bench, anyio.create_task_group() as tasks:
        await rig.append(bench.topic, 1, 2)
        gate = rig.redis.stall("read")
        with anyio.move_on_after(0.5):
            await bench.read("gone", block=60)
        tasks.start_soon(partial(bench.read, "next", block=60))
        await settle()
        gate.set()
        await eventually(lambda: "next" in bench.answers, within=0.5)
        assert [delivery.deliveries for delivery in bench.answers["next"].deliveries] == [1, 1]
    assert rig.meter.of("released") == [("orders", "g", 2)]


async def test_what_cannot_be_given_back_now_is_left_to_the_claim_reaper(rig: Rig) -> None:
    async with consuming(rig) as bench:
        await rig.append(bench.topic, 1)
        gate = rig.redis.stall("read")
        with anyio.move_on_after(0.5):
            await bench.read("gone", block=60)
        rig.redis.lose_answer("release", kept=False)
        gate.set()
        await eventually(lambda: rig.redis.calls["release"] == 1)
        bench.box.offer(GiveBack("gone", {0: [next(iter(bench.state().pending))]}))
        rig.redis.lose_answer("release", kept=False)
        await eventually(lambda: rig.redis.calls["release"] == 2)
        assert [one.consumer for one in bench.state().pending.values()] == ["gone"]
        found = await bench.box.call(Claim("next", 10, [0], 0))
        assert isinstance(found, GroupRead)
        assert len(found.deliveries) == 1
    assert rig.meter.of("claimed") == [("orders", "g", 1)]


async def test_a_claim_nobody_waits_for_any_more_is_not_made(rig: Rig) -> None:
    async with consuming(rig) as bench:
        await rig.append(bench.topic, 1)
        await bench.read("holder")
        gate = rig.redis.stall("ack")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bench.box.call, AckItems({}))
            await settle()
            with pytest.raises(CallTimeout):
                await bench.box.call(Claim("gone", 1, [0], 0), timeout=0.5)
            gate.set()
        await anyio.sleep(0.1)
        assert rig.redis.calls["claim"] == 0


async def test_a_claim_whose_caller_left_meanwhile_is_released(rig: Rig) -> None:
    async with consuming(rig) as bench:
        await rig.append(bench.topic, 1)
        await bench.read("holder")
        gate = rig.redis.stall("claim")
        with pytest.raises(CallTimeout):
            await bench.box.call(Claim("gone", 1, [0], 0), timeout=0.5)
        gate.set()
        found = await bench.read("next", block=5)
        assert [delivery.deliveries for delivery in found.deliveries] == [2]


async def test_it_tells_the_other_nodes_of_what_is_there_again(rig: Rig) -> None:
    async with consuming(rig, partitions=2) as bench:
        await rig.append(bench.topic, 1, partition=1)
        found = await bench.read("gone")
        bench.box.offer(GiveBack("gone", positions_of(found.deliveries)))
        await eventually(lambda: rig.redis.bells == ["group:orders:g:1"])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("seed", range(3))
async def test_after_a_storm_of_native_cancellations_every_event_is_acked_or_available(
    rig: Rig, anyio_backend: str, seed: int
) -> None:
    chance = random.Random(seed)
    async with consuming(rig, partitions=2) as bench:
        acked: list[str] = []

        async def consume(name: str) -> None:
            found = await bench.read(name, count=chance.randrange(1, 5), block=chance.choice([0, 0.5, 5]))
            items = positions_of(found.deliveries)
            acked.extend(delivery.event.payload.decode() for delivery in found.deliveries)
            await asyncio.shield(asyncio.ensure_future(bench.box.call(AckItems(items), timeout=60)))

        requests: list[asyncio.Task[None]] = []
        for turn in range(150):
            if turn % 2:
                await rig.append(bench.topic, *(f"{turn}.{n}" for n in range(3)), partition=chance.randrange(2))
            requests.append(asyncio.ensure_future(consume(f"c{turn % 5}")))
            await settle(chance.randrange(12))
            chance.choice(requests).cancel()
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await anyio.sleep(1)
        total = sum(len(bench.rig.retained(bench.topic, number)) for number in range(2))
        while (await bench.read("last")).deliveries:
            found = bench.answers["last"]
            assert all(delivery.deliveries == 1 for delivery in found.deliveries)
            acked.extend(delivery.event.payload.decode() for delivery in found.deliveries)
            await bench.box.call(AckItems(positions_of(found.deliveries)))
        held = [one.consumer for number in range(2) for one in bench.state(number).pending.values()]
        assert held == []
        assert sorted(set(acked)) == sorted(acked)
        assert len(acked) == total


async def test_only_reads_wait(rig: Rig) -> None:
    async with consuming(rig) as bench:
        assert GroupReader(rig.world, "orders", "g", bench.box).describe()["waiting"] == 0
        message: Message = Nudge([0])
        assert bench.box.offer(message)
        await eventually(lambda: bench.box.depth == 0)

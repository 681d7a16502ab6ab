"""The tailer and its watch: whoever waits is woken, whatever happens in between, and nothing piles up."""

from __future__ import annotations

import random
from collections.abc import Mapping

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openstream_runtime.actors.tailer import BLOCK, Tailer, Ticket, Watch
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.ports.log import TailNews
from support.actors import Rig, eventually, make_world, run_virtual, running, supervised, tailer

pytestmark = pytest.mark.anyio
A, B = TopicPartition("t", 0), TopicPartition("t", 1)


def at(ms: int) -> Position:
    return Position(ms, 0)


# ------------------------------------------------------------------------------------------------ the watch alone


def test_a_ticket_is_woken_once_by_the_first_event_after_its_position() -> None:
    watch, woken = Watch(), list[list[TopicPartition]]()
    ticket = watch.wait_for({A: at(5), B: at(7)}, woken.append)
    watch.moved({A: at(5), B: at(7)})
    assert woken == []
    watch.moved({A: at(6), B: at(7)})
    watch.moved({A: at(9), B: at(9)})
    assert woken == [[A]]
    assert ticket.done
    assert len(watch) == 0
    assert watch.begin() == {}


def test_a_closed_ticket_is_not_woken_and_leaves_nothing_behind() -> None:
    watch, woken = Watch(), list[list[TopicPartition]]()
    ticket = watch.wait_for({A: at(5)}, woken.append)
    ticket.close()
    ticket.close()
    watch.moved({A: at(9)})
    watch.wake_all()
    assert woken == []
    assert len(watch._tickets) == 0


def test_the_read_begins_at_the_lowest_position_anybody_waits_after() -> None:
    watch = Watch()
    watch.wait_for({A: at(5)}, print)
    watch.wait_for({A: at(3), B: at(8)}, print)
    assert watch.begin() == {A: at(3), B: at(8)}


@pytest.mark.parametrize(
    ("position", "grows"),
    [({A: at(5)}, False), ({A: at(9)}, False), ({A: at(4)}, True), ({B: at(5)}, True), ({A: at(5), B: at(1)}, True)],
)
def test_the_read_is_only_broken_into_when_it_does_not_cover_a_ticket(
    position: Mapping[TopicPartition, Position], grows: bool
) -> None:
    watch = Watch()
    watch.wait_for({A: at(5)}, print)
    mark = watch.grown.mark()
    watch.begin()
    watch.wait_for(position, print)
    assert mark.is_set() == grows


def test_after_trouble_everybody_looks_for_himself_and_may_wait_again_at_once() -> None:
    watch, woken = Watch(), list[str]()

    def again(_: object) -> None:
        woken.append("first")
        watch.wait_for({A: at(1)}, lambda _: woken.append("second"))

    watch.wait_for({A: at(1), B: at(1)}, again)
    watch.wake_all()
    assert woken == ["first"]
    assert len(watch) == 1


def test_bells_reach_whoever_listens_for_their_kind() -> None:
    watch, heard = Watch(), list[list[str]]()
    watch.on_bell("group", heard.append)
    watch.rang(["group:a:b:1", "topics", "group:a:b:2", "unheard:of", ""])
    assert heard == [["a:b:1", "a:b:2"]]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 1), st.integers(0, 3)),
        st.tuples(st.just("append"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("close"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("break"), st.just(0), st.just(0)),
        st.tuples(st.just("begin"), st.just(0), st.just(0)),
        st.tuples(st.just("news"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_no_interleaving_loses_a_wake_up(steps: list[tuple[str, int, int]]) -> None:
    """The tailer as a model: a read that began covers what it began with; a ticket it misses must break into it."""
    watch = Watch()
    tails = {A: 0, B: 0}
    waiting: dict[int, tuple[TopicPartition, int]] = {}
    tickets: list[Ticket] = []
    covered: dict[TopicPartition, Position] = {}
    mark = watch.grown.mark()
    for step, first, second in steps:
        where = (A, B)[first % 2]
        if step == "wait":
            number = len(tickets)
            position = max(0, tails[where] - second)
            waiting[number] = (where, position)
            tickets.append(watch.wait_for({where: at(position)}, lambda _, n=number: waiting.pop(n)))  # type: ignore[misc,arg-type]
        elif step == "append":
            tails[where] += second
        elif step == "close" and first < len(tickets):
            tickets[first].close()
            waiting.pop(first, None)
        elif step == "break":
            watch.wake_all()
            assert not waiting
        elif step == "begin":
            mark = watch.grown.mark()
            covered = watch.begin()
        elif step == "news":
            watch.moved({one: at(tails[one]) for one, low in covered.items() if at(tails[one]) > low})
    # Either the read that runs would tell of it, or it has been broken into and the next one will.
    for where, position in waiting.values():
        assert mark.is_set() or (where in covered and covered[where] <= at(position))
    for _ in range(2):
        covered = watch.begin()
        watch.moved({one: at(tails[one]) for one, low in covered.items() if at(tails[one]) > low})
    assert all(tails[where] <= position for where, position in waiting.values())
    assert len(watch) == len(waiting)


# ---------------------------------------------------------------------------------------------------- the tailer


async def test_it_wakes_at_the_moment_something_is_appended(rig: Rig) -> None:
    topic = await rig.topic()
    where = TopicPartition(topic.name, 0)
    await rig.verify(topic)
    async with supervised(tailer(rig)):
        for number in range(10):
            woken = anyio.Event()
            rig.world.watch.wait_for({where: rig.redis.stream(where).last}, lambda _, e=woken: e.set())  # type: ignore[misc]
            await anyio.sleep(number * 0.7)
            await rig.append(topic, number)
            with anyio.fail_after(0.1):
                await woken.wait()


async def test_what_was_appended_before_the_ticket_wakes_it_too(rig: Rig) -> None:
    topic = await rig.topic(partitions=2)
    await rig.append(topic, 1, partition=1)
    async with supervised(tailer(rig)):
        await anyio.sleep(2)  # it reads already, and covers nothing of this
        woken = anyio.Event()
        rig.world.watch.wait_for({TopicPartition(topic.name, 1): ZERO}, lambda _: woken.set())
        with anyio.fail_after(0.2):
            await woken.wait()


async def test_when_the_tail_breaks_everybody_is_woken_and_it_does_not_spin(rig: Rig) -> None:
    async with supervised(tailer(rig)):
        woken: list[float] = []

        def again(_: object) -> None:
            woken.append(anyio.current_time())
            rig.world.watch.wait_for({A: ZERO}, again)

        rig.world.watch.wait_for({A: ZERO}, again)
        await anyio.sleep(1)
        assert woken == []
        rig.redis.unavailable = True
        await anyio.sleep(30)
        assert 20 < len(woken) < 90
        rig.redis.unavailable = False
        before = len(woken)
        await anyio.sleep(30)
        assert len(woken) - before <= 2


async def test_without_trouble_it_asks_once_in_a_while(rig: Rig) -> None:
    async with supervised(tailer(rig)):
        await anyio.sleep(10 * BLOCK)
    assert rig.redis.calls["wait"] <= 12


async def test_tasks_do_not_pile_up_behind_a_read_that_is_broken_into_all_the_time(rig: Rig) -> None:
    tail = Tailer(rig.world.tail, rig.world.watch)
    async with running(tail):
        for number in range(500):
            rig.world.watch.wait_for({TopicPartition("t", number): ZERO}, print)
            await anyio.sleep(0.003)
        await anyio.sleep(1)
        assert anyio.get_running_tasks()
        assert len(anyio.get_running_tasks()) < 15
        assert tail.describe() == {"waiting": 500}


async def test_asked_to_stop_it_breaks_into_its_own_read(rig: Rig) -> None:
    async with running(Tailer(rig.world.tail, rig.world.watch)):
        await anyio.sleep(1)
        began = anyio.current_time()
    assert anyio.current_time() - began < 0.1


async def test_an_interrupt_that_fails_is_left_to_the_read(rig: Rig) -> None:
    from openstream_runtime.domain.errors import Unavailable

    async def interrupt() -> None:
        raise Unavailable("no second connection")

    rig.log.tail.interrupt = interrupt  # type: ignore[method-assign]
    async with running(Tailer(rig.world.tail, rig.world.watch), grace=2 * BLOCK):
        rig.world.watch.wait_for({A: ZERO}, print)
        await anyio.sleep(1)


async def test_a_waker_that_raises_does_not_cost_the_others_their_wake_up(rig: Rig) -> None:
    topic = await rig.topic()
    where = TopicPartition(topic.name, 0)
    woken: list[int] = []

    def wrong(_: object) -> None:
        raise RuntimeError("a bug in a waker")

    async with supervised(tailer(rig)):
        for number in range(3):
            rig.world.watch.wait_for({where: ZERO}, wrong)
            rig.world.watch.wait_for({where: ZERO}, lambda _, n=number: woken.append(n))  # type: ignore[misc]
        await rig.append(topic, 1)
        await eventually(lambda: len(woken) == 3, within=10)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_the_schedule_who_waits_is_woken_soon(seed: int) -> None:
    """Real tailer, random moments: no ticket may wait longer than the tail is away."""

    async def main() -> None:
        rig = make_world()
        chance = random.Random(seed)
        topic = await rig.topic(partitions=3)
        await rig.verify(topic)

        async def consumer() -> None:
            for _ in range(25):
                where = TopicPartition(topic.name, chance.randrange(3))
                event, position = anyio.Event(), rig.redis.stream(where).tail()
                await anyio.sleep(chance.choice([0, 0, 0.001, 0.3]))
                ticket = rig.world.watch.wait_for({where: position}, lambda _, e=event: e.set())  # type: ignore[misc]
                if chance.random() < 0.2:
                    await anyio.sleep(chance.choice([0, 0.01]))
                    ticket.close()
                    continue
                with anyio.fail_after(8):
                    await event.wait()

        async with supervised(tailer(rig)), anyio.create_task_group() as consumers:
            for _ in range(5):
                consumers.start_soon(consumer)
            async with anyio.create_task_group() as producers:
                for _ in range(150):
                    await anyio.sleep(chance.choice([0, 0.01, 0.2, 0.6]))
                    if chance.random() < 0.1:
                        rig.redis.unavailable = True
                        await anyio.sleep(chance.choice([0, 0.5, 2]))
                        rig.redis.unavailable = False
                    await rig.append(topic, 1, partition=chance.randrange(3))
                for _ in range(60):
                    for number in range(3):
                        await rig.append(topic, 1, partition=number)
                    await anyio.sleep(0.5)
                producers.cancel_scope.cancel()

    run_virtual(main, backend="trio" if seed % 2 else "asyncio")


async def test_a_tail_that_tells_nothing_new_is_harmless(rig: Rig) -> None:
    async def wait(*_: object) -> TailNews:
        await anyio.sleep(0.5)
        return TailNews({A: at(1)}, ("group:",))

    rig.log.tail.wait = wait  # type: ignore[method-assign,assignment]
    async with running(Tailer(rig.world.tail, rig.world.watch)):
        await anyio.sleep(3)

"""Producers that repeat themselves through random trouble: every event once, in order, and told where it stands."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.producers import Stamp
from openstream_runtime.gateway.results import Produced
from support.actors import Rig, make_world, run_virtual, settle
from support.desk import Desk, open_desk

PARTITIONS = 3
TOPIC = "orders"
PRODUCERS = ("p0", "p1", "p2")
#: A key of its own for some, none for others, shared ones for most.
KEYS = (None, "a", "b", "c", "d")

lost = st.tuples(st.just("lose"), st.sampled_from(["begin", "append", "finish"]), st.booleans())
send = st.tuples(st.just("send"), st.sampled_from(PRODUCERS), st.integers(0, 1))
late = st.tuples(st.just("late"), st.sampled_from(PRODUCERS), st.integers(0, 1))
twice = st.tuples(st.just("twice"), st.sampled_from(PRODUCERS), st.just(0))
leave = st.tuples(st.just("leave"), st.sampled_from(PRODUCERS), st.integers(0, 60))
others = st.tuples(st.sampled_from(["restart", "crash", "memory"]), st.integers(0, PARTITIONS - 1), st.just(0))
full = st.tuples(st.just("full"), st.integers(0, PARTITIONS - 1), st.just(0))
steps = st.lists(st.one_of(send, send, send, lost, late, twice, leave, full, others), max_size=50)


@dataclass
class Producer:
    """Sends one request at a time, and repeats it until it has an answer."""

    name: str
    sizes: Any
    seq: int = 0
    done: list[tuple[Stamp, list[NewEvent], Produced]] = field(default_factory=list)
    events: list[NewEvent] = field(default_factory=list)

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.name, 0, self.seq)

    def next(self) -> None:
        count = self.sizes(self.seq)
        self.events = [
            NewEvent("t", KEYS[(self.seq + n) % len(KEYS)], f"{self.name}.{self.seq + n}".encode(), 1)
            for n in range(count)
        ]


def may_be_repeated(error: OpenStreamError) -> None:
    assert error.facts.get("repeatable") is True, error


async def ask(desk: Desk, stamp: Stamp, events: list[NewEvent]) -> Produced:
    return await desk.gateway.produce(TOPIC, events, partitions=PARTITIONS, stamp=stamp)


async def attempt(desk: Desk, producer: Producer) -> bool:
    """One try; whether it was answered."""
    try:
        done = await ask(desk, producer.stamp, producer.events)
    except OpenStreamError as error:
        may_be_repeated(error)
        return False
    producer.done.append((producer.stamp, producer.events, done))
    producer.seq += len(producer.events)
    producer.next()
    return True


async def live(choices: list[tuple[str, Any, Any]], sizes: list[int]) -> None:
    rig = make_world("a")
    producers = {name: Producer(name, lambda seq: sizes[seq % len(sizes)]) for name in PRODUCERS}
    for producer in producers.values():
        producer.next()
    async with open_desk(rig) as one, open_desk(rig.node("b")) as two:
        desks = (one, two)
        await one.gateway.put_topic(TOPIC, PARTITIONS, (await rig.topic("other")).settings)
        for what, who, how in choices:
            match what:
                case "lose":
                    rig.redis.lose_answer(who, kept=how)
                case "send":
                    await attempt(desks[how], producers[who])
                case "late" if producers[who].done:
                    await repeat_a_late_one(desks[how], producers[who])
                case "twice":
                    await two_copies_at_once(desks, producers[who])
                case "leave":
                    await leave_early(desks[0], producers[who], how)
                case "full":
                    for at, meta in rig.redis.meta.items():
                        meta.n += 10**9 if at.partition == who and meta.n < 10**9 else 0
                case "restart":
                    rig.redis.restart()
                case "crash":
                    break_once(rig)
                case "memory":
                    rig.redis.out_of_memory = not rig.redis.out_of_memory
        calm(rig)
        for producer in producers.values():
            while not await attempt(two, producer):
                calm(rig)
            for stamp, events, first in producer.done:
                again = await ask(one, stamp, events)
                assert again.results == first.results
                assert len(again.duplicates) == len(events)
    check(rig, list(producers.values()))


async def repeat_a_late_one(desk: Desk, producer: Producer) -> None:
    """A copy of an answered request that was on the way for long."""
    stamp, events, first = producer.done[len(producer.done) // 2]
    try:
        assert (await ask(desk, stamp, events)).results == first.results
    except OpenStreamError as error:
        may_be_repeated(error)


async def two_copies_at_once(desks: tuple[Desk, Desk], producer: Producer) -> None:
    stamp, events, answers = producer.stamp, producer.events, list[Produced]()

    async def copy(desk: Desk) -> None:
        try:
            answers.append(await ask(desk, stamp, events))
        except OpenStreamError as error:
            may_be_repeated(error)

    async with anyio.create_task_group() as tasks:
        for desk in (*desks, desks[0]):
            tasks.start_soon(copy, desk)
    assert len({tuple(answer.results) for answer in answers}) <= 1


async def leave_early(desk: Desk, producer: Producer, ticks: int) -> None:
    """The client is gone before its answer; what it sent goes on without it."""
    stamp, events = producer.stamp, producer.events

    async def go() -> None:
        try:
            await ask(desk, stamp, events)
        except OpenStreamError as error:
            may_be_repeated(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go)
        await settle(ticks)
        tasks.cancel_scope.cancel()


def break_once(rig: Rig) -> None:
    """The ingestor of the first node dies with its next append."""
    real = type(rig.log.events).append.__get__(rig.log.events)

    async def breaks(*_: Any, **__: Any) -> Any:
        rig.log.events.append = real  # type: ignore[method-assign]
        raise RuntimeError("a bug")

    rig.log.events.append = breaks  # type: ignore[method-assign]


def calm(rig: Rig) -> None:
    rig.redis.out_of_memory = False
    for answers in rig.redis._lost_answers.values():
        answers.clear()
    for meta in rig.redis.meta.values():
        meta.n = meta.n % 10**9


def check(rig: Rig, producers: list[Producer]) -> None:
    entries = [
        (at.partition, one) for at, stream in rig.redis.streams.items() if at.topic == TOPIC
        for one in stream.entries.values()
    ]  # fmt: skip
    found = Counter(one.payload.decode() for _, one in entries)
    assert set(found.values()) <= {1}, found
    assert set(found) == {f"{one.name}.{n}" for one in producers for n in range(one.seq)}
    places: dict[str, tuple[int, Position]] = {
        one.payload.decode(): (partition, one.position) for partition, one in entries
    }
    for producer in producers:
        last: dict[int, Position] = {}
        for _, events, done in producer.done:
            for event, place in zip(events, done.results, strict=True):
                assert places[event.payload.decode()] == place
        for n in range(producer.seq):  # what it sent first stands first
            partition, position = places[f"{producer.name}.{n}"]
            assert position > last.get(partition, Position(0, 0))
            last[partition] = position


@settings(max_examples=100, deadline=None)
@given(choices=steps, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_every_event_is_kept_once_in_order_and_told_its_place(
    choices: list[tuple[str, Any, Any]], sizes: list[int]
) -> None:
    run_virtual(live, choices, sizes)

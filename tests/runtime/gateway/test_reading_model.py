"""Whatever producers, owners and trims do between any two steps of a reader: it sees every event once, in order.

The steps fall between single calls of the ports, which is where they fall in a cluster.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from openstream_runtime.domain.errors import Unavailable
from openstream_runtime.domain.events import NewEvent, StoredEvent
from openstream_runtime.domain.history import END, Place, Span
from openstream_runtime.domain.positions import ZERO, TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.gateway import reading as module
from openstream_runtime.gateway.reading import Reading
from openstream_runtime.gateway.topics import Topics
from openstream_runtime.ports.log import AppendBatch, Appended
from openstream_runtime.ports.store import PersistBatch
from support.actors import make_world, run_virtual

PARTITIONS = 2
number = st.integers(0, PARTITIONS - 1)
step = st.one_of(
    st.tuples(st.just("append"), number, st.integers(1, 7)),
    st.tuples(st.just("commit"), number, st.integers(1, 12)),
    st.tuples(st.just("trim"), number, st.integers(1, 12)),
    st.tuples(st.just("settle"), number),
    st.tuples(st.just("move"), number),
    st.tuples(st.just("lose"), number),
    st.tuples(st.just("redis"), st.integers(1, 3)),
    st.tuples(st.just("postgres"), st.integers(1, 3)),
    st.just(("nothing",)),
    st.just(("nothing",)),
)


class Hindered:
    """A port before each of whose calls something happens."""

    def __init__(self, port: object, happen: Any) -> None:
        self._port, self._happen = port, happen

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._port, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._happen()
            return await real(*args, **kwargs)

        return call


class Run:
    """A cluster of fakes that the steps work on, and a reader beside it."""

    def __init__(self, steps: list[Any], span: Span) -> None:
        self.rig = make_world()
        self.steps = deque(steps)
        self.span = span
        #: What was acknowledged, by partition, in order.
        self.sent: list[list[StoredEvent]] = [[] for _ in range(PARTITIONS)]
        self.topic: Topic
        self._away = 0
        world = self.rig.world
        hindered = replace(
            world,
            log=Hindered(world.log, self.happen),
            store=Hindered(world.store, self.happen),
            history=Hindered(world.history, self.happen),
        )
        self.reading = Reading(hindered, Topics(hindered))

    async def begin(self) -> None:
        self.topic = await self.rig.topic(partitions=PARTITIONS)
        for partition in range(PARTITIONS):
            await self.append(partition, 9)
            await self.commit(partition, 6)
            await self.trim(partition, 3)

    async def happen(self) -> None:
        if self._away:
            self._away -= 1
            if not self._away:
                self.rig.redis.unavailable = self.rig.store.trouble.unavailable = False
        elif self.steps:
            name, *args = self.steps.popleft()
            await getattr(self, name)(*args)

    # ---- what happens

    async def nothing(self) -> None: ...

    async def redis(self, calls: int) -> None:
        self._away, self.rig.redis.unavailable = calls, True

    async def postgres(self, calls: int) -> None:
        self._away, self.rig.store.trouble.unavailable = calls, True

    async def append(self, partition: int, count: int) -> None:
        first = len(self.sent[partition])
        events = [NewEvent("test", f"k{n % 2}", b"%d" % n, 1) for n in range(first, first + count)]
        cursor = await self.rig.store.events.cursor(self.topic.id, partition)
        assert cursor is not None
        await self.rig.log.events.verify(self.topic, partition, cursor)
        [outcome] = await self.rig.log.events.append([AppendBatch(self.topic, partition, events, 10**6, 10**6)])
        assert isinstance(outcome, Appended)
        for position, new in zip(outcome.positions, events, strict=True):
            self.sent[partition].append(StoredEvent(position, "test", new.partition_key, new.payload, 1))

    async def commit(self, partition: int, count: int) -> None:
        cursor = await self.rig.store.events.cursor(self.topic.id, partition)
        assert cursor is not None
        stream = self.rig.redis.streams.get(TopicPartition("orders", partition))
        events = stream.after(cursor.position)[:count] if stream else []
        if events:
            upto = events[-1].position
            await self.rig.store.events.write(
                [PersistBatch(self.topic.id, partition, cursor.epoch, cursor.generation, cursor.position, upto, events)]
            )

    async def trim(self, partition: int, count: int) -> None:
        cursor = await self.rig.store.events.cursor(self.topic.id, partition)
        stream = self.rig.redis.streams.get(TopicPartition("orders", partition))
        if stream and stream.entries and cursor is not None:
            below = list(stream.entries)[: count + 1][-1]
            stream.trim(min(below, cursor.position.next()))

    async def settle(self, partition: int) -> None:
        await self.commit(partition, 10**6)
        await self.trim(partition, 10**6)

    async def move(self, partition: int) -> None:
        cursor = await self.rig.store.events.take(self.topic.id, partition, "another")
        assert cursor is not None
        await self.rig.log.events.verify(self.topic, partition, cursor)

    async def lose(self, partition: int) -> None:
        """Redis comes back empty, after all of it was persisted: what was not is lost, and no reader's fault."""
        for each in range(PARTITIONS):
            await self.commit(each, 10**6)
        self.rig.redis.flush()

    # ---- what is seen

    def must_see(self) -> list[list[int]]:
        """What was acknowledged by now and is asked for, by partition."""
        return [[int(one.payload) for one in log if self.wanted(one)] for log in self.sent]

    def wanted(self, one: StoredEvent) -> bool:
        return self.span.first <= one.position <= self.span.last and self.span.takes(one)

    def check(self, seen: list[tuple[int, StoredEvent]], before: list[list[int]]) -> None:
        """Everything that was there before the reader looked for the last time, and nothing twice, of none a gap."""
        assert [partition for partition, _ in seen] == sorted(partition for partition, _ in seen)
        for partition, now in enumerate(self.must_see()):
            found = [int(one.payload) for number, one in seen if number == partition]
            assert found == now[: len(found)], (partition, found, now)
            assert len(found) >= len(before[partition]), (partition, found, before[partition])
            positions = {one.position for one in self.sent[partition]}
            assert all(one.position in positions for number, one in seen if number == partition)


async def pages(run: Run, limit: int) -> None:
    """As a client reads pages: where an answer said it goes on, again after a 503."""
    await run.begin()
    seen: list[tuple[int, StoredEvent]] = []
    at: Place | None = None
    before = run.must_see()
    ended = False
    while not ended:
        try:
            page = await run.reading.page("orders", None, run.span, limit=limit, at=at)
        except Unavailable:
            note("503")
            continue
        assert len(page.events) <= limit
        seen += page.events
        at, ended = page.next, page.next is None
    run.check(seen, before)


async def stream(run: Run) -> None:
    """As a client reads a stream: once it is cut, on from the last event, which comes again."""
    await run.begin()
    seen: list[tuple[int, StoredEvent]] = []
    before = run.must_see()
    while True:
        at = Place(seen[-1][0], seen[-1][1].position) if seen else None
        again = seen.pop() if seen else None
        lines: list[tuple[int, StoredEvent]] = []
        try:
            async for page in run.reading.pages("orders", None, run.span, at=at):
                lines += page.events
        except Unavailable:
            note("cut")
            seen += lines or ([again] if again else [])
            continue
        assert again is None or lines[0] == again
        break
    run.check(seen + lines, before)


spans = st.builds(
    lambda key, kind: Span(ZERO, END, key, kind), st.sampled_from([None, "k1"]), st.sampled_from([None, "test"])
)


@settings(max_examples=400, deadline=None)
@given(steps=st.lists(step, max_size=40), span=spans, limit=st.integers(1, 8))
def test_pages_have_neither_gap_nor_double(steps: list[Any], span: Span, limit: int) -> None:
    async def main() -> None:
        await pages(Run(steps, span), limit)

    run_virtual(main)


@settings(max_examples=400, deadline=None)
@given(steps=st.lists(step, max_size=40), span=spans, size=st.integers(1, 5))
def test_a_stream_has_neither_gap_nor_double(steps: list[Any], span: Span, size: int) -> None:
    async def main() -> None:
        module.STREAM_EVENTS, usual = size, module.STREAM_EVENTS
        try:
            await stream(Run(steps, span))
        finally:
            module.STREAM_EVENTS = usual

    run_virtual(main)

"""Reading the history of a topic: one page for one answer, or pages without end for a stream.

Partitions are read one after the other, so that one place says where to go on. Nothing is held between two pages: a
reader that takes its time costs nothing, and one that leaves leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from anyio import create_task_group

from openstream_runtime.actors.partition_reading import PartitionReading
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import InvalidRequest, NotFound, OpenStreamError, Unavailable
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import Place, Span
from openstream_runtime.domain.topics import Topic
from openstream_runtime.gateway.results import HistoryPage
from openstream_runtime.gateway.topics import Topics

#: Bytes of one answer, about.
PAGE_BYTES = 4 << 20
#: Of one page of a stream: two milliseconds of the event loop, which others wait for. Larger ones cost the same in all.
STREAM_EVENTS, STREAM_BYTES = 250, 256 << 10
#: Seconds after which an answer, or a page of a stream, leaves with what was found, be it nothing.
PATIENCE = 1.0

T = TypeVar("T")


class Reading:
    """The gateway's way to the history."""

    def __init__(self, world: World, topics: Topics) -> None:
        self._world = world
        self._topics = topics

    async def page(self, topic: str, partition: int | None, span: Span, *, limit: int, at: Place | None) -> HistoryPage:
        walk = _Walk(self._world, await self._topics.find(topic), partition, span, at, up_to_now=False)
        began = self._world.clock.monotonic()
        events: list[tuple[int, StoredEvent]] = []
        size = 0
        while walk.place is not None and len(events) < limit and size < PAGE_BYTES:
            try:
                found = await walk.step(count=limit - len(events), max_bytes=PAGE_BYTES - size)
            except OpenStreamError:
                if events:
                    break  # they are good; who goes on from there is told
                raise
            events += found
            size += sum(len(event.payload) + len(event.headers or b"") for _, event in found)
            if self._world.clock.monotonic() - began >= PATIENCE:
                break
        return HistoryPage(events, walk.place)

    async def pages(
        self, topic: str, partition: int | None, span: Span, *, at: Place | None
    ) -> AsyncGenerator[HistoryPage, None]:
        read_topic = await self._topics.find(topic)
        walk = _Walk(self._world, read_topic, partition, span, at, up_to_now=True)
        board, told = self._world.board, self._world.clock.monotonic()
        while walk.place is not None:
            known = board.topics.get(topic)
            if known is None or known.deleting or known.id != read_topic.id:
                # Its events are going, and those of the next topic of that name are not its own.
                raise NotFound(f"topic {topic!r} was deleted meanwhile", topic=topic)
            if board.draining:
                raise Unavailable("this node is draining; go on at any other", backend="node", retry_after_ms=1000)
            found = await walk.step(count=STREAM_EVENTS, max_bytes=STREAM_BYTES)
            if found or self._world.clock.monotonic() - told >= PATIENCE:
                yield HistoryPage(found, walk.place)
                told = self._world.clock.monotonic()


class _Walk:
    """Partition after partition. `place` is where it goes on, None at the end."""

    def __init__(
        self, world: World, topic: Topic, partition: int | None, span: Span, at: Place | None, *, up_to_now: bool
    ) -> None:
        self._world = world
        self._topic = topic
        self._span = span
        self._up_to_now = up_to_now
        if partition is not None and not 0 <= partition < topic.partitions:
            raise NotFound(_partitions(topic, partition), topic=topic.name, partition=partition)
        if at is not None and at.partition >= topic.partitions:
            raise InvalidRequest(_partitions(topic, at.partition), topic=topic.name)
        begin, self._end = (0, topic.partitions) if partition is None else (partition, partition + 1)
        if at is None:
            self._reading = self._read(begin, span)
        else:
            self._reading = self._read(at.partition, replace(span, first=max(span.first, at.position)))

    @property
    def place(self) -> Place | None:
        if not self._reading.ended:
            return Place(self._reading.partition, self._reading.next)
        following = self._reading.partition + 1
        return Place(following, self._span.first) if following < self._end else None

    async def step(self, *, count: int, max_bytes: int) -> Sequence[tuple[int, StoredEvent]]:
        if self._reading.ended:
            self._reading = self._read(self._reading.partition + 1, self._span)
        reading = self._reading
        events = await apart(lambda: reading.read(count=count, max_bytes=max_bytes))
        return [(reading.partition, event) for event in events]

    def _read(self, partition: int, span: Span) -> PartitionReading:
        return PartitionReading(self._world, self._topic, partition, span, up_to_now=self._up_to_now)


def _partitions(topic: Topic, number: int) -> str:
    return f"topic {topic.name!r} has partitions 0 to {topic.partitions - 1}, not {number}"


async def apart(work: Callable[[], Awaitable[T]]) -> T:
    """Do it in a task of its own: the one of a request is cancelled by asyncio's means, which no shield stops."""
    done: list[T] = []
    failed: list[Exception] = []

    async def run() -> None:
        try:
            done.append(await work())
        except Exception as error:
            failed.append(error)  # out of the group, so that it stays bare

    async with create_task_group() as tasks:
        tasks.start_soon(run)
    if failed:
        raise failed[0]
    return done[0]

"""The audience: who watches new events of which topic, each in a seat with a bounded queue.

Lives outside the tree; the broadcaster serves it. A seat that is not read loses events and knows how many: a slow
watcher costs a megabyte and nobody else anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from openstream_runtime.actors.board import Changed
from openstream_runtime.domain.errors import Overloaded, Unavailable
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import Span
from openstream_runtime.domain.positions import TopicPartition

#: Seats on one node, and what waits in each: both together bound the memory.
MAX_SEATS = 64
SEAT_EVENTS = 1_000
SEAT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Heard:
    """What a watcher takes from its seat: events in the order of each partition, and how many were left out."""

    events: Sequence[tuple[int, StoredEvent]]
    dropped: int


class Seat:
    """One watcher of some partitions of a topic. Close it when it is not needed any more."""

    def __init__(self, partitions: Iterable[TopicPartition], wanted: Span, leave: Callable[[Seat], None]) -> None:
        self.partitions = frozenset(partitions)
        self._wanted = wanted
        self._leave = leave
        self._queue: deque[tuple[int, StoredEvent]] = deque()
        self._bytes = 0
        self._dropped = 0
        #: Told when something is in the queue, the seat is ready, or it has ended.
        self._news = Changed()
        #: From here on nothing is missed unsaid.
        self.ready = False
        #: Why no more events will come; None while they may.
        self.ended: str | None = None

    def begin(self) -> None:
        self.ready = True
        self._news.tell()

    def end(self, why: str) -> None:
        self.ended = self.ended or why
        self._news.tell()

    def offer(self, partition: int, event: StoredEvent) -> None:
        """Put an event into the queue, if it is wanted and there is room. One event always has room."""
        if not self._wanted.takes(event):
            return
        size = event.size()
        if self._queue and (len(self._queue) >= SEAT_EVENTS or self._bytes + size > SEAT_BYTES):
            self._dropped += 1
        else:
            self._queue.append((partition, event))
            self._bytes += size
        self._news.tell()

    def miss(self, events: int) -> None:
        """So many were not even looked at: there were too many at once."""
        self._dropped += events
        self._news.tell()

    async def until_ready(self) -> None:
        while not self.ready and self.ended is None:
            await self._news.mark().wait()

    async def take(self) -> Heard:
        """Everything that waits; nothing only when the seat has ended. Cancelled, it has taken nothing."""
        while not self._queue and not self._dropped and self.ended is None:
            await self._news.mark().wait()
        heard = Heard(list(self._queue), self._dropped)
        self._queue.clear()
        self._bytes = self._dropped = 0
        return heard

    def close(self) -> None:
        self._leave(self)
        self._queue.clear()


class Audience:
    """Every seat of the node."""

    def __init__(self) -> None:
        self._seats: set[Seat] = set()
        self._ended: str | None = None
        #: Told when a seat comes or goes: what the broadcaster reacts to.
        self.changed = Changed()

    def sit(self, partitions: Iterable[TopicPartition], wanted: Span) -> Seat:
        """A new seat, not ready yet. Overloaded when there are too many, Unavailable when the node is draining."""
        if self._ended is not None:
            raise Unavailable(self._ended, backend="node", retry_after_ms=1000)
        if len(self._seats) >= MAX_SEATS:
            raise Overloaded(f"{MAX_SEATS} live tails are open on this node", reason="tails", retry_after_ms=5000)
        seat = Seat(partitions, wanted, self._leave)
        self._seats.add(seat)
        self.changed.tell()
        return seat

    def _leave(self, seat: Seat) -> None:
        if seat in self._seats:
            self._seats.discard(seat)
            self.changed.tell()

    def seats(self) -> list[Seat]:
        return list(self._seats)

    def end(self, why: str) -> None:
        """End every seat, and take no more."""
        self._ended = why
        for seat in self._seats:
            seat.end(why)

    def __len__(self) -> int:
        return len(self._seats)

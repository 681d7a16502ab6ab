"""A Redis in memory, as far as the log uses one: its state, its clock, and the trouble it can make.

Several FakeLogs may share one FakeRedis, as nodes share a server. Everything in here is one step, as a script is.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint

from openstream_runtime.domain.errors import OutcomeUnknown, Unavailable
from openstream_runtime.domain.events import NewEvent, StoredEvent
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.domain.producers import Memory
from openstream_runtime.ports.nodes import NodeInfo
from support.remembered import FakeHome, FakeShare, Remembered

T = TypeVar("T")
EPOCH_MS = 1_700_000_000_000


@dataclass
class Pending:
    """An entry handed out and not acked."""

    consumer: str
    since_ms: int
    times: int
    #: When it is handed out again, held by DELAYED.
    due_ms: int = 0


@dataclass
class FakeGroup:
    #: Up to here it was handed out, from the stream or, while it is cold, from the store.
    at: Position
    cold: bool = False
    #: Entries between `at` and the end of what was trimmed, while it is cold; None when nobody counted them.
    cold_count: int | None = None
    pending: dict[Position, Pending] = field(default_factory=dict)
    #: What waits to be moved to the dead-letter topic, in order: where it waits, position, times, holder, reason.
    dead: dict[Position, tuple[Position, int, str, str]] = field(default_factory=dict)
    last_dead: Position = ZERO
    #: When each consumer was last seen.
    consumers: dict[str, int] = field(default_factory=dict)

    def held_by(self, consumer: str) -> list[Position]:
        return sorted(position for position, one in self.pending.items() if one.consumer == consumer)


@dataclass
class FakeStream:
    entries: dict[Position, StoredEvent] = field(default_factory=dict)  # in order
    last: Position = ZERO
    groups: dict[str, FakeGroup] = field(default_factory=dict)
    #: The last entry ever trimmed; what a group holds of entries up to here it holds as stubs.
    trimmed: Position = ZERO

    def after(self, position: Position) -> list[StoredEvent]:
        return [event for at, event in self.entries.items() if at > position]

    def lag(self, group: FakeGroup) -> int | None:
        if not group.cold:
            return len(self.after(group.at))
        return None if group.cold_count is None else group.cold_count + len(self.entries)

    def tail(self) -> Position:
        return next(reversed(self.entries), ZERO)

    def add(self, event: NewEvent, now_ms: int) -> Position:
        self.last = Position(now_ms, 0) if now_ms > self.last.ms else self.last.next()
        self.entries[self.last] = StoredEvent(
            self.last, event.event_type, event.partition_key, event.payload, event.timestamp_ms, event.headers
        )
        return self.last

    def trim(self, below: Position) -> int:
        gone = [position for position in self.entries if position < below]
        if gone:
            self.leave_to_store(gone[-1])
        return len(gone)

    def leave_to_store(self, upto: Position, *, counted: bool = True) -> None:
        """Drop entries up to there; groups that have not read all of them become cold."""
        for group in self.groups.values():
            unread = sum(group.at < position <= upto for position in self.entries)
            if group.cold:
                fresh = sum(self.trimmed < position <= upto for position in self.entries)
                group.cold_count = None if group.cold_count is None else group.cold_count + fresh
            elif group.at < upto:
                group.cold, group.cold_count = True, unread if counted else None
        self.entries = {position: event for position, event in self.entries.items() if position > upto}
        self.trimmed = max(self.trimmed, upto)


@dataclass
class FakeMeta:
    topic_id: int
    run_id: int
    generation: int
    n: int
    pn: int
    pid: Position
    verified_ms: int = 0
    #: The last ids between which none was given out.
    gap: tuple[Position, Position] = (ZERO, ZERO)


class FakeRedis:
    """State by partition. The clock is anyio's, so leases and idle times follow trio's autojump clock."""

    def __init__(self) -> None:
        #: Whether it says that partitions are on several servers.
        self.sharded = False
        #: The partitions whose replicas were asked for.
        self.asked_of_replicas: list[TopicPartition] = []
        self.streams: dict[TopicPartition, FakeStream] = {}
        self.meta: dict[TopicPartition, FakeMeta] = {}
        self.leases: dict[TopicPartition, tuple[str, int]] = {}
        self.nodes: dict[str, tuple[NodeInfo, int]] = {}
        self.bells: list[str] = []
        #: For each partition and replay: source partition → last source position appended.
        self.marks: dict[tuple[TopicPartition, str], dict[int, Position]] = {}
        self._remembered: dict[TopicPartition, Remembered] = {}
        self._run_ids = count(1)
        self.run_id = next(self._run_ids)
        #: Set and replaced whenever something was appended or rung.
        self.changed = anyio.Event()
        #: How often each operation was asked for, refused ones included.
        self.calls: Counter[str] = Counter()

        # Trouble. All of it may be switched on and off at any time.
        self._unavailable = False
        #: Appends are refused for want of memory.
        self.out_of_memory = False
        #: Replicas that answer in time.
        self.replicas = 0
        #: Added to the clock: a new primary whose clock is behind, for instance.
        self.skew_ms = 0
        self.used_memory = 1 << 20
        self.maxmemory = 0
        self._lost_answers: dict[str, deque[bool]] = {}
        self._stalls: dict[str, anyio.Event] = {}
        self._began: float | None = None

    # ---- trouble

    @property
    def unavailable(self) -> bool:
        """Nothing can be reached: every operation fails, and definitely so; who waits finds out."""
        return self._unavailable

    @unavailable.setter
    def unavailable(self, value: bool) -> None:
        self._unavailable = value
        self.tell()

    def lose_answer(self, operation: str, *, kept: bool) -> None:
        """The next such write (`append`, `mark_persisted`, `read`, …) is done, or not, and its answer is lost."""
        self._lost_answers.setdefault(operation, deque()).append(kept)

    def stall(self, operation: str) -> anyio.Event:
        """Operations of that name wait until the event that comes back is set."""
        return self._stalls.setdefault(operation, anyio.Event())

    def flush(self) -> None:
        """Redis lost everything (FLUSHALL); it is the same process."""
        for state in (self.streams, self.meta, self.leases, self.nodes, self.bells, self.marks, self._remembered):
            state.clear()

    def restart(self) -> None:
        """Another process with the same data: a restart that lost nothing, or a replica that was up to date."""
        self.run_id = next(self._run_ids)

    def lose_tail(self, at: TopicPartition, entries: int) -> list[StoredEvent]:
        """A failover to a replica that had not seen the last entries of a partition; gives back what was lost."""
        self.restart()
        stream, meta = self.streams[at], self.meta[at]
        lost = [stream.entries.pop(position) for position in list(stream.entries)[len(stream.entries) - entries :]]
        stream.last = stream.tail()
        meta.n -= len(lost)
        for group in stream.groups.values():
            group.at = min(group.at, stream.last)
            group.pending = {at: one for at, one in group.pending.items() if at in stream.entries}
        self.remembered(at).lose({one.position for one in lost})
        return lost

    # ---- time

    def now_ms(self) -> int:
        now = anyio.current_time()
        if self._began is None:
            self._began = now
        return EPOCH_MS + int((now - self._began) * 1000) + self.skew_ms

    # ---- how operations reach it

    async def ask(self, operation: str, do: Callable[[], T]) -> T:
        """A read, or a write that may be asked again. Raises Unavailable."""
        await self._arrive(operation)
        return do()

    async def write(self, operation: str, do: Callable[[], T]) -> T:
        """A write that is sent once. Raises Unavailable, OutcomeUnknown."""
        await self._arrive(operation)
        answers = self._lost_answers.get(operation)
        if answers:
            if answers.popleft():
                do()
            raise OutcomeUnknown("Redis did not answer: the write may have been kept, or not.", backend="redis")
        return do()

    def tell(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    def check_available(self) -> None:
        if self.unavailable:
            raise Unavailable("Redis does not answer.", backend="redis", retry_after_ms=1_000)

    async def _arrive(self, operation: str) -> None:
        self.calls[operation] += 1
        await checkpoint()
        if (stalled := self._stalls.get(operation)) is not None:
            await stalled.wait()
            self._stalls.pop(operation, None)
        self.check_available()

    # ---- what several ports look at

    def stream(self, at: TopicPartition) -> FakeStream:
        """The stream, made when it is not there."""
        return self.streams.setdefault(at, FakeStream())

    def remembered(self, at: TopicPartition) -> Remembered:
        return self._remembered.setdefault(at, Remembered())

    def forget(self, at: TopicPartition) -> None:
        self._remembered.pop(at, None)

    def remember_producer(self, at: TopicPartition, name: str, one: FakeHome | FakeShare, memory: Memory) -> None:
        known = self.remembered(at)
        known.producers.now[name] = one
        since = known.producers.turn_over(self.now_ms(), memory.producer_ms, 2 * memory.producers)
        known.since_ms = known.since_ms if since is None else since

    def group(self, at: TopicPartition, name: str) -> FakeGroup | None:
        stream = self.streams.get(at)
        return stream.groups.get(name) if stream else None

    def holder(self, at: TopicPartition) -> str | None:
        token, ends = self.leases.get(at, (None, 0))
        return token if ends > self.now_ms() else None

"""The log: one append-only stream for each partition, and who wakes those that wait for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from openstream_runtime.domain.events import NewEvent, StoredEvent
from openstream_runtime.domain.positions import ZERO, Cursor, Position, TopicPartition
from openstream_runtime.domain.producers import Once
from openstream_runtime.domain.replays import Mark
from openstream_runtime.domain.topics import Topic


class Refusal(StrEnum):
    """Why the log kept nothing of a batch. All of them are definite."""

    #: The log does not know this partition yet, or not since Redis restarted: `verify` it, then append again.
    UNVERIFIED = "unverified"
    #: The stream is as long as it may be.
    LENGTH = "stream_length"
    #: More is waiting for PostgreSQL than may wait.
    UNPERSISTED = "unpersisted"
    #: Redis is out of memory.
    MEMORY = "redis_memory"
    #: Redis cannot be reached or does not take writes.
    UNAVAILABLE = "redis_unavailable"
    #: The batch's mark does not stand where the batch begins.
    MARK = "mark"
    #: A newer epoch of this producer has begun.
    STALE_EPOCH = "stale_epoch"
    #: The request's number is not the next one, and of what was sent under it the places are not known any more.
    SEQUENCE = "sequence"
    #: The number was used for other events.
    CONTENT = "content"
    #: Nobody knows what this producer has sent before.
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True)
class AppendBatch:
    """Events of one partition to append as one step: all of them in order, or none."""

    topic: Topic
    partition: int
    events: Sequence[NewEvent]
    max_stream_len: int
    max_unpersisted: int
    #: For what is copied and must not be doubled: see Mark. A batch without events only moves the mark.
    mark: Mark | None = None
    #: For a share of a request that may be repeated.
    once: Once | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """The positions, in the order of the batch."""

    positions: Sequence[Position]
    #: False when the batch asked for replicas and they did not answer in time: kept, but not as safe as asked.
    replicated: bool = True
    #: Which of the batch were there before, by index: their positions are the original ones.
    duplicates: Set[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing of the batch was kept."""

    reason: Refusal
    #: For Refusal.MARK where the mark stands; domain.history.END once the replay has ended.
    mark: Position | None = None
    #: For STALE_EPOCH the epoch that counts, for SEQUENCE the number that is expected.
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The answer was lost: the whole batch was kept, or nothing of it."""


AppendOutcome = Appended | Refused | Unknown


@dataclass(frozen=True, slots=True)
class StreamStats:
    """One partition's stream, sampled."""

    length: int
    last: Position
    #: How many events wait for PostgreSQL, by the log's own counters.
    unpersisted: int
    #: What the owner last published as persisted (may be behind PostgreSQL's own cursor by a moment).
    persisted: Position
    #: The node that holds the partition's lease, or None.
    owner: str | None
    groups: Sequence[GroupStats] = ()
    #: How many events were persisted, by the log's own counters: its growth is the persister's pace.
    persisted_count: int = 0
    #: When it was last verified on another server than before, or where it was gone: it may have lost something.
    verified_ms: int = 0


@dataclass(frozen=True, slots=True)
class GroupStats:
    """One group on one partition, as Redis counts. Our own `~os:` consumer is left out of `consumers`."""

    name: str
    consumers: int
    pending: int
    #: None when Redis cannot tell.
    lag: int | None
    last_delivered: Position
    entries_read: int | None


@dataclass(frozen=True, slots=True)
class StreamEdges:
    """The ends of a stream, for the decision how far to trim. `first` is None for an empty stream."""

    length: int
    first: Position | None
    last: Position
    #: Redis' own clock.
    now_ms: int
    #: Memory of the stream, only when asked for.
    bytes: int | None = None
    #: The last entry ever trimmed. What stands at or below it may be missing and is in PostgreSQL; what stands above it
    #: is here.
    trimmed: Position = ZERO


class EventLog(Protocol):
    """Streams: one append-only log for each partition."""

    @property
    def sharded(self) -> bool:
        """Partitions are on several servers: who waits for replicas of one server has not waited for all."""
        ...

    async def append(self, batches: Sequence[AppendBatch], *, replicas: int | None = None) -> list[AppendOutcome]:
        """Append all batches in one pipelined write; one outcome for each, in order. Never raises for a backend.

        Each batch is one script call: it checks the partition and its bounds and appends, as one step. Nothing is
        ever retried. With `replicas` the answer comes after that many replicas, and the primary's own disk, have it.
        """
        ...

    async def is_replicated(self, partitions: Sequence[TopicPartition], replicas: int) -> bool:
        """Wait until so many replicas, and the disks of the primaries, have all that was appended here before, by
        anybody. False when they do not answer in time."""
        ...

    async def verify(self, topic: Topic, partition: int, cursor: Cursor, *, floor: Position = ZERO) -> str:
        """Make a partition fit for appends under this Redis: lift its next id above the cursor, remember its topic.

        Where Redis has lost something, ids begin above `floor` too, and groups read what it lost from PostgreSQL. Gives
        back which server that was.
        """
        ...

    async def read_after(
        self,
        at: TopicPartition,
        after: Position,
        *,
        upto: Position | None = None,
        count: int,
        max_bytes: int = 8 << 20,
        server: str | None = None,
    ) -> list[StoredEvent]:
        """Events after a position, `upto` one where given, in order: up to `count`, and about `max_bytes` (at least
        one event). Unavailable when another server answers than the one that is named."""
        ...

    async def edges(self, at: TopicPartition, *, with_bytes: bool = False) -> StreamEdges: ...

    async def mark_persisted(
        self, at: TopicPartition, token: str, cursor: Position, *, count: int | None, trim_below: Position | None
    ) -> int:
        """Publish a committed cursor and trim entries below both `trim_below` and the cursor; how many were trimmed.

        Groups lose nothing: who has not read what goes becomes cold, and reads it from PostgreSQL.
        `count` is how many events the cursor moved over since it was last published, None: count them anew.
        Raises LeaseLost when `token` does not hold the partition's lease: a stale owner trims nothing. Unavailable when
        nobody has verified the partition since Redis changed: then it must be looked at before anything is trimmed.
        """
        ...

    async def persisted(self, partitions: Sequence[TopicPartition]) -> list[Position]:
        """What the owner of each last published as persisted, ZERO when nobody did: `stats` without the rest."""
        ...

    async def stats(self, partitions: Sequence[TopicPartition]) -> list[StreamStats]: ...

    async def memory(self) -> Mapping[str, int]:
        """`used_memory` and `maxmemory` (0: no limit), in bytes."""
        ...

    async def delete_topic(self, topic: Topic) -> None:
        """Remove every key of every partition."""
        ...

    async def end_marks(self, topic: Topic, replay: str) -> None:
        """Let no append of this replay pass any more; its marks go by themselves a day later."""
        ...

    async def ping(self) -> None: ...


class Tail(Protocol):
    """One blocking read for the whole node: tells when something was appended after a position."""

    async def wait(self, positions: Mapping[TopicPartition, Position], timeout: float) -> TailNews:
        """Block until an event stands after one of the positions, a bell rings, `interrupt` is called, or time is up.

        One caller at a time (the tailer).
        """
        ...

    async def interrupt(self) -> None:
        """Make the running `wait`, and no later one, return at once. A no-op when nobody waits."""
        ...

    async def ring(self, bell: str) -> None:
        """Ring a bell on every node: `nodes`, `topics`, or `group:<topic>:<group>:<partition>`. Best effort."""
        ...


@dataclass(frozen=True, slots=True)
class TailNews:
    """What woke the tailer: for each partition that moved, its last position now; and the bells that rang."""

    moved: Mapping[TopicPartition, Position] = field(default_factory=dict)
    bells: Sequence[str] = ()

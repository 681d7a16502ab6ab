"""What actors see of the world: the log (Redis), the store (PostgreSQL), leases, members, the clock, the numbers.

Every port raises only the errors of `domain.errors`: `Unavailable` when the backend is away and nothing was done,
`OutcomeUnknown` when the answer to a write was lost. Contract tests run each port's fake and its real form through
one suite (tests/contracts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from openstream_runtime.domain.events import Delivery, NewEvent, StoredEvent
from openstream_runtime.domain.history import Span
from openstream_runtime.domain.positions import ZERO, Cursor, Position, TopicPartition
from openstream_runtime.domain.producers import Once
from openstream_runtime.domain.replays import Mark
from openstream_runtime.domain.topics import GROUP_DEFAULTS, Group, GroupSettings, Topic, TopicSettings, Visibility
from openstream_runtime.redelivery_ports import Redelivery

# ---------------------------------------------------------------------------------------------------- the log


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


# ------------------------------------------------------------------------------------------------ consumer groups


@dataclass(frozen=True, slots=True)
class Stub:
    """Handed out, and trimmed from Redis: PostgreSQL has the event."""

    partition: int
    position: Position
    deliveries: int


@dataclass(frozen=True, slots=True)
class Cold:
    """A partition on which the group goes on in PostgreSQL: after one position, up to the other, where Redis begins."""

    partition: int
    after: Position
    upto: Position


@dataclass(frozen=True, slots=True)
class GroupRead:
    """What a read found. When nothing was handed out, `tails` says after which positions to wait."""

    deliveries: Sequence[Delivery]
    tails: Mapping[int, Position]
    #: Partitions on which Redis does not know the group (never created there, or lost): create it, then read again.
    missing: Sequence[int] = ()
    #: Handed out again; they come before `deliveries`.
    stubs: Sequence[Stub] = ()
    #: A partition whose turn it is: read it from PostgreSQL and `advance`.
    cold: Cold | None = None
    #: Events wait to be persisted before they may be handed out.
    unpersisted: bool = False
    #: In how many milliseconds the next delayed entry is due, on the partitions that were looked at.
    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class GroupLow:
    """How far a group is on one partition."""

    #: Everything up to here was acknowledged.
    position: Position
    #: What is cold and was never counted: then nobody knows the group's lag.
    uncounted: Cold | None = None


@dataclass(frozen=True, slots=True)
class GroupPartition:
    """A group on one partition, for people."""

    partition: int
    last_delivered: Position
    pending: int
    lag: int | None
    #: Age of the oldest event not yet delivered, 0 when there is none.
    lag_ms: int
    consumers: Sequence[ConsumerInfo]
    #: Up to here PostgreSQL serves the group; None where Redis does.
    cold_upto: Position | None = None
    #: Events above that, all of them undelivered.
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of putting a group somewhere."""

    #: Where it now is, on each partition that was given: `$` is told as the position it stands for.
    positions: Mapping[int, Position] = field(default_factory=dict)
    #: How many entries it had pending there before.
    dropped: int = 0
    #: Partitions that must be verified first: nothing was done on them.
    unverified: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class ConsumerInfo:
    name: str
    pending: int
    idle_ms: int


class GroupLog(Redelivery, Protocol):
    """Consumer groups on the streams. Delivery counts survive a change of consumer. What was handed out
    `max_deliveries` times is never handed out again: it is dead (redelivery_ports.py)."""

    async def create(self, topic: str, group: str, positions: Mapping[int, str]) -> Placed:
        """Create the group at `$` or `<ms>-<seq>` on each partition where it is not; those where it is are left out."""
        ...

    async def set_position(self, topic: str, group: str, positions: Mapping[int, str]) -> Placed:
        """Move the group, or create it, and drop what it had pending, as one step a partition."""
        ...

    async def delete(self, topic: str, group: str, partitions: Sequence[int]) -> int: ...

    async def read(
        self,
        topic: str,
        group: str,
        consumer: str,
        partitions: Sequence[int],
        *,
        count: int,
        max_bytes: int = 8 << 20,
        persisted: bool = False,
        hot_only: bool = False,
        max_deliveries: int | None = None,
    ) -> GroupRead:
        """Hand out up to `count` events, in order inside each partition, without waiting: released ones first.

        Partitions are served in the order given, so callers rotate it; a cold one that comes first ends the read.
        `persisted`: only what PostgreSQL has. `hot_only`: leave cold ones out. Reads are never retried.
        """
        ...

    async def advance(
        self, topic: str, group: str, consumer: str, cold: Cold, positions: Sequence[Position], upto: Position
    ) -> bool:
        """Hand the events at these positions, read from PostgreSQL, to a consumer, and move the group to `upto`.

        False when somebody else has moved it meanwhile: nothing was handed out then. At the end of what is cold the
        group goes back to the stream, as one step.
        """
        ...

    async def lows(self, partitions: Sequence[TopicPartition]) -> list[Mapping[str, GroupLow]]:
        """For each partition what its groups have done with."""
        ...

    async def counted(self, topic: str, group: str, cold: Cold, count: int) -> None:
        """Say how many events stand between the ends of what is cold, unless the group has moved meanwhile."""
        ...

    async def ack(self, topic: str, group: str, items: Mapping[int, Sequence[Position]]) -> int: ...

    async def claim(
        self,
        topic: str,
        group: str,
        consumer: str,
        partitions: Sequence[int],
        *,
        min_idle_ms: int,
        count: int,
        max_bytes: int = 8 << 20,
        max_deliveries: int | None = None,
    ) -> GroupRead:
        """Take over entries that are released, or pending for at least `min_idle_ms`, oldest first."""
        ...

    async def release(
        self, topic: str, group: str, consumer: str, items: Mapping[int, Sequence[Position]], *, undelivered: bool
    ) -> int:
        """Give back what this consumer holds, for the next reader. `undelivered`: it never arrived, do not count it."""
        ...

    async def remove_idle_consumers(self, topic: str, group: str, partition: int, *, min_idle_ms: int) -> int:
        """Remove consumers idle that long that hold nothing; how many."""
        ...

    async def describe(self, topic: str, group: str, partitions: Sequence[int]) -> list[GroupPartition]: ...


# ------------------------------------------------------------------------------------------- leases and members


class Leases(Protocol):
    """Who may persist and trim a partition, for liveness. Safety is the epoch in PostgreSQL."""

    async def acquire(self, at: TopicPartition, token: str, ttl_ms: int) -> bool: ...

    async def renew(self, at: TopicPartition, token: str, ttl_ms: int) -> bool:
        """False when somebody else holds it, or nobody."""
        ...

    async def release(self, at: TopicPartition, token: str) -> None:
        """Give it up if it is ours. Best effort: it ends by itself."""
        ...


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A live node. `url` is where it serves HTTP; `started_ms` when it began."""

    id: str
    url: str
    started_ms: int
    version: str


class Members(Protocol):
    """Which nodes live, by heartbeats timed with Redis' own clock."""

    async def beat(self, node: NodeInfo, ttl_ms: int) -> list[NodeInfo]:
        """Say that this node lives for `ttl_ms` more; every node that lives, ordered by id."""
        ...

    async def leave(self, node_id: str) -> None: ...


# -------------------------------------------------------------------------------------------------------- the store


@dataclass(frozen=True, slots=True)
class PersistBatch:
    """Consecutive events of one partition: everything after `after` up to and including `upto`."""

    topic_id: int
    partition: int
    epoch: int
    generation: int
    after: Position
    upto: Position
    events: Sequence[StoredEvent]


@dataclass(frozen=True, slots=True)
class Committed:
    """Events and cursor are committed; so many rows went to quarantine instead of the events table."""

    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class FencedOff:
    """The cursor is not where the batch began or the epoch is newer: nothing of this batch was written."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What PostgreSQL has of some positions of a partition, quarantined ones included, at one moment."""

    held: frozenset[Position]
    #: Nothing at or before it will be written any more. None: nothing at all will be, the topic is gone.
    cursor: Position | None


class EventStore(Protocol):
    """The events table, and a cursor for each partition."""

    async def take(self, topic_id: int, partition: int, owner: str) -> Cursor | None:
        """Become the owner: bump the epoch, so that every older owner is fenced off. None: there is no such topic."""
        ...

    async def cursor(self, topic_id: int, partition: int) -> Cursor | None: ...

    async def cursors(self) -> Mapping[TopicPartition, Cursor]: ...

    async def write(self, batches: Sequence[PersistBatch]) -> list[Committed | FencedOff]:
        """Commit all batches in one transaction, each fenced on its own; one outcome for each, in order.

        A row PostgreSQL refuses goes to the quarantine table and the rest goes on. Raises Unavailable or
        OutcomeUnknown; writing the same batches again is then safe: the cursor fences off what was committed.
        """
        ...

    async def holds(self, asked: Sequence[tuple[tuple[int, int], Sequence[Position]]]) -> list[Holding]:
        """For each topic id, partition and positions: what is there. What its topic keeps no longer counts as held."""
        ...

    async def ping(self) -> None: ...


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """The events of a span up to and including `upto`: none is missing, and what is left stands behind it."""

    events: Sequence[StoredEvent]
    upto: Position
    #: What stands below may have been dropped. Looked at after the events: at or below where the page began, all are
    #: there.
    floor: Position


class History(Protocol):
    """What PostgreSQL keeps of a partition's log: everything from its floor to its cursor but quarantined rows. What is
    below the floor is not shown, whether it is gone yet or not."""

    async def page(self, topic_id: int, partition: int, span: Span, *, count: int, max_bytes: int) -> HistoryPage:
        """The next events of a span in order: `count` at most, about `max_bytes`, one at least if there is one.

        A page is one short statement and looks at a bounded number of rows, so it may be empty before the end of its
        span. Nothing is held between pages.
        """
        ...

    async def at(self, topic_id: int, partition: int, positions: Sequence[Position]) -> Mapping[Position, StoredEvent]:
        """The events at these positions; those that are not there (dropped, or in quarantine) are left out."""
        ...

    async def count(self, topic_id: int, partition: int, after: Position, upto: Position) -> int:
        """How many events stand after the one position, up to and including the other. Takes time with their number."""
        ...

    async def floors(self, topic_id: int) -> Mapping[int, Position]:
        """The floor of every partition; ZERO where nothing was dropped. Empty when there is no such topic."""
        ...


@dataclass(frozen=True, slots=True)
class GroupMark:
    """A group has acknowledged everything of a partition up to there."""

    topic_id: int
    group: str
    partition: int
    position: Position


class GroupPositions(Protocol):
    """Where groups are, for the day Redis has lost it."""

    async def save(self, marks: Sequence[GroupMark]) -> None:
        """Set them, in either direction. Marks of groups that are gone are passed over."""
        ...

    async def of(self, topic_id: int, group: str) -> Mapping[int, Position]: ...


class Catalog(Protocol):
    """Topics and groups, kept in PostgreSQL."""

    async def version(self) -> int:
        """Grows with every change of a topic or a group, by any node."""
        ...

    async def topics(self) -> list[Topic]: ...

    async def topic(self, name: str) -> Topic | None: ...

    async def create_topic(self, name: str, partitions: int, settings: TopicSettings) -> tuple[Topic, bool]:
        """The topic of that name and whether it is new. One that exists is given back as it is."""
        ...

    async def alter_topic(self, name: str, settings: TopicSettings) -> Topic | None: ...

    async def begin_delete(self, name: str) -> Topic | None:
        """Mark a topic: from now on nobody finds it. Give it back, also when it was marked before."""
        ...

    async def purge(self, topic: Topic, *, max_rows: int) -> bool:
        """Remove up to `max_rows` stored rows of a marked topic; True when nothing is left, the topic included."""
        ...

    async def groups(self) -> list[Group]: ...

    async def group(self, topic: str, name: str) -> Group | None: ...

    async def create_group(
        self,
        topic: Topic,
        name: str,
        start_id: str,
        visibility: Visibility = Visibility.APPENDED,
        settings: GroupSettings = GROUP_DEFAULTS,
    ) -> tuple[Group, bool]: ...

    async def alter_group(self, topic: Topic, name: str, settings: GroupSettings) -> Group | None: ...

    async def delete_group(self, topic: Topic, name: str) -> bool: ...


# ------------------------------------------------------------------------------------------------- clock and numbers


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds, for durations. Goes on while the machine sleeps, where the system has such a clock."""
        ...

    def now_ms(self) -> int:
        """Milliseconds since the epoch, for people."""
        ...


class Meter(Protocol):
    """What happened, for whoever counts it. Every method is cheap, never raises and never waits."""

    def appended(self, topic: str, partition: int, events: int, size: int) -> None: ...
    def group_commit(self, events: int, seconds: float) -> None: ...
    def produce_persisted(self, seconds: float) -> None: ...
    def ingest_request(self, status: str) -> None: ...
    def rejected(self, reason: str) -> None: ...
    def read(self, topic: str, group: str, events: int) -> None: ...
    def acked(self, topic: str, group: str, events: int) -> None: ...
    def claimed(self, topic: str, group: str, events: int) -> None: ...
    def released(self, topic: str, group: str, events: int) -> None: ...
    def nacked(self, topic: str, group: str, events: int) -> None: ...
    def dead_lettered(self, topic: str, group: str, events: int) -> None: ...
    def persisted(self, topic: str, partition: int, events: int, quarantined: int) -> None: ...
    def persist_delay(self, topic: str, partition: int, events: Sequence[StoredEvent], now_ms: int) -> None: ...
    def delivery_delay(self, topic: str, group: str, deliveries: Sequence[Delivery], now_ms: int) -> None: ...
    def store_commit(self, events: int, seconds: float) -> None: ...
    def store_failed(self) -> None: ...
    def trimmed(self, topic: str, partition: int, events: int) -> None: ...
    def lost_tail(self, topic: str, partition: int, events: int) -> None: ...
    def history_dropped(self, tables: int) -> None: ...
    def lease(self, change: str) -> None: ...
    def replayed(self, topic: str, events: int) -> None: ...
    def replays_running(self, change: int) -> None: ...
    def http_request(self, method: str, path: str, status: int, seconds: float) -> None: ...
    def loop_lag(self, seconds: float) -> None: ...
    def forget_topic(self, topic: str) -> None: ...
    def forget_group(self, topic: str, group: str) -> None: ...

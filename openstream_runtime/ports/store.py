"""The store: events, cursors and owners, history, positions of groups, the catalog of topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import Span
from openstream_runtime.domain.positions import Cursor, Position, TopicPartition
from openstream_runtime.domain.topics import GROUP_DEFAULTS, Group, GroupSettings, Topic, TopicSettings, Visibility


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

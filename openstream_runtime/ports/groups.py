"""Consumer groups: what is handed out, held, acked, claimed and moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from openstream_runtime.domain.events import Delivery
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.ports.redelivery import Redelivery


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
    `max_deliveries` times is never handed out again: it is dead (ports/redelivery.py)."""

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

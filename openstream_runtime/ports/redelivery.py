"""What actors and the gateway see of events that are handed out more than once: given back, kept for longer, given up.

An entry that was handed out as often as its group allows is dead: it waits in a queue beside the group, pending still,
until it stands in the dead-letter topic. Raises as all ports do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from openstream_runtime.domain.dead_letters import DeadEntry
from openstream_runtime.domain.positions import Position


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What became of entries that were given back."""

    #: They are handed out again, now or when their delay is over.
    again: int
    #: They became dead letters instead.
    dead: int


@dataclass(frozen=True, slots=True)
class ReleasedIdle:
    """What became of entries that were held for too long."""

    again: int
    dead: int
    #: Entries in the queue of the dead, those of before included.
    queued: int


class Redelivery(Protocol):
    """A part of GroupLog. `max_deliveries` None: without end."""

    async def nack(
        self,
        topic: str,
        group: str,
        items: Mapping[int, Sequence[Position]],
        *,
        consumer: str | None = None,
        delay_ms: int = 0,
        max_deliveries: int | None = None,
    ) -> GivenBack:
        """Give back what a consumer holds, or whoever does; it was delivered, and is again after the delay."""
        ...

    async def extend(
        self, topic: str, group: str, consumer: str, items: Mapping[int, Sequence[Position]]
    ) -> Mapping[int, Sequence[Position]]:
        """Let the idle time of what this consumer holds begin anew; the rest comes back: it holds these no more."""
        ...

    async def release_idle(
        self, topic: str, group: str, partition: int, *, min_idle_ms: int, count: int, max_deliveries: int | None = None
    ) -> ReleasedIdle:
        """Release entries pending for at least `min_idle_ms`, whoever holds them (the claim-reaper)."""
        ...

    async def dead(self, topic: str, group: str, partition: int, *, count: int) -> Sequence[DeadEntry]:
        """The head of the queue of the dead, in the order they died."""
        ...

    async def bury(self, topic: str, group: str, partition: int, entries: Sequence[DeadEntry]) -> int:
        """Acknowledge entries of that queue and take them out; how many were still in it."""
        ...


class Redrives(Protocol):
    """Which dead letters went back: each goes once. Several go in one batch, whose id nobody uses again: it is noted
    before it is appended, and settled when it is known that it was."""

    async def note(self, topic_id: int, partition: int, batch: Position, positions: Sequence[Position]) -> None:
        """These letters of a dead-letter topic are about to go in that batch; others may try the same."""
        ...

    async def settle(self, topic_id: int, partition: int, batch: Position) -> None:
        """That batch was appended. Again is no error."""
        ...

    async def done(self, topic_id: int, partition: int, positions: Sequence[Position]) -> frozenset[Position]:
        """Those of these letters that went in a settled batch."""
        ...

"""What a reset of a group would do, without doing it: from where to where, and how many events that replays or skips.

Counted in what PostgreSQL and Redis hold, not by Redis' lag, which is unknown for a position it has not seen read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openstream_runtime.actors.world import World
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.groups import GroupPartition

#: Events after PostgreSQL's cursor are counted by reading them, so many of a partition at most.
MOST_UNPERSISTED = 10_000


@dataclass(frozen=True, slots=True)
class PartitionPreview:
    """One partition: events between the two places, of which exactly one kind is not zero."""

    partition: int
    old: Position
    new: Position
    pending: int
    replayed: int
    skipped: int
    #: There may be more than that.
    at_least: bool


@dataclass(frozen=True, slots=True)
class ResetPreview:
    start_id: str
    partitions: Sequence[PartitionPreview]


async def preview(world: World, topic: Topic, start: str, found: Sequence[GroupPartition]) -> ResetPreview:
    """`start` as Redis takes it (`$` or an id); `found`: the partitions that would be reset, as they are."""
    return ResetPreview(start, [await _partition(world, topic, start, group) for group in found])


async def _partition(world: World, topic: Topic, start: str, group: GroupPartition) -> PartitionPreview:
    at = TopicPartition(topic.name, group.partition)
    last = (await world.log.edges(at)).last
    old = group.last_delivered
    new = last if start == "$" else Position.parse(start)
    low, high = min(old, new), min(max(old, new), max(last, min(old, new)))
    events, at_least = await _between(world, topic, at, low, high)
    back = new < old
    return PartitionPreview(
        group.partition, old, new, group.pending, events if back else 0, 0 if back else events, at_least
    )


async def _between(world: World, topic: Topic, at: TopicPartition, low: Position, high: Position) -> tuple[int, bool]:
    """How many events stand after `low`, up to and including `high`; and whether there may be more."""
    if high <= low:
        return 0, False
    cursor = await world.store.cursor(topic.id, at.partition)
    persisted = cursor.position if cursor is not None else ZERO
    stored = recent = 0
    if low < persisted:
        stored = await world.history.count(topic.id, at.partition, low, min(high, persisted))
    if high > persisted:
        events = await world.log.read_after(at, max(low, persisted), upto=high, count=MOST_UNPERSISTED)
        recent = len(events)
    return stored + recent, recent == MOST_UNPERSISTED

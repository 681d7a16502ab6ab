"""Flow: what moved between two samples, by topic, partition and group. Pure, and the same on every node."""

from __future__ import annotations

from dataclasses import dataclass, field

from openstream_runtime.actors.board import Sample
from openstream_runtime.domain.positions import ZERO
from openstream_runtime.ports.log import GroupStats, StreamStats


@dataclass(slots=True)
class GroupFlow:
    """One group over all partitions of its topic. Rates are events a second."""

    #: The most consumers any partition knows: one that reads several partitions counts once.
    consumers: int = 0
    pending: int = 0
    lag: int = 0
    #: Partitions whose lag Redis cannot tell.
    lag_unknown: int = 0
    #: How far the group is behind the newest event, in the log's own time: the worst partition.
    lag_ms: int = 0
    out_per_s: float = 0.0


@dataclass(slots=True)
class TopicFlow:
    """One topic over all its partitions."""

    length: int = 0
    unpersisted: int = 0
    #: The same of the worst partition: what backpressure looks at.
    longest: int = 0
    most_unpersisted: int = 0
    in_per_s: float = 0.0
    persisted_per_s: float = 0.0
    #: Events appended a second, by partition.
    by_partition: dict[int, float] = field(default_factory=dict)
    groups: dict[str, GroupFlow] = field(default_factory=dict)


def flows(before: Sample, now: Sample) -> dict[str, TopicFlow]:
    """Every topic of the newer sample. Counters that went back (a lost Redis, a reset group) moved nothing."""
    elapsed = now.taken_at - before.taken_at if before.taken_at else 0.0
    found: dict[str, TopicFlow] = {}
    for at, stats in now.streams.items():
        topic = found.setdefault(at.topic, TopicFlow())
        earlier = before.streams.get(at)
        topic.length += stats.length
        topic.unpersisted += stats.unpersisted
        topic.longest = max(topic.longest, stats.length)
        topic.most_unpersisted = max(topic.most_unpersisted, stats.unpersisted)
        appended = _appended(stats) - _appended(earlier) if earlier is not None else 0
        topic.by_partition[at.partition] = rate = _per_second(appended, elapsed)
        topic.in_per_s += rate
        if earlier is not None:
            topic.persisted_per_s += _per_second(stats.persisted_count - earlier.persisted_count, elapsed)
        _add_groups(topic, stats, earlier, appended, elapsed)
    return found


def behind_ms(stats: StreamStats, group: GroupStats) -> int:
    """Log time from the last event delivered to the newest one; 0 when nothing is missing or nothing was delivered."""
    if group.lag == 0 or group.last_delivered == ZERO:
        return 0
    return max(0, stats.last.ms - group.last_delivered.ms)


def _add_groups(
    topic: TopicFlow, stats: StreamStats, earlier: StreamStats | None, appended: int, elapsed: float
) -> None:
    known = {group.name: group for group in earlier.groups} if earlier is not None else {}
    for group in stats.groups:
        flow = topic.groups.setdefault(group.name, GroupFlow())
        flow.consumers = max(flow.consumers, group.consumers)
        flow.pending += group.pending
        flow.lag_ms = max(flow.lag_ms, behind_ms(stats, group))
        if group.lag is None:
            flow.lag_unknown += 1
        else:
            flow.lag += group.lag
        if (last := known.get(group.name)) is not None:
            flow.out_per_s += _per_second(_delivered(last, group, appended), elapsed)


def _delivered(last: GroupStats, group: GroupStats, appended: int) -> int:
    """Events delivered in between: by Redis' counter, or, where it has none, by how the lag moved."""
    if last.entries_read is not None and group.entries_read is not None:
        return group.entries_read - last.entries_read
    if last.lag is not None and group.lag is not None:
        return appended - (group.lag - last.lag)
    return 0


def _appended(stats: StreamStats) -> int:
    return stats.persisted_count + stats.unpersisted


def _per_second(events: int, elapsed: float) -> float:
    return max(0, events) / elapsed if elapsed > 0 else 0.0

"""The state of the cluster as the sampler saw it last, as gauges made when somebody scrapes.

Every node sees all of it, and each number is told by one node only, so that a sum over the nodes is true: what belongs
to a partition by its owner, what belongs to nobody by the node whose id comes first. A sample is replaced as a whole,
so a partition, group or topic that is gone leaves no series behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.ports.log import GroupStats, StreamStats
from openstream_runtime.telemetry.series import MOST_SERIES, OTHER


@dataclass(frozen=True, slots=True)
class ClusterSample:
    """What one look around has found. Lags are seconds."""

    stats: Mapping[TopicPartition, StreamStats]
    memory: Mapping[str, int] = field(default_factory=dict)
    #: Ids of the nodes that live, and our own.
    nodes: Sequence[str] = ()
    me: str = ""
    unpersisted_lag: Mapping[TopicPartition, float] = field(default_factory=dict)
    group_lag: Mapping[TopicPartition, Mapping[str, float]] = field(default_factory=dict)

    @property
    def leads(self) -> bool:
        """This node tells what belongs to no partition."""
        return self.me in self.nodes and self.me == min(self.nodes)

    def tells(self, owner: str | None) -> bool:
        """This node tells about partitions of `owner`; those of nobody who lives are the first node's."""
        return owner == self.me if owner in self.nodes else self.leads


class SampledCollector(Collector):
    """Gauges of the last sample. Before the first one there are none: an absent series is honest, a zero is not."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._sample: tuple[float, ClusterSample] | None = None
        self._withdrawn = False

    def replace(self, sample: ClusterSample) -> None:
        self._sample = self._monotonic(), replace(sample, stats=dict(sample.stats))

    def withdraw(self) -> None:
        """Tell nothing of the cluster from now on: this node drains, and the others take over what it told."""
        self._withdrawn = True

    def forget_topic(self, topic: str) -> None:
        if self._sample is not None:
            at, sample = self._sample
            kept = {where: stats for where, stats in sample.stats.items() if where.topic != topic}
            self._sample = at, replace(sample, stats=kept)

    def describe(self) -> Iterable[Metric]:
        """The names, without values, so that the registry refuses a second metric of the same name."""
        return _families().values()

    def collect(self) -> Iterable[Metric]:
        families, sampled = _families(), self._sample  # read once: a scrape may run in another thread
        if sampled is not None:
            at, sample = sampled
            families["age"].add_metric((), max(0.0, self._monotonic() - at))
            if not self._withdrawn:
                self._fill(families, sample)
        return families.values()

    def _fill(self, families: Mapping[str, GaugeMetricFamily], sample: ClusterSample) -> None:
        if sample.leads:
            families["nodes"].add_metric((), len(sample.nodes))
            families["unowned"].add_metric((), sum(stats.owner is None for stats in sample.stats.values()))
            for key, name in (("used_memory", "memory_used"), ("maxmemory", "memory_limit")):
                if key in sample.memory:
                    families[name].add_metric((), sample.memory[key])
        told = [(at, stats) for at, stats in sample.stats.items() if sample.tells(stats.owner)]
        partitions, groups = _Bounded(families), _Bounded(families)
        for at, stats in told:
            labels = (at.topic, str(at.partition))
            partitions.add("length", labels, stats.length)
            partitions.add("unpersisted", labels, stats.unpersisted)
            if at in sample.unpersisted_lag:
                partitions.greatest("unpersisted_age", labels, sample.unpersisted_lag[at])
            lags = sample.group_lag.get(at, {})
            for group in stats.groups:
                _tell_group(groups, (at.topic, group.name, labels[1]), group, lags.get(group.name))
        partitions.tell()
        groups.tell()


def _tell_group(series: _Bounded, labels: tuple[str, ...], group: GroupStats, lag_s: float | None) -> None:
    series.add("pending", labels, group.pending)
    series.add("consumers", labels, group.consumers)
    if group.lag is not None:  # None: Redis cannot tell, which is not zero
        series.add("lag", labels, group.lag)
    if lag_s is not None:
        series.greatest("lag_seconds", labels, lag_s)


class _Bounded:
    """Values of several gauges with the same labels, the label sets beyond a bound put together."""

    def __init__(self, families: Mapping[str, GaugeMetricFamily], limit: int = MOST_SERIES) -> None:
        self._families = families
        self._limit = limit
        self._known: set[tuple[str, ...]] = set()
        self._values: dict[tuple[str, tuple[str, ...]], float] = {}

    def add(self, name: str, labels: tuple[str, ...], value: float) -> None:
        key = name, self._bounded(labels)
        self._values[key] = self._values.get(key, 0) + value

    def greatest(self, name: str, labels: tuple[str, ...], value: float) -> None:
        key = name, self._bounded(labels)
        self._values[key] = max(self._values.get(key, 0.0), value)

    def tell(self) -> None:
        for (name, labels), value in self._values.items():
            self._families[name].add_metric(labels, value)

    def _bounded(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        if labels not in self._known and len(self._known) >= self._limit:
            return (OTHER,) * len(labels)
        self._known.add(labels)
        return labels


def _families() -> dict[str, GaugeMetricFamily]:
    partition, group = ("topic", "partition"), ("topic", "group", "partition")

    def gauge(name: str, sentence: str, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
        return GaugeMetricFamily(name, sentence, labels=labels)

    return {
        "length": gauge("openstream_stream_length", "Events in a partition's stream in Redis.", partition),
        "unpersisted": gauge(
            "openstream_unpersisted_events", "Events of a partition that wait for PostgreSQL.", partition
        ),
        "unpersisted_age": gauge(
            "openstream_unpersisted_seconds", "How long the oldest of those events has waited.", partition
        ),
        "lag": gauge(
            "openstream_group_lag_events", "Events not yet delivered to a group; absent when Redis cannot tell.", group
        ),
        "lag_seconds": gauge(
            "openstream_group_lag_seconds", "How long the oldest event not yet delivered to a group has waited.", group
        ),
        "pending": gauge("openstream_group_pending_events", "Events delivered to a group and not acknowledged.", group),
        "consumers": gauge("openstream_group_consumers", "Consumers of a group on a partition.", group),
        "memory_used": gauge("openstream_redis_memory_used_bytes", "Memory that Redis uses."),
        "memory_limit": gauge("openstream_redis_memory_limit_bytes", "Memory that Redis may use; 0 is no limit."),
        "nodes": gauge("openstream_nodes_alive", "Nodes whose heartbeat is fresh."),
        "unowned": gauge(
            "openstream_partitions_unowned", "Partitions whose lease nobody holds: nothing persists them."
        ),
        "age": gauge("openstream_sample_age_seconds", "Time since this node last looked at the cluster."),
    }

"""The state of the cluster as the sampler saw it last, as gauges made when somebody scrapes.

A sample is replaced as a whole, so a partition, group or topic that is gone leaves no series behind, and a scrape never
sees half of one sample and half of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.ports import StreamStats


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    stats: Mapping[TopicPartition, StreamStats]
    memory: Mapping[str, int]
    nodes: int


@dataclass(frozen=True, slots=True)
class _Mailboxes:
    waiting: Mapping[str, int] = field(default_factory=dict)
    limit: int | None = None


class SampledCollector(Collector):
    """Gauges of the last sample. Before the first one there are none: an absent series is honest, a zero is not."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._sample: _Sample | None = None
        self._mailboxes = _Mailboxes()

    def replace(self, stats: Mapping[TopicPartition, StreamStats], memory: Mapping[str, int], nodes: int) -> None:
        self._sample = _Sample(self._monotonic(), dict(stats), dict(memory), nodes)

    def replace_mailboxes(self, waiting: Mapping[str, int], limit: int) -> None:
        self._mailboxes = _Mailboxes(dict(waiting), limit)

    def forget_topic(self, topic: str) -> None:
        if self._sample is not None:
            kept = {at: stats for at, stats in self._sample.stats.items() if at.topic != topic}
            self._sample = replace(self._sample, stats=kept)

    def describe(self) -> Iterable[Metric]:
        """The names, without values, so that the registry refuses a second metric of the same name."""
        return _families().values()

    def collect(self) -> Iterable[Metric]:
        families = _families()
        mailboxes, sample = self._mailboxes, self._sample  # read once: a scrape may run in another thread
        for name, waiting in mailboxes.waiting.items():
            families["mailbox"].add_metric((name,), waiting)
        if mailboxes.limit is not None:
            families["mailbox_limit"].add_metric((), mailboxes.limit)
        if sample is not None:
            self._fill(families, sample)
        return families.values()

    def _fill(self, families: Mapping[str, GaugeMetricFamily], sample: _Sample) -> None:
        families["age"].add_metric((), max(0.0, self._monotonic() - sample.at))
        families["nodes"].add_metric((), sample.nodes)
        families["unowned"].add_metric((), sum(stats.owner is None for stats in sample.stats.values()))
        for key, family in (("used_memory", "memory_used"), ("maxmemory", "memory_limit")):
            if key in sample.memory:
                families[family].add_metric((), sample.memory[key])
        for at, stats in sample.stats.items():
            labels = (at.topic, str(at.partition))
            families["length"].add_metric(labels, stats.length)
            families["unpersisted"].add_metric(labels, stats.unpersisted)
            for group in stats.groups:
                group_labels = (at.topic, group.name, labels[1])
                families["pending"].add_metric(group_labels, group.pending)
                families["consumers"].add_metric(group_labels, group.consumers)
                if group.lag is not None:  # None: Redis cannot tell, which is not zero
                    families["lag"].add_metric(group_labels, group.lag)


def _families() -> dict[str, GaugeMetricFamily]:
    partition, group = ("topic", "partition"), ("topic", "group", "partition")

    def gauge(name: str, sentence: str, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
        return GaugeMetricFamily(name, sentence, labels=labels)

    return {
        "length": gauge("openstream_stream_length", "Events in a partition's stream in Redis.", partition),
        "unpersisted": gauge(
            "openstream_unpersisted_events", "Events of a partition that wait for PostgreSQL.", partition
        ),
        "lag": gauge(
            "openstream_group_lag_events", "Events not yet delivered to a group; absent when Redis cannot tell.", group
        ),
        "pending": gauge("openstream_group_pending_events", "Events delivered to a group and not acknowledged.", group),
        "consumers": gauge("openstream_group_consumers", "Consumers of a group on a partition.", group),
        "memory_used": gauge("openstream_redis_memory_used_bytes", "Memory that Redis uses."),
        "memory_limit": gauge("openstream_redis_memory_limit_bytes", "Memory that Redis may use; 0 is no limit."),
        "nodes": gauge("openstream_nodes_alive", "Nodes whose heartbeat is fresh."),
        "unowned": gauge(
            "openstream_partitions_unowned", "Partitions whose lease nobody holds: nothing persists them."
        ),
        "age": gauge("openstream_sample_age_seconds", "Time since the sampled series were read."),
        "mailbox": gauge("openstream_mailbox_bytes", "Bytes that wait in a mailbox of this node.", ("mailbox",)),
        "mailbox_limit": gauge("openstream_mailbox_limit_bytes", "Bytes that may wait in one mailbox before a 429."),
    }

"""Histograms of how long events took from their append on: counted a batch at a time, with the slowest as exemplar.

The client library's histogram takes one value a call, which costs a millisecond for a batch of 2000. Here a batch is
sorted once and every bucket found by bisection. An event's position says when Redis appended it, so the difference of
two clocks goes into these numbers; they are never negative.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from openstream_runtime.domain.events import StoredEvent, trace_id_of
from openstream_runtime.telemetry.series import MOST_SERIES, OTHER

# From a hot read (a few milliseconds) to a group that comes back after a day.
_BOUNDS_MS = (
    2,
    5,
    10,
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    30_000,
    60_000,
    600_000,
    3_600_000,
    86_400_000,
)
_LE = (*(str(bound / 1000) for bound in _BOUNDS_MS), "+Inf")


@dataclass(slots=True)
class _Counts:
    #: Events in each bucket, not cumulative; the last is for what is above every bound.
    buckets: list[int] = field(default_factory=lambda: [0] * len(_LE))
    total_ms: int = 0
    exemplars: dict[int, Exemplar] = field(default_factory=dict)


class Delays(Collector):
    """One histogram, by labels that name what exists (a topic, a group)."""

    def __init__(self, name: str, sentence: str, labels: tuple[str, ...], *, limit: int = MOST_SERIES) -> None:
        self._name = name
        self._sentence = sentence
        self._labels = labels
        self._limit = limit
        self._counts: dict[tuple[str, ...], _Counts] = {}

    def observe(self, labels: tuple[str, ...], events: Sequence[tuple[int, StoredEvent]], now_ms: int) -> None:
        """Count events, each with its partition, that have come here at `now_ms`."""
        if not events:
            return
        counts = self._counts.get(labels)
        if counts is None:
            if len(self._counts) >= self._limit:
                labels = (OTHER,) * len(labels)
            counts = self._counts.setdefault(labels, _Counts())
        ages = sorted(max(0, now_ms - event.position.ms) for _, event in events)
        below = 0
        for bucket, bound in enumerate(_BOUNDS_MS):
            upto = bisect_right(ages, bound, lo=below)
            counts.buckets[bucket] += upto - below
            below = upto
        counts.buckets[-1] += len(ages) - below
        counts.total_ms += sum(ages)
        slowest = min(events, key=lambda one: one[1].position.ms)
        bucket = next((at for at, bound in enumerate(_BOUNDS_MS) if ages[-1] <= bound), len(_BOUNDS_MS))
        counts.exemplars[bucket] = Exemplar(_named(*slowest), ages[-1] / 1000, now_ms / 1000)

    def forget(self, *prefix: str) -> None:
        """Drop what was counted under labels that begin with `prefix`."""
        self._counts = {labels: one for labels, one in self._counts.items() if labels[: len(prefix)] != prefix}

    def describe(self) -> Iterable[Metric]:
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        family = self._family()
        for labels, counts in list(self._counts.items()):
            family.add_metric(labels, list(_cumulative(counts)), counts.total_ms / 1000)
        return [family]

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._sentence, labels=self._labels)


def _cumulative(counts: _Counts) -> Iterator[tuple[str, float] | tuple[str, float, Exemplar]]:
    upto = 0
    for bucket, le in enumerate(_LE):
        upto += counts.buckets[bucket]
        exemplar = counts.exemplars.get(bucket)
        yield (le, upto) if exemplar is None else (le, upto, exemplar)


def _named(partition: int, event: StoredEvent) -> dict[str, str]:
    """Which event it was, and its trace. OpenMetrics allows an exemplar 128 characters."""
    name = {"partition": str(partition), "redis_id": str(event.position)}
    trace_id = trace_id_of(event.headers)
    return name if trace_id is None else {"trace_id": trace_id, **name}

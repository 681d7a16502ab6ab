"""Every number a node counts, declared once, and the `Meter` that the actors count with.

One object and one registry for each node, no globals: tests run many nodes in one process. The methods of `Meter` are
called once per batch or request, so children are bound to their labels once and found again by a tuple; a call costs
one or two microseconds. Labels come from closed sets, or name what exists: `forget_topic` and `forget_group` take their
series away again. What is sampled rather than counted stands in `sampled.py` and `node_gauges.py`.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from openstream_runtime.domain.events import Delivery, StoredEvent
from openstream_runtime.domain.pulse import Pulse
from openstream_runtime.telemetry.delays import Delays
from openstream_runtime.telemetry.exposition import render
from openstream_runtime.telemetry.http_series import REQUEST_SECONDS, HttpSeries
from openstream_runtime.telemetry.node_gauges import NodeCollector, NodeState
from openstream_runtime.telemetry.sampled import ClusterSample, SampledCollector
from openstream_runtime.telemetry.series import Kinds, Series

# A group commit is one round trip to Redis: mostly under a millisecond, bad above a quarter of a second.
_APPEND_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
# PostgreSQL: a COPY and a commit that waits for the disk.
_COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# How late a timer of the event loop is: a few milliseconds are work, a tenth of a second is a call that blocks.
_LOOP_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_BATCH_EVENTS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0)

_TOPIC_PARTITION = ("topic", "partition")
_TOPIC_GROUP = ("topic", "group")


class Metrics:
    """A node's numbers. Implements `ports.Meter`; what it serves at /metrics comes from `exposition`."""

    def __init__(self, *, version: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, sentence: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, sentence, labels, registry=registry)

        def histogram(name: str, sentence: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(name, sentence, labels, buckets=buckets, registry=registry)

        build = Gauge("openstream_build_info", "Always 1: what runs here.", ("version", "python"), registry=registry)
        build.labels(version, platform.python_version()).set(1)

        # Producing.
        self._events = counter(
            "openstream_ingest_events_total", "Events appended to a partition's stream.", _TOPIC_PARTITION
        )
        self._bytes = counter(
            "openstream_ingest_bytes_total", "Bytes appended to a partition's stream.", _TOPIC_PARTITION
        )
        self._requests = counter(
            "openstream_ingest_requests_total", "Produce requests, by how they ended.", ("status",)
        )
        self._rejected = counter(
            "openstream_rejected_total", "Requests refused because of backpressure, by reason.", ("reason",)
        )
        self._group_commit_events = histogram(
            "openstream_group_commit_events", "Events that went to Redis in one pipelined append.", _BATCH_EVENTS
        )
        self._group_commit_seconds = histogram(
            "openstream_group_commit_duration_seconds", "How long one pipelined append to Redis took.", _APPEND_SECONDS
        )
        self._produce_persisted = histogram(
            "openstream_produce_persisted_duration_seconds",
            "How long appended events of a request with ack=persisted waited for PostgreSQL, in vain included.",
            REQUEST_SECONDS,
        )

        # Consuming.
        self._read = counter(
            "openstream_consumer_read_events_total", "Events handed to consumers of a group.", _TOPIC_GROUP
        )
        self._acked = counter(
            "openstream_consumer_ack_total", "Events that consumers of a group acknowledged.", _TOPIC_GROUP
        )
        self._claimed = counter(
            "openstream_consumer_claimed_total", "Events that consumers of a group claimed.", _TOPIC_GROUP
        )
        self._released = counter(
            "openstream_consumer_released_total", "Events given back to a group for another delivery.", _TOPIC_GROUP
        )
        self._nacked = counter("openstream_nacks_total", "Events that consumers of a group gave back.", _TOPIC_GROUP)
        self._dead_letters = counter(
            "openstream_dead_letters_total", "Events a group gave up on, moved to its dead-letter topic.", _TOPIC_GROUP
        )

        # Persisting.
        self._persisted = counter(
            "openstream_persisted_total", "Events of a partition committed to PostgreSQL.", _TOPIC_PARTITION
        )
        self._quarantined = counter(
            "openstream_quarantined_total", "Events PostgreSQL refused, kept in the quarantine table.", _TOPIC_PARTITION
        )
        self._trimmed = counter(
            "openstream_trimmed_total", "Persisted events trimmed from a partition's stream.", _TOPIC_PARTITION
        )
        self._lost_tail = counter(
            "openstream_lost_tail_events_total", "Appended events lost with a Redis, unpersisted.", _TOPIC_PARTITION
        )
        self._history_dropped = counter(
            "openstream_history_dropped_total", "Time partitions of the history dropped by this node, outlived by all."
        )
        self._commit_events = histogram(
            "openstream_store_commit_events", "Events committed to PostgreSQL in one transaction.", _BATCH_EVENTS
        )
        self._commit_seconds = histogram(
            "openstream_store_commit_duration_seconds",
            "How long one committed transaction on PostgreSQL took.",
            _COMMIT_SECONDS,
        )
        self._commit_failures = counter(
            "openstream_store_commit_failures_total", "Transactions on PostgreSQL that failed; they are tried again."
        )

        # Replaying.
        self._replayed = counter("openstream_replay_events_total", "Events copied into a topic by replays.", ("topic",))
        self._replays_running = Gauge(
            "openstream_replays_running", "Replays this node is copying for.", registry=registry
        )

        # The node.
        self._leases = counter(
            "openstream_lease_changes_total", "What happened to leases on partitions, by kind.", ("change",)
        )
        self._restarts = counter(
            "openstream_actor_restarts_total", "Actors that ended and were started again.", ("actor",)
        )
        self._loop_lag = histogram(
            "openstream_event_loop_lag_seconds", "How late a timer of the event loop came.", _LOOP_SECONDS
        )
        self._http = HttpSeries(registry)

        # From the append on.
        self._persist_delays = Delays(
            "openstream_persist_delay_seconds", "Time from an event's append to its commit in PostgreSQL.", ("topic",)
        )
        self._delivery_delays = Delays(
            "openstream_delivery_delay_seconds",
            "Time from an event's append to its first delivery to a consumer of a group.",
            _TOPIC_GROUP,
        )
        self._sampled = SampledCollector(monotonic)
        self._node = NodeCollector()
        for collector in (self._persist_delays, self._delivery_delays, self._sampled, self._node):
            registry.register(collector)

        # A loss is seen as an increase, so its series begins where the first event could be lost.
        self._appends = Series(self._events, self._bytes, self._lost_tail)
        self._persists = Series(self._persisted, self._quarantined)
        self._trims = Series(self._trimmed)
        self._reads = Series(self._read)
        self._acks = Series(self._acked)
        self._claims = Series(self._claimed)
        self._releases = Series(self._released)
        self._nacks = Series(self._nacked)
        self._deaths = Series(self._dead_letters)
        self._replays = Series(self._replayed)
        self._of_groups = (
            *(self._reads, self._acks, self._claims, self._releases, self._nacks, self._deaths),
            self._delivery_delays,
        )
        # Closed sets by intent. The bounds hold when somebody passes a raw path or an error's text one day.
        self._statuses = Kinds(self._requests, 64)
        self._reasons = Kinds(self._rejected, 64)
        self._changes = Kinds(self._leases, 64)
        self._actors = Kinds(self._restarts, 256)

    # ----------------------------------------------------------------------------------------------- ports.Meter

    def appended(self, topic: str, partition: int, events: int, size: int) -> None:
        appended, volume, _ = self._appends[topic, partition]
        if events > 0 and size >= 0:
            appended.inc(events)
            volume.inc(size)

    def group_commit(self, events: int, seconds: float) -> None:
        self._group_commit_events.observe(events)
        self._group_commit_seconds.observe(seconds)

    def produce_persisted(self, seconds: float) -> None:
        self._produce_persisted.observe(seconds)

    def ingest_request(self, status: str) -> None:
        self._statuses[status].inc()

    def rejected(self, reason: str) -> None:
        self._reasons[reason].inc()

    def read(self, topic: str, group: str, events: int) -> None:
        self._reads.add((topic, group), events)

    def acked(self, topic: str, group: str, events: int) -> None:
        self._acks.add((topic, group), events)

    def claimed(self, topic: str, group: str, events: int) -> None:
        self._claims.add((topic, group), events)

    def released(self, topic: str, group: str, events: int) -> None:
        self._releases.add((topic, group), events)

    def nacked(self, topic: str, group: str, events: int) -> None:
        self._nacks.add((topic, group), events)

    def dead_lettered(self, topic: str, group: str, events: int) -> None:
        self._deaths.add((topic, group), events)

    def persisted(self, topic: str, partition: int, events: int, quarantined: int) -> None:
        persisted, refused = self._persists[topic, partition]
        if events > 0:
            persisted.inc(events)
        if quarantined > 0:
            refused.inc(quarantined)

    def persist_delay(self, topic: str, partition: int, events: Sequence[StoredEvent], now_ms: int) -> None:
        self._persist_delays.observe((topic,), [(partition, event) for event in events], now_ms)

    def delivery_delay(self, topic: str, group: str, deliveries: Sequence[Delivery], now_ms: int) -> None:
        fresh = [(one.partition, one.event) for one in deliveries if one.deliveries == 1]
        self._delivery_delays.observe((topic, group), fresh, now_ms)

    def store_commit(self, events: int, seconds: float) -> None:
        self._commit_events.observe(events)
        self._commit_seconds.observe(seconds)

    def store_failed(self) -> None:
        self._commit_failures.inc()

    def trimmed(self, topic: str, partition: int, events: int) -> None:
        self._trims.add((topic, partition), events)

    def lost_tail(self, topic: str, partition: int, events: int) -> None:
        self._appends[topic, partition][2].inc(events)

    def history_dropped(self, tables: int) -> None:
        self._history_dropped.inc(tables)

    def lease(self, change: str) -> None:
        self._changes[change].inc()

    def replayed(self, topic: str, events: int) -> None:
        self._replays.add((topic,), events)

    def replays_running(self, change: int) -> None:
        self._replays_running.inc(change)

    def http_request(self, method: str, path: str, status: int, seconds: float) -> None:
        """`path` is the route's template; one that no route matched is the edge's to name (`<unmatched>`)."""
        self._http.observe(method, path, status, seconds)

    def loop_lag(self, seconds: float) -> None:
        self._loop_lag.observe(seconds)

    # ------------------------------------------------------------------------------------------------ for the node

    def actor_started(self, actor: str) -> None:
        """Begin its series at zero, or an increase would not see the first restart."""
        self._actors[actor].inc(0)

    def actor_restarted(self, actor: str) -> None:
        """An actor was started again; `actor` is its kind, not its path (see observer.py)."""
        self._actors[actor].inc()

    def observe_sample(self, sample: ClusterSample) -> None:
        """Replace what was sampled before, as a whole: what is not in it is gone from /metrics."""
        self._sampled.replace(sample)

    def observe_node(self, state: Callable[[], NodeState]) -> None:
        """How to ask the node for its own state, at each scrape."""
        self._node.state = state

    def withdraw(self) -> None:
        """The node drains: what it told of the cluster is for others to tell."""
        self._sampled.withdraw()

    def pulse(self) -> Pulse:
        """What the live view needs of all this, and no more: a look at two metrics and not at every series."""
        buckets = [
            (float(sample.labels["le"]), int(sample.value))
            for metric in self._group_commit_seconds.collect()
            for sample in metric.samples
            if sample.name.endswith("_bucket")
        ]
        rejected = {
            sample.labels["reason"]: int(sample.value)
            for metric in self._rejected.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }
        return Pulse(buckets, rejected)

    def forget_topic(self, topic: str) -> None:
        """Drop every series of a deleted topic. After its actors have ended: a later count would bring it back."""
        for series in (
            *(self._appends, self._persists, self._trims, self._replays, self._persist_delays),
            *self._of_groups,
        ):
            series.forget(topic)
        self._sampled.forget_topic(topic)

    def forget_group(self, topic: str, group: str) -> None:
        """Drop every series of a deleted group."""
        for series in self._of_groups:
            series.forget(topic, group)

    def exposition(self, accept: str) -> tuple[str, bytes]:
        """Content type and body for /metrics, in the format the `Accept` header asks for. Never raises for a header."""
        return render(self.registry, accept)

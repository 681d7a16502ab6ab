"""Every metric a node shows, by name: its type, labels and sentence, as telemetry has them."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families as parse_text

from openstream_runtime.domain.events import Delivery, StoredEvent
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.ports.log import GroupStats, StreamStats
from openstream_runtime.telemetry.metrics import Metrics
from openstream_runtime.telemetry.node_gauges import NodeState
from openstream_runtime.telemetry.outbox import Bounds, Outbox, OutboxCollector
from openstream_runtime.telemetry.sampled import ClusterSample


@dataclass(frozen=True)
class Shown:
    """One metric. A counter's name ends with `_total`; a histogram's is without `_bucket`, `_sum` and `_count`."""

    name: str
    kind: str
    labels: tuple[str, ...]
    sentence: str

    def row(self) -> str:
        """As it stands in the table of ops/README.md."""
        labels = ", ".join(f"`{label}`" for label in self.labels)
        return f"| `{self.name}` | {self.kind} |{f' {labels} ' if labels else ' '}| {self.sentence} |"

    def series(self) -> set[str]:
        """The names its series have."""
        if self.kind == "histogram":
            return {f"{self.name}_{part}" for part in ("bucket", "sum", "count")}
        return {self.name}


def full_metrics() -> Metrics:
    """A node's metrics with one series at least of each."""
    metrics, at = Metrics(version="1"), TopicPartition("orders", 0)
    event = StoredEvent(Position(1, 0), "e", None, b"{}", 0)
    metrics.appended("orders", 0, 1, 10)
    metrics.group_commit(1, 0.001)
    metrics.ingest_request("200")
    metrics.rejected("mailbox")
    for count in (
        metrics.read,
        metrics.acked,
        metrics.claimed,
        metrics.released,
        metrics.nacked,
        metrics.dead_lettered,
    ):
        count("orders", "g", 1)
    metrics.persisted("orders", 0, 1, 1)
    metrics.persist_delay("orders", 0, [event], 2)
    metrics.delivery_delay("orders", "g", [Delivery(0, event, 1)], 2)
    metrics.store_commit(1, 0.001)
    metrics.store_failed()
    metrics.trimmed("orders", 0, 1)
    metrics.produce_persisted(0.001)
    metrics.history_dropped(1)
    metrics.replayed("orders", 1)
    metrics.replays_running(1)
    metrics.lease("acquired")
    metrics.actor_restarted("node/tailer")
    metrics.http_request("GET", "/v1/topics", 200, 0.001)
    metrics.loop_lag(0.001)
    group = GroupStats("g", 1, 1, 1, ZERO, None)
    metrics.observe_sample(
        ClusterSample(
            {at: StreamStats(1, Position(5, 0), 1, ZERO, "n1", groups=(group,))},
            {"used_memory": 1, "maxmemory": 2},
            nodes=("n1",),
            me="n1",
            unpersisted_lag={at: 1.0},
            group_lag={at: {"g": 1.0}},
        )
    )
    metrics.observe_node(
        lambda: NodeState(mailboxes={"store-writer": (0, 0)}, backends={"redis": True}, pool={"pool_size": 1})
    )
    outbox: Outbox[int] = Outbox("traces", lambda batch: True, Bounds())
    outbox.close(10)
    metrics.registry.register(OutboxCollector([outbox]))
    return metrics


def shown(metrics: Metrics) -> dict[str, Shown]:
    """Every metric in the text format, by the name people write."""
    found = {}
    for family in parse_text(metrics.exposition("")[1].decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        found[name] = Shown(name, family.type, tuple(labels), family.documentation)
    return found

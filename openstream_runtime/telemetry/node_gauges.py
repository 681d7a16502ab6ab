"""The node's own state as gauges, asked for when somebody scrapes: a backend that is away must not freeze them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from openstream_runtime.telemetry.series import OTHER

#: Mailboxes that are shown one by one, the fullest first; the rest together.
MOST_MAILBOXES = 256


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node says of itself."""

    #: Messages and bytes that wait, by mailbox: `ingestion/orders`, `groups/orders/workers`, `store-writer`.
    mailboxes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    mailbox_limit: int = 0
    #: Whether Redis and PostgreSQL answered whoever talked to them last.
    backends: Mapping[str, bool] = field(default_factory=dict)
    #: Partitions it holds the lease of.
    held: int = 0
    draining: bool = False
    #: psycopg_pool's counters.
    pool: Mapping[str, int] = field(default_factory=dict)


class NodeCollector(Collector):
    """Gauges of `state()`. Before the node says how to ask, there are none."""

    def __init__(self) -> None:
        self.state: Callable[[], NodeState] | None = None

    def describe(self) -> Iterable[Metric]:
        return _families().values()

    def collect(self) -> Iterable[Metric]:
        families = _families()
        if self.state is not None:
            _fill(families, self.state())
        return families.values()


def _fill(families: Mapping[str, GaugeMetricFamily], state: NodeState) -> None:
    for name, messages, size in _fullest(state.mailboxes):
        families["messages"].add_metric((name,), messages)
        families["bytes"].add_metric((name,), size)
    families["limit"].add_metric((), state.mailbox_limit)
    for name, ok in state.backends.items():
        families["backend"].add_metric((name,), ok)
    families["held"].add_metric((), state.held)
    families["draining"].add_metric((), state.draining)
    size, idle = state.pool.get("pool_size", 0), state.pool.get("pool_available", 0)
    families["connections"].add_metric(("in_use",), size - idle)
    families["connections"].add_metric(("idle",), idle)
    families["waiting"].add_metric((), state.pool.get("requests_waiting", 0))


def _fullest(mailboxes: Mapping[str, tuple[int, int]]) -> Iterable[tuple[str, int, int]]:
    ordered = sorted(((name, *waiting) for name, waiting in mailboxes.items()), key=lambda one: (-one[2], one[0]))
    yield from ordered[:MOST_MAILBOXES]
    rest = ordered[MOST_MAILBOXES:]
    if rest:
        yield OTHER, sum(one[1] for one in rest), sum(one[2] for one in rest)


def _families() -> dict[str, GaugeMetricFamily]:
    def gauge(name: str, sentence: str, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
        return GaugeMetricFamily(name, sentence, labels=labels)

    return {
        "messages": gauge("openstream_mailbox_messages", "Messages that wait in a mailbox of this node.", ("mailbox",)),
        "bytes": gauge("openstream_mailbox_bytes", "Bytes that wait in a mailbox of this node.", ("mailbox",)),
        "limit": gauge("openstream_mailbox_limit_bytes", "Bytes that may wait for one topic before a 429."),
        "backend": gauge("openstream_backend_up", "1 when a backend answered this node's last call.", ("backend",)),
        "held": gauge("openstream_partitions_held", "Partitions this node holds the lease of and persists."),
        "draining": gauge("openstream_node_draining", "1 while this node hands over and stops."),
        "connections": gauge("openstream_store_connections", "Connections to PostgreSQL, by state.", ("state",)),
        "waiting": gauge("openstream_store_requests_waiting", "Calls that wait for a connection to PostgreSQL."),
    }

"""The world of a node's actors: the ports, the board, who waits for what, and the limits they keep to."""

from __future__ import annotations

from dataclasses import dataclass, field

from openstream_runtime.actors.audience import Audience
from openstream_runtime.actors.board import Board
from openstream_runtime.actors.receipts import Receipts
from openstream_runtime.actors.tailer import Watch
from openstream_runtime.domain.acknowledged import Acknowledged
from openstream_runtime.ports.groups import GroupLog
from openstream_runtime.ports.log import EventLog, Tail
from openstream_runtime.ports.meter import Clock, Meter
from openstream_runtime.ports.nodes import Leases, Members
from openstream_runtime.ports.producers import Producers
from openstream_runtime.ports.redelivery import Redrives
from openstream_runtime.ports.replays import Replays
from openstream_runtime.ports.store import Catalog, EventStore, GroupPositions, History
from openstream_runtime.ports.tracing import NO_TRACER, Tracer


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers an operator may set. Milliseconds and bytes, as the names say; defaults as in settings.py."""

    lease_ms: int = 5_000
    retention_ms: int = 3_600_000
    max_stream_len: int = 200_000
    max_unpersisted: int = 100_000
    mailbox_bytes: int = 32 << 20
    redis_memory: float = 0.9
    claim_idle_ms: int = 60_000
    consumer_idle_ms: int = 3_600_000
    ack_replicas: int = 1
    partitions_default: int = 8
    grace_ms: int = 8_000

    def grace(self, share: float) -> float:
        """Seconds of the node's grace for one part of the tree. Parts stop one after the other, so shares add up."""
        return self.grace_ms / 1000 * share


@dataclass(frozen=True, slots=True)
class World:
    """Everything an actor may touch. Made once, by the node; in tests by hand, with fakes."""

    log: EventLog
    producers: Producers
    tail: Tail
    groups: GroupLog
    leases: Leases
    members: Members
    store: EventStore
    catalog: Catalog
    history: History
    positions: GroupPositions
    replays: Replays
    redrives: Redrives
    clock: Clock
    meter: Meter
    board: Board
    limits: Limits = Limits()
    watch: Watch = field(default_factory=Watch)
    receipts: Receipts = field(default_factory=Receipts)
    acknowledged: Acknowledged = field(default_factory=Acknowledged)
    audience: Audience = field(default_factory=Audience)
    tracer: Tracer = NO_TRACER

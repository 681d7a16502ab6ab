"""What the node answers, as frozen records. A node may answer with more than is named here, never with less."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct


class Event(Struct, frozen=True, omit_defaults=True):
    """An event to be produced. `payload` is anything JSON can say, or `Raw` bytes that are JSON already."""

    event_type: str
    payload: Any
    partition_key: str | None = None
    headers: dict[str, str] | None = None
    timestamp_ms: int | None = None


class Placed(Struct, frozen=True):
    """Where an event stands."""

    partition: int
    redis_id: str


class Produced(Struct, frozen=True):
    """`results` in the order of the events."""

    topic: str
    partitions: int
    results: list[Placed]


class Topic(Struct, frozen=True):
    topic: str
    partitions: int
    retention_ms: int | None = None
    retention_bytes: int | None = None
    history_ms: int | None = None
    max_stream_len: int | None = None
    created_ms: int = 0


class GroupMade(Struct, frozen=True):
    """`created`: on how many partitions the group is new; 0: it was there."""

    topic: str
    group: str
    partitions: int
    created: int


class ConsumerInfo(Struct, frozen=True):
    name: str
    pending: int
    idle_ms: int


class GroupPartition(Struct, frozen=True):
    """`lag` null: nobody can tell now, which is not 0."""

    partition: int
    last_delivered_id: str
    pending: int
    lag: int | None
    lag_ms: int = 0
    consumers: list[ConsumerInfo] = []
    served_from: str = "redis"


class Group(Struct, frozen=True):
    topic: str
    group: str
    pending: int
    lag: int | None
    partitions: list[GroupPartition]


class ResetDone(Struct, frozen=True):
    topic: str
    group: str
    start_id: str
    updated_partitions: int
    discarded_pending: int = 0


class ResetPartition(Struct, frozen=True):
    """What a reset would do. `replayed`, `skipped` null: not counted; `at_least`: that many or more."""

    partition: int
    from_id: str
    to_id: str
    pending: int = 0
    replayed: int | None = None
    skipped: int | None = None
    at_least: bool = False


class ResetPreview(Struct, frozen=True):
    topic: str
    group: str
    start_id: str
    partitions: list[ResetPartition]


class Kept(Struct, frozen=True):
    """An event of the history, or one that was delivered (`deliveries` ≥ 1). The payload is as the producer sent it."""

    partition: int
    redis_id: str
    event_type: str
    raw_payload: Raw = msgspec.field(name="payload")
    timestamp_ms: int = 0
    partition_key: str | None = None
    headers: dict[str, str] = {}
    deliveries: int = 0

    @property
    def payload(self) -> Any:
        """Decoded anew at each access."""
        return msgspec.json.decode(self.raw_payload)


class Page(Struct, frozen=True):
    """`next_id` goes on where this page ended; None: there is no more now."""

    topic: str
    events: list[Kept]
    next_id: str | None = None


class Delivered(Struct, frozen=True):
    """What a read or a claim gave."""

    topic: str
    group: str
    consumer: str
    events: list[Kept]


class Acked(Struct, frozen=True):
    acked: int


class Replay(Struct, frozen=True):
    """`total`, `eta_ms` null: it cannot be told."""

    replay_id: str
    state: str
    topic: str = ""
    target_topic: str = ""
    copied: int = 0
    total: int | None = None
    rate: float = 0.0
    eta_ms: int | None = None
    error: str | None = None


class Token(Struct, frozen=True):
    token: str
    expires_in: int

    def __repr__(self) -> str:
        return f"Token(expires_in={self.expires_in})"  # the token itself belongs into no log

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
    #: An event with an id that was seen in its partition not long ago is not kept again.
    event_id: str | None = None


class Placed(Struct, frozen=True):
    """Where an event stands. `duplicate`: it was there before."""

    partition: int
    redis_id: str
    duplicate: bool = False


class Produced(Struct, frozen=True):
    """`results` in the order of the events. `duplicate`: all were there before."""

    topic: str
    partitions: int
    results: list[Placed]
    duplicate: bool = False


class Topic(Struct, frozen=True):
    topic: str
    partitions: int
    retention_ms: int | None = None
    retention_bytes: int | None = None
    history_ms: int | None = None
    max_stream_len: int | None = None
    created_ms: int = 0


class GroupSettings(Struct, frozen=True, kw_only=True):
    """What is set on a group. `claim_idle_ms` None: the node's default; `max_deliveries` None: without end."""

    topic: str
    group: str
    visibility: str = "appended"
    max_deliveries: int | None = None
    claim_idle_ms: int | None = None
    dead_letter_topic: str = ""
    paused: bool = False


class GroupMade(GroupSettings, frozen=True, kw_only=True):
    """`created`: on how many partitions the group is new; 0: it was there."""

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


class Group(GroupSettings, frozen=True, kw_only=True):
    """Where a group stands, and what is set on it."""

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


class Nacked(Struct, frozen=True):
    """How many were given back, and how many the group gives up on with that."""

    nacked: int
    dead_lettered: int


class Held(Struct, frozen=True):
    partition: int
    redis_ids: list[str]


class Extended(Struct, frozen=True):
    """`lost`: what this consumer does not hold any more."""

    extended: int
    lost: list[Held] = []


class Origin(Struct, frozen=True):
    """Where the original of a dead letter stands."""

    topic: str
    partition: int
    redis_id: str


class DeadLetter(Kept, frozen=True, kw_only=True):
    """`deliveries`: of the original, in vain. `redriven`: it went back already."""

    letter_id: str
    origin: Origin
    reason: str
    consumer: str | None = None
    died_ms: int = 0
    redriven: bool = False


class DeadLetters(Struct, frozen=True):
    """`next_id` goes on where this page ended; None: there is no more now."""

    topic: str
    group: str
    dead_letter_topic: str
    dead_letters: list[DeadLetter]
    next_id: str | None = None


class Redriven(Struct, frozen=True):
    """`already`: went back before. `next_id` not None: there is more to do from there on."""

    dead_letter_topic: str
    redriven: int
    already: int
    unknown: list[str] = []
    next_id: str | None = None


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

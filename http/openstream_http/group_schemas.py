"""The shapes of consumer groups; schemas.py has the rest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from openstream_http.limits import (
    DAY_S,
    MAX_BLOCK_MS,
    MAX_EVENTS,
    Consumer,
    Count,
    EventId,
    Milliseconds,
    Name,
    PartitionNumber,
    Partitions,
    StartId,
)
from openstream_http.schemas import Answer, Request
from openstream_runtime.domain.topics import Visibility

MaxDeliveries = Annotated[int, Meta(ge=1, le=1_000_000, description="handed out so often at most; null: without end")]
ClaimIdle = Annotated[
    int, Meta(ge=100, le=30 * DAY_S * 1000, description="held so long without an ack at most; null: the node's default")
]


class GroupRequest(Request):
    """Where to begin: `start_id` or `start_ms`; neither: `$`. `persisted`: deliver only what PostgreSQL has."""

    group: Name
    start_id: StartId | None = None
    start_ms: Milliseconds | None = None
    visibility: Visibility = Visibility.APPENDED
    max_deliveries: MaxDeliveries | None = None
    claim_idle_ms: ClaimIdle | None = None
    dead_letter_topic: Name | None = None
    paused: bool = False


class GroupPatch(Request):
    """What to change; what is left out stays, and null is the default."""

    max_deliveries: MaxDeliveries | UnsetType | None = UNSET
    claim_idle_ms: ClaimIdle | UnsetType | None = UNSET
    dead_letter_topic: Name | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET


class GroupSettingsAnswer(Answer):
    """What is set on a group. `dead_letter_topic` is the name in use, also where none was set."""

    topic: str
    group: str
    visibility: Visibility
    max_deliveries: int | None
    claim_idle_ms: int | None
    dead_letter_topic: str
    paused: bool


class GroupAnswer(GroupSettingsAnswer):
    """`created`: on how many partitions the group is new."""

    partitions: int
    created: int


class GroupName(Answer):
    group: str


class GroupList(Answer):
    topic: str
    groups: list[GroupName]


class ConsumerAnswer(Answer):
    name: str
    pending: int
    idle_ms: int


class GroupPartitionAnswer(Answer):
    """`lag`: events not delivered, wherever they are; null: nobody can tell now."""

    partition: int
    last_delivered_id: str
    pending: int
    lag: int | None
    lag_ms: int
    consumers: list[ConsumerAnswer]
    served_from: Literal["redis", "postgres"]


class GroupDescription(GroupSettingsAnswer):
    """A group on each partition, and the sums (`lag` null when any partition's is)."""

    pending: int
    lag: int | None
    partitions: list[GroupPartitionAnswer]


class ReadRequest(Request):
    consumer: Consumer
    count: Count = 100
    block_ms: Annotated[int, Meta(ge=0, le=MAX_BLOCK_MS)] = 1_000
    partitions: Partitions | None = None


class Delivered(Answer):
    partition: int
    redis_id: str
    event_type: str
    partition_key: str | None
    payload: Any
    timestamp_ms: int
    #: `{}` when the event came without any.
    headers: dict[str, str]
    #: How often it has been handed out, this time included.
    deliveries: int


class ReadAnswer(Answer):
    """Events handed to this consumer; empty when none came in time."""

    topic: str
    group: str
    consumer: str
    events: list[Delivered]


class AckItem(Request):
    partition: PartitionNumber
    redis_ids: Annotated[list[EventId], Meta(max_length=MAX_EVENTS)]


class AckRequest(Request):
    items: Annotated[list[AckItem], Meta(max_length=MAX_EVENTS)]


class Acked(Answer):
    """How many were pending and are done now; acking twice counts once."""

    topic: str
    group: str
    acked: int


class ClaimRequest(Request):
    consumer: Consumer
    min_idle_ms: Milliseconds = 60_000
    count: Count = 100
    partitions: Partitions | None = None


class ClaimAnswer(ReadAnswer):
    """Events taken over from consumers that held them too long."""

    claimed: int


class NackRequest(Request):
    """Events to give back. `consumer`: only what it still holds; absent: whoever holds them."""

    items: Annotated[list[AckItem], Meta(max_length=MAX_EVENTS)]
    delay_ms: Annotated[int, Meta(ge=0, le=DAY_S * 1000)] = 0
    consumer: Consumer | None = None


class Nacked(Answer):
    """How many were held and are not any more: handed out again, after the delay, or dead letters now."""

    topic: str
    group: str
    nacked: int
    dead_lettered: int


class ExtendRequest(Request):
    """Events a consumer is still working on."""

    consumer: Consumer
    items: Annotated[list[AckItem], Meta(max_length=MAX_EVENTS)]


class HeldItem(Answer):
    partition: int
    redis_ids: list[str]


class Extended(Answer):
    """`lost`: what this consumer does not hold any more: acked, given to another, or dead."""

    topic: str
    group: str
    consumer: str
    extended: int
    lost: list[HeldItem]


class ResetRequest(Request):
    """`start_id` or `start_ms`, exactly one. `dry_run`: only say what would happen."""

    start_id: StartId | None = None
    start_ms: Milliseconds | None = None
    partitions: Partitions | None = None
    dry_run: bool = False


class ResetPartition(Answer):
    """From where to where, and how many events that replays or skips; `at_least`: that many or more."""

    partition: int
    from_id: str
    to_id: str
    pending: int
    replayed: int
    skipped: int
    at_least: bool


class ResetAnswer(Answer, omit_defaults=True):
    """`partitions` in a dry run alone: what would happen on each."""

    topic: str
    group: str
    start_id: str
    updated_partitions: int
    discarded_pending: int
    dry_run: bool = False
    partitions: list[ResetPartition] | None = None

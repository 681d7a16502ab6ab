"""The shapes of requests and answers: what the decoders accept, and what /openapi.json says, from one source.

Unknown fields of a request are refused: a misspelt `partition_key` would otherwise spread events over partitions and
nobody would know. Answers may gain fields at any time.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from openstream_http.limits import (
    MAX_BLOCK_MS,
    MAX_EVENT_ID_CHARS,
    MAX_EVENTS,
    MAX_HEADERS,
    MAX_INTEGER,
    MAX_KEY_BYTES,
    MAX_TYPE_CHARS,
    Consumer,
    Count,
    EventId,
    Milliseconds,
    Name,
    PartitionCount,
    PartitionNumber,
    Partitions,
    StartId,
)
from openstream_runtime.domain.topics import Visibility
from openstream_runtime.gateway.results import Ack


class Request(Struct, forbid_unknown_fields=True):
    """A request body."""


class Answer(Struct):
    """A response body."""


class TopicRequest(Request):
    """`retention_*` is what Redis keeps, `history_ms` what PostgreSQL keeps (absent: for ever)."""

    partitions: PartitionCount | None = None
    retention_ms: Milliseconds | None = None
    retention_bytes: Milliseconds | None = None
    history_ms: Milliseconds | None = None
    max_stream_len: Annotated[int, Meta(ge=1, le=MAX_INTEGER)] | None = None


class TopicAnswer(Answer):
    """A topic. `history_floor_ms`: what is older may be gone from PostgreSQL; 0: nothing is."""

    topic: str
    partitions: int
    retention_ms: int | None
    retention_bytes: int | None
    history_ms: int | None
    max_stream_len: int | None
    created_ms: int
    history_floor_ms: int


class TopicList(Answer):
    """Topics the token covers, by name."""

    topics: list[TopicAnswer]


class TopicDeleting(Answer):
    """Gone for everybody; its data goes in the background."""

    topic: str
    deleting: bool = True


class Event(Request):
    """One event. `payload` is any JSON value and comes back byte for byte."""

    event_type: Annotated[str, Meta(min_length=1, max_length=MAX_TYPE_CHARS)]
    payload: Raw
    #: Counted in bytes by the route; in characters here, which is never more.
    partition_key: Annotated[str, Meta(min_length=1, max_length=MAX_KEY_BYTES)] | None = None
    timestamp_ms: Milliseconds | None = None
    headers: Annotated[dict[str, str], Meta(max_length=MAX_HEADERS)] | None = None
    #: An event whose id was seen in its partition not long ago is not kept again.
    event_id: Annotated[str, Meta(min_length=1, max_length=MAX_EVENT_ID_CHARS)] | None = None


class ProduceRequest(Request):
    events: Annotated[list[Event], Meta(min_length=1, max_length=MAX_EVENTS)]
    partitions: PartitionCount | None = None
    ack: Ack = Ack.APPENDED


class ProduceQuery(Request):
    """For bodies of one event a line, which have no room for them."""

    partitions: PartitionCount | None = None
    ack: Ack | None = None


class Placed(Answer):
    """`duplicate`: it was there before, and this is its original place."""

    partition: int
    redis_id: str
    duplicate: bool = False


class Produced(Answer):
    """Where the events stand, in the order of the request. `duplicate`: all of them were there before."""

    topic: str
    partitions: int
    results: list[Placed]
    duplicate: bool = False


class GroupRequest(Request):
    """Where to begin: `start_id` or `start_ms`; neither: `$`. `persisted`: deliver only what PostgreSQL has."""

    group: Name
    start_id: StartId | None = None
    start_ms: Milliseconds | None = None
    visibility: Visibility = Visibility.APPENDED


class GroupAnswer(Answer):
    """`created`: on how many partitions the group is new."""

    topic: str
    group: str
    partitions: int
    created: int
    visibility: Visibility


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


class GroupDescription(Answer):
    """A group on each partition, and the sums (`lag` null when any partition's is)."""

    topic: str
    group: str
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


class Summary(Answer):
    """What the metrics actors sampled last."""

    topics: list[dict[str, Any]]
    redis: dict[str, Any]
    postgres: dict[str, Any]
    nodes: list[Any]


class Cluster(Answer):
    """Nodes, owners, and this node's supervision tree."""

    nodes: list[Any]


class ProblemAnswer(Answer):
    """RFC 9457. `errors` says where in the request; `retry_after_ms` repeats Retry-After with more precision."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, Any]] | None = None
    retry_after_ms: int | None = None
    topic: str | None = None
    partition: int | None = None
    outcome: str | None = None
    #: Sending the same request again keeps nothing twice.
    repeatable: bool | None = None
    #: The producer's: the number that is expected, the epoch that counts.
    expected_seq: int | None = None
    current_epoch: int | None = None
    earliest_id: str | None = None


def decoder_of(shape: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(shape)

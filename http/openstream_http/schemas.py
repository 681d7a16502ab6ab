"""The shapes of requests and answers, but for groups: what the decoders accept, and what /openapi.json says.

Unknown fields of a request are refused: a misspelt `partition_key` would otherwise spread events over partitions and
nobody would know. Answers may gain fields at any time.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from openstream_http.limits import (
    MAX_EVENT_ID_CHARS,
    MAX_EVENTS,
    MAX_HEADERS,
    MAX_INTEGER,
    MAX_KEY_BYTES,
    MAX_TYPE_CHARS,
    Milliseconds,
    PartitionCount,
)
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

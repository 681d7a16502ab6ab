"""POST /v1/topics/{topic}/events: one JSON body, one event a line, or CloudEvents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import msgspec
from msgspec.structs import replace
from quart import Blueprint, Response, request

from openstream_http import limits, schemas
from openstream_http.access import permits
from openstream_http.auth import Role
from openstream_http.bodies import decode, media_type, read_json
from openstream_http.cloudevents.incoming import is_binary, read_events
from openstream_http.cloudevents.schema import BINARY_HEADERS, CloudEvent
from openstream_http.connection import StreamedResponse, promise
from openstream_http.edge import edge
from openstream_http.ndjson import HELD_BYTES, LineProducer
from openstream_http.negotiation import CLOUD_EVENT, CLOUD_EVENTS, JSON, LINES
from openstream_http.openapi import describes
from openstream_http.problems import invalid
from openstream_http.producing import PRODUCER_HEADERS, next_stamp, stamp_of
from openstream_http.queries import read_query
from openstream_http.rendering import placed, produced, raw_response
from openstream_runtime.domain.errors import Overloaded, Unavailable
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.producers import Stamp as ProducerStamp
from openstream_runtime.domain.tracing import TRACEPARENT, TRACESTATE, Stamp
from openstream_runtime.gateway.results import Ack

produce = Blueprint("produce", __name__)
_REQUEST = schemas.decoder_of(schemas.ProduceRequest)
_EVENT = schemas.decoder_of(schemas.Event)


@produce.post("/v1/topics/<topic>/events")
@permits(Role.PRODUCER)
@describes(
    "produce",
    request=schemas.ProduceRequest,
    lines=schemas.Event,
    also={CLOUD_EVENT: CloudEvent, CLOUD_EVENTS: list[CloudEvent]},
    headers=BINARY_HEADERS | PRODUCER_HEADERS,
    query=schemas.ProduceQuery,
    responses={200: schemas.Produced},
    problems=(409, 429, 503),
)
async def append(topic: str) -> Response:
    """Append events.

    An unknown topic is created, with `partitions` or the node's default. Events with the same `partition_key` share a
    partition and keep their order; events without one share a partition that changes from request to request.
    All of a request is appended or the problem says what was.

    `ack` says when the answer comes: `appended` when Redis has the events, `replicated` when its replicas and its disk
    have them, `persisted` when PostgreSQL has committed them. A 503 to `persisted` says for each event `persisted`,
    `not_persisted` (kept; PostgreSQL has not confirmed it within 30 s and still may, so sending it again may double it)
    or `not_stored` (Redis lost it first, for good: send it again).

    With `Producer-Id`, `Producer-Epoch` and `Producer-Seq` the same request may be repeated, to any node, until it is
    answered: it is kept once, and a repetition is a 200 with `duplicate: true` and the original ids. `Producer-Seq` is
    the number of the request's first event: the first request of a producer in a topic begins at 0, the next one adds
    how many events there were. A producer sends one request of a topic at a time. 409 out-of-sequence says
    `expected_seq`; 409 sequence-reused: the number was used for other events; 403 stale-epoch: a newer epoch has begun
    (it may begin at any number); 409 unknown-producer: begin a newer epoch from 0.

    An event with an `event_id` that was seen in its partition not long ago is not kept again: its result has
    `duplicate: true` and the original id. A problem with `repeatable: true` says that the same request may be sent
    again, whatever became of it.

    As NDJSON (one event a line, `partitions` and `ack` in the query) there is no limit to the number of events; a
    problem then says `appended`, how many are in, and `line`. With producer headers every thousand lines are a request
    of their own: send the whole body again, or go on from `expected_seq`.

    CloudEvents 1.0 are taken structured, batched (an empty batch is one) and binary, with `partitions` and `ack` in the
    query: `type` is the event_type, `partitionkey` the partition_key (nothing else is), `time` the timestamp_ms, every
    other attribute a header `ce-<name>`. JSON data comes back byte for byte; in binary mode `text/*` in UTF-8 becomes a
    string and any other data a string of base64, with a header `ce-data-encoding: base64`.
    """
    kind = None if is_binary() else media_type(JSON, *LINES, CLOUD_EVENT, CLOUD_EVENTS)
    query, producer = read_query(schemas.ProduceQuery), stamp_of(request.headers)
    if kind in {None, CLOUD_EVENT, CLOUD_EVENTS}:
        return await _append_cloud_events(topic, query, kind, producer)
    if kind != JSON:
        return await _append_lines(topic, query, producer)
    if request.query_string:
        raise invalid("in a JSON body, partitions and ack are fields of the body", "query")
    asked = await read_json(_REQUEST)
    now_ms = edge().clock.now_ms()
    stamp = stamp_of_request()
    events = [new_event(event, now_ms, "events", index, stamp=stamp) for index, event in enumerate(asked.events)]
    return await _append(topic, events, asked.partitions, asked.ack, producer)


@produce.after_request
async def count(response: Response) -> Response:
    if (meter := edge().meter) is not None:
        meter.ingest_request(str(response.status_code))
    return response


def stamp_of_request() -> Stamp | None:
    """What the current request says of its trace."""
    return Stamp.of(request.headers.getlist(TRACEPARENT), request.headers.getlist(TRACESTATE))


def new_event(event: schemas.Event, now_ms: int, *at: str | int, stamp: Stamp | None = None) -> NewEvent:
    """An event that the decoder accepted, with what the decoder cannot check; Problem 422 below `at`."""
    if not event.event_type.isprintable():
        raise invalid("expected printable characters", *at, "event_type")
    key = event.partition_key
    if key is not None and not key.isascii() and len(key.encode()) > limits.MAX_KEY_BYTES:
        raise invalid(f"expected at most {limits.MAX_KEY_BYTES} bytes", *at, "partition_key")
    headers = None
    if event.headers:
        headers = msgspec.json.encode(event.headers)
        if len(headers) > limits.MAX_HEADER_BYTES:
            raise invalid(f"expected at most {limits.MAX_HEADER_BYTES} bytes in all", *at, "headers")
    if event.event_id is not None and not event.event_id.isprintable():
        raise invalid("expected printable characters", *at, "event_id")
    if stamp is not None:
        headers = stamp.on(event.headers or (), headers)  # after the check: what we add is no fault of the client's
    return NewEvent(
        event_type=event.event_type,
        partition_key=key,
        payload=bytes(event.payload),  # a copy: a slice would keep the whole body alive
        timestamp_ms=now_ms if event.timestamp_ms is None else event.timestamp_ms,
        headers=headers,
        event_id=event.event_id,
    )


def _event_of_line(stamp: Stamp | None, line: bytes, number: int) -> NewEvent:
    """One line as an event; Problem 400, 422."""
    return new_event(decode(_EVENT, line), edge().clock.now_ms(), stamp=stamp)


async def _append(
    topic: str, events: Sequence[NewEvent], partitions: int | None, ack: Ack, producer: ProducerStamp | None
) -> Response:
    stamp = next_stamp(producer, 0, len(events))
    try:
        done = await edge().gateway.produce(topic, events, partitions=partitions, ack=ack, stamp=stamp)
    except (Overloaded, Unavailable) as error:
        if "repeatable" not in error.facts:  # what may be a repetition may have been kept before
            error.facts.setdefault("outcome", "not_stored")
        raise
    results = placed(done.results, done.duplicates)
    duplicate = len(done.duplicates) == len(done.results)
    return raw_response(produced(done.topic, done.partitions, results, duplicate=duplicate))


async def _append_cloud_events(
    topic: str, query: schemas.ProduceQuery, kind: str | None, producer: ProducerStamp | None
) -> Response:
    events = await read_events(kind)
    if not events:  # an empty batch: nothing is appended, nor is a topic made of it
        known = await edge().gateway.topic(topic)
        return raw_response(produced(known.name, known.partitions, b"", duplicate=False))
    if (stamp := stamp_of_request()) is not None:  # the request's, where the event has no extension of that name
        events = [replace(one, headers=stamp.on(_names(one), one.headers)) for one in events]
    return await _append(topic, events, query.partitions, query.ack or Ack.APPENDED, producer)


def _names(event: NewEvent) -> Iterable[str]:
    return () if event.headers is None else msgspec.json.decode(event.headers, type=dict[str, str])


async def _append_lines(topic: str, query: schemas.ProduceQuery, sender: ProducerStamp | None) -> Response:
    producer = LineProducer(
        edge().gateway,
        topic,
        partitions=query.partitions,
        ack=query.ack or Ack.APPENDED,
        stamp=sender,
        parse=partial(_event_of_line, stamp_of_request()),
    )
    promise(request._get_current_object(), producer.close)  # type: ignore[attr-defined]
    with edge().bodies.hold(HELD_BYTES) as hold:
        await producer.consume(hold)
    length, body = producer.answer()
    response = StreamedResponse(body, content_type=JSON)
    response.content_length = length
    return response

"""Answers: JSON made once, with payloads and headers of events spliced in as the bytes they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from typing import Any

import msgspec
from quart import Response

from openstream_http.negotiation import JSON
from openstream_http.problems import Problem
from openstream_runtime.domain.events import Delivery, StoredEvent
from openstream_runtime.domain.history import Place
from openstream_runtime.domain.positions import Position

#: Of a payload in a live tail.
HEAD_BYTES = 4_096


@lru_cache(maxsize=10_000)
def text(value: str) -> bytes:
    """A string as JSON. Event types and keys repeat."""
    return msgspec.json.encode(value)


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return raw_response(msgspec.json.encode(body), status, headers)


def raw_response(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None, media: str = JSON
) -> Response:
    """A response whose body is JSON already, of whichever kind."""
    return Response(body, status, dict(headers or {}), content_type=media)


def problem_response(problem: Problem) -> Response:
    status, headers, body = problem.render()
    response = Response(body, status)
    for name, value in headers:
        response.headers[name] = value
    return response


def placed(results: Sequence[tuple[int, Position]], duplicates: Set[int] = frozenset()) -> bytes:
    """The items of `results`: where each event stands, joined by commas."""
    if duplicates:
        return ",".join(
            [
                f'{{"partition":{partition},"redis_id":"{at.ms}-{at.seq}"'
                + (',"duplicate":true}' if index in duplicates else "}")
                for index, (partition, at) in enumerate(results)
            ]
        ).encode()
    return ",".join(
        [f'{{"partition":{partition},"redis_id":"{at.ms}-{at.seq}"}}' for partition, at in results]
    ).encode()


def produced(topic: str, partitions: int, results: bytes, *, duplicate: bool) -> bytes:
    return produced_head(topic, partitions) + results + produced_end(duplicate)


def produced_head(topic: str, partitions: int) -> bytes:
    """The beginning of a produce answer, up to its results."""
    return b'{"topic":%b,"partitions":%d,"results":[' % (text(topic), partitions)


def produced_end(duplicate: bool) -> bytes:
    """The end of it. `duplicate`: every event was there before."""
    return b'],"duplicate":true}' if duplicate else b"]}"


def handed_out(topic: str, group: str, consumer: str, deliveries: Sequence[Delivery], claimed: bool) -> bytes:
    """The answer to a read or a claim."""
    count = b'"claimed":%d,' % len(deliveries) if claimed else b""
    return b'{"topic":%b,"group":%b,"consumer":%b,%b"events":[%b]}' % (
        text(topic),
        text(group),
        text(consumer),
        count,
        b",".join([_delivery(delivery) for delivery in deliveries]),
    )


def tailed(events: Sequence[tuple[int, StoredEvent]], dropped: int) -> bytes:
    """Events for people to look at: a large payload comes as its head, as text."""
    return b'{"dropped":%d,"events":[%b]}' % (dropped, b",".join([_tailed(*one) for one in events]))


def _tailed(partition: int, event: StoredEvent) -> bytes:
    payload = b'"payload":%b' % event.payload
    if len(event.payload) > HEAD_BYTES:
        head = event.payload[:HEAD_BYTES].decode("utf-8", "ignore")
        payload = b'"payload_head":%b,"payload_bytes":%d' % (msgspec.json.encode(head), len(event.payload))
    return (
        b'{"partition":%d,"redis_id":"%d-%d","event_type":%b,"partition_key":%b,"timestamp_ms":%d,"headers":%b,%b}'
        % (
            partition,
            event.position.ms,
            event.position.seq,
            text(event.event_type),
            b"null" if event.partition_key is None else text(event.partition_key),
            event.timestamp_ms,
            event.headers or b"{}",
            payload,
        )
    )


def _delivery(delivery: Delivery) -> bytes:
    event = delivery.event
    return (
        b'{"partition":%d,"redis_id":"%d-%d","event_type":%b,"partition_key":%b,"payload":%b,"timestamp_ms":%d,'
        b'"headers":%b,"deliveries":%d}'
    ) % (
        delivery.partition,
        event.position.ms,
        event.position.seq,
        text(event.event_type),
        b"null" if event.partition_key is None else text(event.partition_key),
        event.payload,
        event.timestamp_ms,
        event.headers or b"{}",
        delivery.deliveries,
    )


def kept(topic: str, events: Sequence[tuple[int, StoredEvent]], next_id: Place | Position | None) -> bytes:
    """The answer to a look into the history."""
    return b'{"topic":%b,"events":[%b],"next_id":%b}' % (
        text(topic),
        b",".join([kept_event(partition, event) for partition, event in events]),
        b"null" if next_id is None else b'"%b"' % str(next_id).encode(),
    )


def lines(events: Sequence[tuple[int, StoredEvent]]) -> bytes:
    """The same, one event a line. What breaks a line in JSON stands between two tokens, and a space does as well."""
    return b"".join([_in_one_line(kept_event(partition, event)) + b"\n" for partition, event in events])


def _in_one_line(data: bytes) -> bytes:
    return data.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in data or b"\r" in data else data


def kept_event(partition: int, event: StoredEvent) -> bytes:
    return (
        b'{"partition":%d,"redis_id":"%d-%d","event_type":%b,"partition_key":%b,"payload":%b,"timestamp_ms":%d,'
        b'"headers":%b}'
    ) % (
        partition,
        event.position.ms,
        event.position.seq,
        text(event.event_type),
        b"null" if event.partition_key is None else text(event.partition_key),
        event.payload,
        event.timestamp_ms,
        event.headers or b"{}",
    )

"""Producing in one JSON body."""

from __future__ import annotations

from typing import Any

import pytest

from openstream_http import schemas
from openstream_http.auth import Role
from openstream_runtime.domain.errors import (
    Conflict,
    OpenStreamError,
    OutcomeUnknown,
    Overloaded,
    PartlyDone,
    Unavailable,
)
from openstream_runtime.domain.positions import Position
from openstream_runtime.gateway.results import Ack
from support.edge import EdgeClient, FakeMeter
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio

EVENTS = "/v1/topics/orders/events"


def body(**event: Any) -> dict[str, Any]:
    return {"events": [{"event_type": "t", "payload": 1} | event]}


def raw(payload: bytes) -> bytes:
    return b'{"events":[{"event_type":"a","payload":1},{"event_type":"t","payload":' + payload + b"}]}"


async def test_the_answer_says_where_every_event_stands_in_request_order(
    client: EdgeClient, gateway: FakeGateway
) -> None:
    sent = [{"event_type": "t", "partition_key": f"user-{n % 3}", "payload": n} for n in range(30)]
    answer = await client.post(EVENTS, {"events": sent, "partitions": 8}, role=Role.PRODUCER)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    produced = answer.json(schemas.Produced)
    assert (produced.topic, produced.partitions) == ("orders", 8)
    at = {str(event.position): event.payload for event in gateway.events("orders")}
    assert [at[result.redis_id] for result in produced.results] == [str(n).encode() for n in range(30)]
    assert len({result.partition for result in produced.results[::3]}) == 1


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a" :\t[1 , 2.50e+01,-0.0] }',
        b'"\\u00e9 \\ud83d\\ude00 \\\\u0000"',
        b"12345678901234567890123456789012345678901234567890",
        b"1e308",
        '"é😀"'.encode(),
        b"null",
        b'{"a":1,"a":2}',
    ],
)
async def test_a_payload_is_kept_byte_for_byte(client: EdgeClient, gateway: FakeGateway, payload: bytes) -> None:
    assert (await client.post(EVENTS, raw(payload))).status == 200
    assert gateway.events("orders")[1].payload == payload


async def test_what_is_left_out_gets_its_default(client: EdgeClient, gateway: FakeGateway) -> None:
    assert (await client.post(EVENTS, body(headers={}, partition_key=None))).status == 200
    (event,) = gateway.events("orders")
    assert event.partition_key is None
    assert event.headers is None
    assert event.timestamp_ms > 1_700_000_000_000
    assert gateway.acks == [Ack.APPENDED]


async def test_headers_and_a_timestamp_are_kept(client: EdgeClient, gateway: FakeGateway) -> None:
    assert (await client.post(EVENTS, body(headers={"k": "ü"}, timestamp_ms=0))).status == 200
    (event,) = gateway.events("orders")
    assert event.headers == '{"k":"ü"}'.encode()
    assert event.timestamp_ms == 0


@pytest.mark.parametrize(
    ("sent", "loc"),
    [
        ({"events": []}, ["events"]),
        ({}, ["events"]),
        ({"events": {}}, ["events"]),
        ({"events": [1]}, ["events", 0]),
        ([], []),
        ("text", []),
        (None, []),
        ({"events": [{"event_type": "t", "payload": 1}] * 5001}, ["events"]),
        (body(event_type=""), ["events", 0, "event_type"]),
        (body(event_type="x" * 201), ["events", 0, "event_type"]),
        (body(event_type="a\nb"), ["events", 0, "event_type"]),
        (body(event_type=7), ["events", 0, "event_type"]),
        ({"events": [{"payload": 1}]}, ["events", 0, "event_type"]),
        ({"events": [{"event_type": "t"}]}, ["events", 0, "payload"]),
        (body(partition_key=""), ["events", 0, "partition_key"]),
        (body(partition_key="x" * 1025), ["events", 0, "partition_key"]),
        (body(partition_key="é" * 513), ["events", 0, "partition_key"]),
        (body(partition_key="a\0"), ["events", 0, "partition_key"]),
        (body(event_type="a\0"), ["events", 0, "event_type"]),
        (body(payload={"deep": ["a\0"]}), ["events", 0, "payload", "deep", 0]),
        (body(payload={"a\0": 1}), ["events", 0, "payload"]),
        (body(headers={"a": "\0"}), ["events", 0, "headers", "a"]),
        (body(headers={"a": 1}), ["events", 0, "headers"]),
        (body(headers=[]), ["events", 0, "headers"]),
        (body(headers={str(n): "" for n in range(65)}), ["events", 0, "headers"]),
        (body(headers={"a": "x" * 8192}), ["events", 0, "headers"]),
        (body(timestamp_ms=-1), ["events", 0, "timestamp_ms"]),
        (body(timestamp_ms=2**53 + 1), ["events", 0, "timestamp_ms"]),
        (body(timestamp_ms=1.5), ["events", 0, "timestamp_ms"]),
        (body(timestamp_ms="1"), ["events", 0, "timestamp_ms"]),
        (body(partitionkey="typo"), ["events", 0, "partitionkey"]),
        (body() | {"partitions": 0}, ["partitions"]),
        (body() | {"partitions": 1025}, ["partitions"]),
        (body() | {"ack": "maybe"}, ["ack"]),
        (body() | {"more": 1}, ["more"]),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_wrong_shape_is_refused_with_its_place(
    client: EdgeClient, gateway: FakeGateway, sent: Any, loc: list[str | int]
) -> None:
    answer = await client.post(EVENTS, b"null" if sent is None else sent)
    assert answer.wrong_at(*loc)
    assert gateway.events("orders") == []


@pytest.mark.parametrize(
    ("payload", "loc"),
    [
        (b'{"x":"\\ud800"}', ["x"]),
        (b'["\\udc00\\ud800"]', [0]),
        (b'{"\\ud800":1}', []),
        (b"1e400", []),
        (b"[-1e999]", [0]),
        (b"1" * 100_000, []),
        (b'"\\u0000"', []),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_cannot_be_given_back_is_refused_with_its_place(
    client: EdgeClient, gateway: FakeGateway, payload: bytes, loc: list[str | int]
) -> None:
    assert (await client.post(EVENTS, raw(payload))).wrong_at("events", 1, "payload", *loc)
    assert gateway.events("orders") == []


@pytest.mark.parametrize("bracket", [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("depth", [990, 5_000, 200_000])
async def test_a_depth_bomb_is_a_422_or_stored_but_never_an_error(
    client: EdgeClient, gateway: FakeGateway, bracket: tuple[bytes, bytes], depth: int
) -> None:
    bomb = bracket[0] * depth + b'"\\u0000"' + bracket[1] * depth
    (await client.post(EVENTS, raw(bomb))).problem(422, "invalid-request")
    assert gateway.events("orders") == []


@pytest.mark.parametrize(
    "sent",
    [b"", b"{", b"\xff\xfe", b'{"events":', b"\xef\xbb\xbf{}", b"{}}", b"{'a':1}", b"nul", b"[1,]", b'"\x01"']
    + [raw(payload) for payload in (b'"\xff"', b"NaN", b"Infinity", b'"\xed\xa0\x80"', b"01", b"+1", b'"\0"', b"")],
)
async def test_what_is_no_json_is_a_400(client: EdgeClient, gateway: FakeGateway, sent: bytes) -> None:
    (await client.post(EVENTS, sent)).problem(400, "not-json")
    assert gateway.events("orders") == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ""},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "application/x-ndjson", "Content-Encoding": "br"},
    ],
)
async def test_another_media_type_or_an_encoding_is_a_415(client: EdgeClient, headers: dict[str, str]) -> None:
    (await client.post(EVENTS, body(), headers=headers)).problem(415, "unsupported-media-type")


async def test_a_charset_and_the_identity_encoding_are_fine(client: EdgeClient) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8", "Content-Encoding": "identity"}
    assert (await client.post(EVENTS, body(), headers=headers)).status == 200


async def test_a_body_over_the_limit_is_a_413(client: EdgeClient, gateway: FakeGateway) -> None:
    found = (await client.post(EVENTS, raw(b'"' + b"x" * (8 << 20) + b'"'))).problem(413, "body-too-large")
    assert found["max_bytes"] == 8 << 20
    assert gateway.events("orders") == []


async def test_a_query_beside_a_json_body_is_refused(client: EdgeClient) -> None:
    assert (await client.post(f"{EVENTS}?partitions=3", body())).wrong_at("query")


async def test_another_partition_count_is_a_conflict(client: EdgeClient) -> None:
    assert (await client.post(EVENTS, body() | {"partitions": 2})).status == 200
    found = (await client.post(EVENTS, body() | {"partitions": 3})).problem(409, "conflict")
    assert found["topic"] == "orders"


@pytest.mark.parametrize("ack", ["appended", "replicated", "persisted"])
async def test_the_ack_is_passed_on(client: EdgeClient, gateway: FakeGateway, ack: str) -> None:
    assert (await client.post(EVENTS, body() | {"ack": ack})).status == 200
    assert gateway.acks == [Ack(ack)]


RESULTS = [{"partition": 0, "redis_id": Position(5, 1), "status": "appended"}, {"partition": 1, "status": "not_stored"}]


@pytest.mark.parametrize(
    ("error", "status", "slug", "retry", "facts"),
    [
        (Overloaded("full", reason="mailbox", retry_after_ms=1_200), 429, "overloaded", "2",
         {"outcome": "not_stored", "retry_after_ms": 1_200, "reason": "mailbox"}),
        (Overloaded(), 429, "overloaded", "1", {"outcome": "not_stored", "retry_after_ms": 1_000}),
        (Unavailable("away", backend="redis"), 503, "unavailable", "1", {"outcome": "not_stored", "backend": "redis"}),
        (OutcomeUnknown(), 503, "outcome-unknown", None, {"outcome": "unknown"}),
        (PartlyDone(results=RESULTS, overloaded=True, retry_after_ms=10), 429, "partly-done", "1",
         {"results": [RESULTS[0] | {"redis_id": "5-1"}, RESULTS[1]]}),
        (PartlyDone(results=RESULTS), 503, "partly-done", None, {}),
        (Conflict("no", topic="orders"), 409, "conflict", None, {"topic": "orders"}),
    ],
)  # fmt: skip
async def test_trouble_of_the_node_is_told_so_that_a_program_can_react(
    client: EdgeClient,
    gateway: FakeGateway,
    error: OpenStreamError,
    status: int,
    slug: str,
    retry: str | None,
    facts: dict[str, Any],
) -> None:
    gateway.trouble = [error]
    answer = await client.post(EVENTS, body())
    found = answer.problem(status, slug)
    assert answer.headers.get("Retry-After") == retry
    assert {name: found.get(name) for name in facts} == facts
    assert "overloaded" not in found


async def test_every_request_to_produce_is_counted_by_its_status(
    client: EdgeClient, gateway: FakeGateway, meter: FakeMeter
) -> None:
    gateway.trouble = [Overloaded()]
    for sent in (body(), body(), b"{"):
        await client.post(EVENTS, sent)
    await client.post(EVENTS, body(), role=None)
    await client.get("/v1/topics")
    assert meter.ingests == ["429", "200", "400", "401"]
    assert meter.requests[0] == ("POST", "/v1/topics/<topic>/events", 429)

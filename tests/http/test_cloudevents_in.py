"""CloudEvents on their way in: three modes, one event; and what is none gets a clear answer and appends nothing."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import msgspec
import pytest

from openstream_http import schemas
from openstream_http.auth import Role
from openstream_runtime.domain.errors import Overloaded
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.gateway.results import Ack
from support.cloud_events import FULL, MANY, ONE, TRACEPARENT, binary, cloud_event, kept, send
from support.edge import EdgeClient, FakeMeter
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio

EVENTS = "/v1/topics/orders/events"
MODES = ["binary", "structured", "batched"]
REQUIRED = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}


def headers_of(event: StoredEvent) -> dict[str, str]:
    return msgspec.json.decode(event.headers or b"{}", type=dict[str, str])


async def sent_binary(client: EdgeClient, body: bytes, media: str | None, **headers: str) -> Any:
    extra = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(EVENTS, body, headers=REQUIRED | extra, media=media)


# ----------------------------------------------------------------------------------------------------- the mapping


@pytest.mark.parametrize("mode", MODES)
async def test_an_event_is_the_same_in_every_mode(client: EdgeClient, gateway: FakeGateway, mode: str) -> None:
    data = b'{ "order_id":"o-1",\n "amount": 12.340 }'
    answer = await send(client, mode, FULL, data)
    assert answer.status == 200, answer.body
    produced = answer.json(schemas.Produced)
    (event,) = gateway.events("orders")
    assert (produced.partitions, [one.redis_id for one in produced.results]) == (4, [str(event.position)])
    assert event.event_type == "order.created"
    assert event.partition_key == "user-1"
    assert event.timestamp_ms == 1_795_550_400_123
    assert event.payload == data
    assert headers_of(event) == {
        "ce-specversion": "1.0",
        "ce-id": "A 1-ü",
        "ce-source": "/shop/tills/7?x=%20",
        "ce-subject": "orders/7",
        "ce-datacontenttype": "application/json",
        "ce-dataschema": "https://example.com/order.json",
        "traceparent": TRACEPARENT,
        "ce-comexample": "50 % \"off\" \\ 'now'",
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "data",
    [
        b'{"a" :\t[1 , 2.50e+01,-0.0] }',
        b'"\\u00e9 \\/"',
        b"12345678901234567890123456789012345678901234567890",
        b"null",
    ],
)
async def test_json_data_is_kept_byte_for_byte(
    client: EdgeClient, gateway: FakeGateway, mode: str, data: bytes
) -> None:
    assert (await send(client, mode, FULL, data)).status == 200
    assert gateway.events("orders")[0].payload == data


async def test_only_partitionkey_is_a_key(client: EdgeClient, gateway: FakeGateway) -> None:
    assert (await send(client, "structured", cloud_event(partitionkey=None), b"1")).status == 200
    assert gateway.events("orders")[0].partition_key is None


async def test_without_a_time_it_is_now(client: EdgeClient, gateway: FakeGateway) -> None:
    assert (await send(client, "structured", cloud_event(time=None), b"1")).status == 200
    assert gateway.events("orders")[0].timestamp_ms > 1_700_000_000_000
    assert "time" in (await kept(client))[0]


async def test_null_members_are_not_there(client: EdgeClient, gateway: FakeGateway) -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": None, "time": None, "x": None}
    assert (await client.post(EVENTS, event | {"data_base64": None}, media=ONE)).status == 200
    (stored,) = gateway.events("orders")
    assert headers_of(stored) == {
        "ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-data-encoding": "none",
    }  # fmt: skip
    assert stored.payload == b"null"


async def test_a_batch_keeps_its_order_and_the_query_says_the_rest(client: EdgeClient, gateway: FakeGateway) -> None:
    batch = [cloud_event(id=str(n), data=n) for n in range(50)]
    answer = await client.post(f"{EVENTS}?partitions=2&ack=replicated", batch, media=MANY, role=Role.PRODUCER)
    assert answer.json(schemas.Produced).partitions == 2
    assert [event.payload for event in gateway.events("orders")] == [b"%d" % n for n in range(50)]
    assert gateway.acks == [Ack.REPLICATED]


async def test_an_empty_batch_is_one_and_does_nothing(client: EdgeClient, gateway: FakeGateway) -> None:
    (await client.post(EVENTS, b"[]", media=MANY)).problem(404, "not-found")
    await client.put("/v1/topics/orders", {"partitions": 3})
    answer = await client.post(EVENTS, b"[]", media=MANY)
    assert (answer.status, answer.json()) == (200, {"topic": "orders", "partitions": 3, "results": []})
    assert gateway.appends == []


async def test_an_event_that_was_read_here_may_go_to_another_topic_as_it_is(client: EdgeClient) -> None:
    assert (await send(client, "structured", FULL, b"[1]")).status == 200
    (first,) = await kept(client)
    assert (
        await client.post("/v1/topics/copies/events", [first | {"openstreamdeliveries": 2}], media=MANY)
    ).status == 200
    (second,) = await kept(client, "copies")
    assert (second.pop("openstreamid"), first.pop("openstreamid")) != ("", "")
    assert second == first


async def test_trouble_is_told_as_ever(client: EdgeClient, gateway: FakeGateway, meter: FakeMeter) -> None:
    gateway.trouble = [Overloaded("full", retry_after_ms=1_500)]
    found = (await send(client, "structured", FULL, b"1")).problem(429, "overloaded")
    assert found["outcome"] == "not_stored"
    assert meter.ingests == ["429"]


# ----------------------------------------------------------------------------------------------------- binary mode


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("plain text", "plain text"),
        ('"a \\"quoted\\" \\\\ one"', 'a "quoted" \\ one'),
        ("%61%2f%2F", "a//"),
        ("100%", "100%"),
        ("%2541", "%41"),
        ("", ""),
    ],
)
async def test_header_values_are_decoded_once(client: EdgeClient, gateway: FakeGateway, text: str, meant: str) -> None:
    assert (await sent_binary(client, b"1", "application/json", ce_note=text)).status == 200
    assert headers_of(gateway.events("orders")[0])["ce-note"] == meant


@pytest.mark.parametrize(
    ("body", "media", "payload", "encoding"),
    [
        (b' {"a": 1}\n', "application/json; charset=utf-8", b'{"a": 1}', None),
        (b"[1]", "application/vnd.order+JSON;v=1", b"[1]", None),
        (b"7", None, b"7", None),
        ("zwölf\n".encode(), "text/plain", '"zwölf\\n"'.encode(), None),
        (b"a,b", "text/csv; charset=us-ascii", b'"a,b"', None),
        ("zwölf".encode("latin-1"), "text/plain; charset=ISO-8859-1", None, "base64"),
        (b"\xff", "text/plain", None, "base64"),
        (b"a\0b", "text/plain", None, "base64"),
        (b"<a/>", "application/xml", None, "base64"),
        (b'{"n":1}\n{"n":2}\n', "application/x-ndjson", None, "base64"),
        (bytes(range(256)), "application/octet-stream", None, "base64"),
        (b"", "application/json", b"null", "none"),
        (b"", None, b"null", "none"),
    ],
)
async def test_data_that_is_not_json_is_a_string(
    client: EdgeClient,
    gateway: FakeGateway,
    body: bytes,
    media: str | None,
    payload: bytes | None,
    encoding: str | None,
) -> None:
    answer = await sent_binary(client, body, media)
    assert answer.status == 200, answer.body
    (event,) = gateway.events("orders")
    assert event.payload == (b'"%b"' % b64encode(body) if payload is None else payload)
    assert headers_of(event).get("ce-data-encoding") == encoding
    assert headers_of(event).get("ce-datacontenttype") == media


@pytest.mark.parametrize(
    ("headers", "loc"),
    [
        ({"ce-id": None}, "ce-id"),
        ({"ce-source": None}, "ce-source"),
        ({"ce-type": None}, "ce-type"),
        ({"ce-specversion": None}, "ce-specversion"),
        ({"ce-specversion": "0.3"}, "ce-specversion"),
        ({"ce-id": ""}, "ce-id"),
        ({"ce-type": "%0A"}, "ce-type"),
        ({"ce-note": "%C0%A0"}, "ce-note"),
        ({"ce-note": "%00"}, "ce-note"),
        ({"ce-note": "z\xfc"}, "ce-note"),
        ({"ce-time": "yesterday"}, "ce-time"),
        ({"ce-datacontenttype": "text/plain"}, "ce-datacontenttype"),
        ({"ce-data": "1"}, "ce-data"),
        ({"ce-my-name": "1"}, "ce-my-name"),
        ({"Content-Type": "json"}, "content-type"),
    ],
)
async def test_a_header_that_cannot_be_is_pointed_at(
    client: EdgeClient, gateway: FakeGateway, headers: dict[str, str | None], loc: str
) -> None:
    given = {"Content-Type": "application/json"} | REQUIRED | headers
    answer = await client.post(EVENTS, b"1", headers={k: v for k, v in given.items() if v is not None}, media=None)
    answer.wrong_at("header", loc)
    assert gateway.held == {}


async def test_binary_data_that_claims_to_be_json_must_be(client: EdgeClient, gateway: FakeGateway) -> None:
    for body in (b"{", b"plain", b"\xff", b"1 2", b"NaN"):
        (await sent_binary(client, body, "application/json")).problem(400, "not-json")
    (await sent_binary(client, b'{"a":"\\u0000"}', "application/json")).wrong_at("a")
    (await sent_binary(client, b"x", "text/plain", Content_Encoding="gzip")).problem(415, "unsupported-media-type")
    assert gateway.held == {}


async def test_more_than_headers_may_hold_is_refused(client: EdgeClient, gateway: FakeGateway) -> None:
    many = {f"x{n}": "v" for n in range(64)}
    (await client.post(EVENTS, cloud_event(**many), media=ONE)).wrong_at()
    (await client.post(EVENTS, cloud_event(note="x" * 8_192), media=ONE)).wrong_at()
    answer = await client.post(EVENTS, cloud_event(**{"x" * 1_000_000: "v", "source": "/" * 1_000_000}), media=ONE)
    answer.wrong_at("source")
    answer = await client.post(EVENTS, cloud_event(**{"x" * 1_000_000: "v"}), media=ONE)
    answer.wrong_at("x" * 100)
    assert len(answer.body) < 1_000
    assert gateway.held == {}


# --------------------------------------------------------------------------------------------- what is no CloudEvent


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"id": None}, ["id"]),
        ({"source": None}, ["source"]),
        ({"type": None}, ["type"]),
        ({"specversion": None}, ["specversion"]),
        ({"specversion": "0.3"}, ["specversion"]),
        ({"specversion": 1}, ["specversion"]),
        ({"id": ""}, ["id"]),
        ({"id": 7}, ["id"]),
        ({"id": "a\x07"}, ["id"]),
        ({"source": "a b"}, ["source"]),
        ({"source": "/%zz"}, ["source"]),
        ({"type": "x" * 201}, ["type"]),
        ({"subject": ""}, ["subject"]),
        ({"dataschema": "/relative"}, ["dataschema"]),
        ({"datacontenttype": "json"}, ["datacontenttype"]),
        ({"partitionkey": "ü" * 513}, ["partitionkey"]),
        ({"partitionkey": 7}, ["partitionkey"]),
        ({"time": "2026-11-24 20:00:00Z"}, ["time"]),
        ({"time": "2026-11-24T20:00:00"}, ["time"]),
        ({"time": "2026-02-29T20:00:00Z"}, ["time"]),
        ({"time": "1969-12-31T23:59:59.999Z"}, ["time"]),
        ({"time": 1_795_550_400_123}, ["time"]),
        ({"camelCase": "x"}, ["camelCase"]),
        ({"with-hyphen": "x"}, ["with-hyphen"]),
        ({"x": {"a": 1}}, ["x"]),
        ({"x": [1]}, ["x"]),
        ({"x": 1.5}, ["x"]),
        ({"x": 2**31}, ["x"]),
        ({"x": "\ufffe"}, ["x"]),
        ({"x": "\0"}, ["x"]),
        ({"data": {"a": "\0"}}, ["data", "a"]),
        ({"data_base64": "AA=="}, ["data_base64"]),
        ({"data": None, "data_base64": "A"}, ["data_base64"]),
        ({"data": None, "data_base64": "A A="}, ["data_base64"]),
        ({"data": None, "data_base64": "ü"}, ["data_base64"]),
        ({"data": None, "data_base64": 7}, ["data_base64"]),
        ({"datacontenttype": "text/plain"}, ["data"]),
    ],
)
async def test_what_is_wrong_is_pointed_at_and_nothing_is_appended(
    client: EdgeClient, gateway: FakeGateway, changes: dict[str, Any], loc: list[str]
) -> None:
    (await client.post(EVENTS, cloud_event(**changes), media=ONE)).wrong_at(*loc)
    (await client.post(EVENTS, [FULL, cloud_event(**changes)], media=MANY)).wrong_at(1, *loc)
    assert gateway.held == {}


@pytest.mark.parametrize(
    ("body", "media", "status"),
    [
        (b"{", ONE, 400),
        (b"", ONE, 400),
        (b"", MANY, 400),
        (b'{"id":"\xff"}', ONE, 400),
        (b"[]", ONE, 422),
        (b"{}", MANY, 422),
        (b"[1]", MANY, 422),
        (b"null", MANY, 422),
        (b'{"specversion":"1.0","id":"1","source":"/","type":"t","data":{"a":1e999}}', ONE, 422),
        (json.dumps([FULL] * 5_001).encode(), MANY, 422),
    ],
)
async def test_a_body_that_is_not_one_is_refused_whole(
    client: EdgeClient, gateway: FakeGateway, body: bytes, media: str, status: int
) -> None:
    assert (await client.post(EVENTS, body, media=media)).problem(
        status, "not-json" if status == 400 else "invalid-request"
    )
    assert gateway.held == {}


async def test_formats_we_do_not_speak_are_named(client: EdgeClient, gateway: FakeGateway) -> None:
    found = (await client.post(EVENTS, b"x", media="application/cloudevents+avro")).problem(
        415, "unsupported-media-type"
    )
    assert {ONE, MANY} <= set(found["accepted"])
    assert (await client.post(EVENTS, b"x", media="text/plain")).status == 415, "no CloudEvent without its headers"
    assert gateway.held == {}


async def test_only_a_token_that_may_produce_gets_in(client: EdgeClient, gateway: FakeGateway) -> None:
    for media in (ONE, MANY):
        (await client.post(EVENTS, FULL, media=media, role=Role.CONSUMER)).problem(403, "forbidden")
    headers = binary(FULL)
    (await client.post(EVENTS, b"1", headers=headers, media=None, role=Role.CONSUMER)).problem(403, "forbidden")
    assert gateway.held == {}

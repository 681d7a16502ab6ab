"""Producing one event a line."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from openstream_http import ndjson, schemas
from openstream_http.app import create_app
from openstream_http.auth import Role
from openstream_runtime.domain.errors import Conflict, OutcomeUnknown, Overloaded, PartlyDone, Unavailable
from openstream_runtime.gateway.results import Ack
from support.edge import Answer, EdgeClient, settings_of
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio

EVENTS = "/v1/topics/orders/events"
LINES = "application/x-ndjson"


def lines(count: int, **event: Any) -> bytes:
    return b"".join(json.dumps({"event_type": "t", "payload": n} | event).encode() + b"\n" for n in range(count))


async def send(client: EdgeClient, body: bytes, query: str = "", **how: Any) -> Answer:
    return await client.post(EVENTS + query, body, media=how.pop("media", LINES), **how)


@pytest.mark.parametrize("media", ["application/x-ndjson", "application/jsonl", "application/jsonl; charset=utf-8"])
async def test_every_line_is_appended_and_answered_in_order(
    client: EdgeClient, gateway: FakeGateway, media: str
) -> None:
    answer = await send(client, lines(7_001, partition_key="k"), "?partitions=3", media=media, role=Role.PRODUCER)
    assert answer.status == 200
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers["Content-Type"] == "application/json"
    produced = answer.json(schemas.Produced)
    assert (produced.topic, produced.partitions, len(produced.results)) == ("orders", 3, 7_001)
    stored = gateway.events("orders")
    assert [str(event.position) for event in stored] == [result.redis_id for result in produced.results]
    assert [event.payload for event in stored] == [b"%d" % n for n in range(7_001)]
    assert max(gateway.appends) <= ndjson.CHUNK_EVENTS


async def test_chunks_are_bounded_in_bytes_too(client: EdgeClient, gateway: FakeGateway) -> None:
    await send(client, lines(40, partition_key="x" * 1000, headers={"h": "x" * 8000}, payload="y" * 100_000))
    assert len(gateway.appends) == 4
    assert max(gateway.appends) < 12


async def test_blank_lines_windows_ends_and_a_missing_last_end_are_fine(
    client: EdgeClient, gateway: FakeGateway
) -> None:
    body = b'\n{"event_type":"t","payload": 1 }\r\n  \n\n{"event_type":"t","payload":"a\\nb"}'
    assert (await send(client, body)).status == 200
    assert [event.payload for event in gateway.events("orders")] == [b"1", b'"a\\nb"']


async def test_the_query_says_partitions_and_ack(client: EdgeClient, gateway: FakeGateway) -> None:
    produced = (await send(client, lines(1), "?partitions=5&ack=replicated")).json(schemas.Produced)
    assert produced.partitions == 5
    assert gateway.acks == [Ack.REPLICATED]


@pytest.mark.parametrize(
    "query",
    ["?partitions=0", "?partitions=x", "?partitions=1.5", "?ack=maybe", "?ack=", "?acks=appended", "?partitions="],
)
async def test_a_wrong_query_is_refused(client: EdgeClient, gateway: FakeGateway, query: str) -> None:
    assert (await send(client, lines(1), query)).wrong_at("query")
    assert gateway.held == {}


@pytest.mark.parametrize("body", [b"", b"\n", b" \r\n\n"])
async def test_no_event_at_all_is_refused(client: EdgeClient, gateway: FakeGateway, body: bytes) -> None:
    (await send(client, body)).problem(422, "invalid-request")
    assert gateway.held == {}


@pytest.mark.parametrize(
    ("bad", "status", "slug"),
    [
        (b"{", 400, "not-json"),
        (b'{"event_type":"t","payload":"\xff"}', 400, "not-json"),
        (b'{"event_type":"t"}', 422, "invalid-request"),
        (b'{"event_type":"t","payload":"\\ud800"}', 422, "invalid-request"),
        (b'{"event_type":"t","payload":1} {"event_type":"t","payload":1}', 400, "not-json"),
        (b'[{"event_type":"t","payload":1}]', 422, "invalid-request"),
    ],
)
async def test_a_bad_line_ends_the_request_and_says_where_to_go_on(
    client: EdgeClient, gateway: FakeGateway, bad: bytes, status: int, slug: str
) -> None:
    found = (await send(client, lines(2_500) + bad + b"\n" + lines(5))).problem(status, slug)
    assert (found["appended"], found["line"]) == (2_500, 2_501)
    assert len(gateway.events("orders")) == 2_500


async def test_a_bad_first_line_appends_nothing(client: EdgeClient, gateway: FakeGateway) -> None:
    found = (await send(client, b"\n{}\n" + lines(3))).problem(422, "invalid-request")
    assert (found["appended"], found["line"]) == (0, 2)
    assert found["errors"][0]["loc"] == ["event_type"]
    assert gateway.held == {}


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_a_line_over_the_limit_is_a_413(gateway: FakeGateway, end: bytes) -> None:
    client = EdgeClient(create_app(gateway, settings_of(max_body_bytes=10_000)))
    long = b'{"event_type":"t","payload":"' + b"x" * 10_000 + b'"}'
    found = (await send(client, lines(600) + long + end)).problem(413, "body-too-large")
    assert (found["appended"], found["line"], found["max_bytes"]) == (600, 601, 10_000)
    assert len(gateway.events("orders")) == 600


@pytest.mark.parametrize(
    ("error", "status", "slug", "outcome"),
    [
        (Unavailable("away"), 503, "unavailable", "not_stored"),
        (OutcomeUnknown(), 503, "outcome-unknown", "unknown"),
        (Conflict("count"), 409, "conflict", "not_stored"),
        (PartlyDone(results=[]), 503, "partly-done", None),
    ],
)
async def test_trouble_in_the_middle_says_what_is_in(
    client: EdgeClient, gateway: FakeGateway, error: Any, status: int, slug: str, outcome: str | None
) -> None:
    await client.put("/v1/topics/orders")
    produce = gateway.produce

    async def fails_later(*args: Any, **kwargs: Any) -> Any:
        if len(gateway.appends) == 2:
            raise error
        return await produce(*args, **kwargs)

    gateway.produce = fails_later  # type: ignore[method-assign]
    found = (await send(client, b"\n" + lines(3_000))).problem(status, slug)
    assert (found["appended"], found["line"], found.get("outcome")) == (2_000, 2_002, outcome)
    assert len(gateway.events("orders")) == 2_000


async def test_a_full_log_is_waited_for(client: EdgeClient, gateway: FakeGateway) -> None:
    gateway.trouble = [Overloaded("full", retry_after_ms=1) for _ in range(3)]
    assert (await send(client, lines(10))).status == 200
    assert gateway.appends == [10]


async def test_a_log_that_stays_full_is_told(
    client: EdgeClient, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "MAX_WAIT", 0.02)
    gateway.trouble = [Overloaded("full", retry_after_ms=6) for _ in range(9)]
    answer = await send(client, lines(10))
    found = answer.problem(429, "overloaded")
    assert (found["appended"], found["line"], found["outcome"]) == (0, 1, "not_stored")
    assert answer.headers["Retry-After"] == "1"
    assert len(gateway.trouble) == 5


async def test_results_beyond_memory_wait_in_a_file(
    client: EdgeClient, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "SPOOL_BYTES", 1_000)
    answer = await send(client, lines(4_000))
    assert len(answer.json(schemas.Produced).results) == 4_000


async def test_a_file_of_results_is_closed_when_the_request_fails(
    client: EdgeClient, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "SPOOL_BYTES", 1_000)
    (await send(client, lines(2_000) + b"{")).problem(400, "not-json")


async def test_a_body_is_read_no_faster_than_it_is_appended(app: Any, client: EdgeClient, gateway: FakeGateway) -> None:
    """With the log standing still the connection stops asking for more, so that TCP can slow the client down."""
    piece = lines(1_000)
    taken = 0
    answered = anyio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal taken
        if taken < 500:
            taken += 1
            return {"type": "http.request", "body": piece, "more_body": taken < 500}
        await answered.wait()
        return {"type": "http.disconnect"}

    sent: list[dict[str, Any]] = []

    async def take(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            answered.set()

    headers = [(b"content-type", LINES.encode()), (b"authorization", f"Bearer {client.token()}".encode())]
    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": EVENTS, "raw_path": EVENTS.encode(), "query_string": b"",
        "headers": headers, "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1), "server": None,
        "root_path": "", "extensions": {}, "asgi": {},
    }  # fmt: skip
    with gateway.closed() as let_go, anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(app, scope, receive, take)
            before = -1
            while taken != before:  # until nobody asks any more
                before = taken
                await anyio.wait_all_tasks_blocked()
            assert taken < 30
            assert gateway.appends == []
            let_go()
    assert sent[0]["status"] == 200
    assert sum(gateway.appends) == 500_000

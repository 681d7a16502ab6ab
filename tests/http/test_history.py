"""GET …/events: pages, and one stream of lines that is whole or visibly is not."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from anyio.abc import SocketAttribute

from openstream_http import listener, streams
from openstream_http.auth import Role
from openstream_runtime.domain.errors import Gone, Unavailable
from openstream_runtime.domain.history import END, Place, Span
from openstream_runtime.domain.positions import Position
from support.edge import EdgeClient, FakeMeter
from support.fake_gateway import FakeGateway
from support.wire import Wire, request, until, wire

pytestmark = pytest.mark.anyio
ALL = "/v1/topics/orders/events"
ONE = "/v1/topics/orders/partitions/0/events"
NDJSON = "application/x-ndjson"
CLOUD_EVENTS = "application/cloudevents-batch+json"


async def produced(client: EdgeClient, count: int, *, partitions: int = 1, payload: Any = None) -> None:
    for start in range(0, count, 1_000):
        events = [
            {"event_type": f"t{n % 2}", "partition_key": f"k{n % 10}", "payload": n if payload is None else payload}
            for n in range(start, min(count, start + 1_000))
        ]
        answer = await client.post(ALL, {"events": events, "partitions": partitions})
        assert answer.status == 200


def payloads(lines: bytes) -> list[Any]:
    return [json.loads(line)["payload"] for line in lines.splitlines()]


# ---------------------------------------------------------------------------------------------------------- pages


async def test_a_page_says_where_the_next_one_begins(client: EdgeClient) -> None:
    await produced(client, 250)
    seen, asked, query = [], 0, ""
    while True:
        answer = (await client.get(f"{ONE}?limit=60{query}")).json()
        assert answer["topic"] == "orders"
        seen += [event["payload"] for event in answer["events"]]
        asked += 1
        if answer["next_id"] is None:
            break
        query = f"&from_id={answer['next_id']}"
    assert seen == list(range(250))
    assert asked == 5


async def test_without_a_limit_a_page_has_a_hundred(client: EdgeClient) -> None:
    await produced(client, 101)
    assert len((await client.get(ONE)).json()["events"]) == 100


async def test_an_event_comes_as_it_was_sent(client: EdgeClient) -> None:
    payload = b'{ "n": [-0.0, 1e2, 1.50],  "\\u0041":"\\/" }'
    body = b'{"events":[{"event_type":"t\\u00e9","payload":%b,"timestamp_ms":7,"headers":{"a":"b"}}],"partitions":1}'
    assert (await client.post(ALL, body % payload)).status == 200
    for headers in ({}, {"Accept": NDJSON}):
        answer = await client.get(ONE, headers=headers)
        assert payload in answer.body
        event = json.loads(answer.body) if headers else answer.json()["events"][0]
        assert event == {
            "partition": 0, "redis_id": event["redis_id"], "event_type": "té", "partition_key": None,
            "payload": json.loads(payload), "timestamp_ms": 7, "headers": {"a": "b"},
        }  # fmt: skip


async def test_all_partitions_are_read_one_after_the_other(client: EdgeClient) -> None:
    await produced(client, 100, partitions=3)
    seen: list[tuple[int, str]] = []
    query = ""
    while True:
        answer = (await client.get(f"{ALL}?limit=7{query}")).json()
        seen += [(event["partition"], event["redis_id"]) for event in answer["events"]]
        if answer["next_id"] is None:
            break
        assert answer["next_id"].startswith(f"p{seen[-1][0]}@") or answer["next_id"].startswith(f"p{seen[-1][0] + 1}@")
        query = f"&from_id={quote(answer['next_id'])}"
    assert len(set(seen)) == 100
    assert [partition for partition, _ in seen] == sorted(partition for partition, _ in seen)


@pytest.mark.parametrize(
    ("query", "span"),
    [
        ("", Span()),
        ("from_id=5-3&to_id=9-0", Span(Position(5, 3), Position(9, 0))),
        ("from_ms=5&to_ms=9", Span(Position(5, 0), Position(9, END.seq))),
        ("from_id=5-3&to_ms=9", Span(Position(5, 3), Position(9, END.seq))),
        ("key=a%20b&event_type=x", Span(key="a b", event_type="x")),
        ("from_id=0-0", Span()),
        ("key=" + "%C3%BC" * 512, Span(key="ü" * 512)),
    ],
)
async def test_what_is_asked_for(client: EdgeClient, gateway: FakeGateway, query: str, span: Span) -> None:
    await produced(client, 1)
    assert (await client.get(f"{ONE}?{query}")).status == 200
    assert gateway.spans[-1] == (span, None)


async def test_a_place_stands_beside_the_time_that_bounds_every_partition(
    client: EdgeClient, gateway: FakeGateway
) -> None:
    await produced(client, 1, partitions=4)
    assert (await client.get(f"{ALL}?from_id=p3@5-0&from_ms=4")).status == 200
    assert gateway.spans[-1] == (Span(Position(4, 0)), Place(3, Position(5, 0)))


@pytest.mark.parametrize(
    ("path", "query", "where"),
    [
        (ONE, "from_id=5", "from_id"),
        (ONE, "from_id=p0@5-0", "from_id"),
        (ONE, "to_id=$", "to_id"),
        (ONE, "from_id=5-0%0a", "from_id"),
        (ONE, f"from_id={2**63}-0", "from_id"),
        (ONE, "from_id=5-0&from_ms=5", "from_ms"),
        (ONE, "to_id=5-0&to_ms=5", "to_ms"),
        (ONE, "key=a&key=b", "key"),
        (ALL, "from_id=5-0", "from_id"),
        (ALL, "from_id=p1@5", "from_id"),
        (ALL, "from_id=p12345@5-0", "from_id"),
        (ALL, f"from_id=p1@{2**63}-0", "from_id"),
    ],
)
async def test_what_cannot_be_is_pointed_at(client: EdgeClient, path: str, query: str, where: str) -> None:
    await produced(client, 1)
    (await client.get(f"{path}?{query}")).wrong_at("query", where)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (ONE, "limit=0"),
        (ONE, "limit=5001"),
        (ONE, "limit=x"),
        (ONE, "from_ms=-1"),
        (ONE, "from_ms=1.5"),
        (ONE, "key="),
        (ONE, "key=" + "x" * 1_025),
        (ONE, "form_id=5-0"),
        (ONE, "from_id=6-0&to_id=5-0"),
        (ONE, "from_ms=6&to_ms=5"),
        (ALL, "to_id=5-0"),
    ],
)
async def test_what_is_out_of_range_is_a_422(client: EdgeClient, path: str, query: str) -> None:
    await produced(client, 1)
    (await client.get(f"{path}?{query}")).wrong_at("query")


async def test_what_is_not_there_is_a_404(client: EdgeClient) -> None:
    (await client.get(ALL)).problem(404, "not-found")
    await produced(client, 1)
    for path in ("partitions/1/events", "partitions/x/events", "partitions/-1/events", f"partitions/{10**30}/events"):
        for headers in ({}, {"Accept": NDJSON}):
            (await client.get(f"/v1/topics/orders/{path}", headers=headers)).problem(404, "not-found")


async def test_what_is_gone_is_a_410_that_says_what_is_left(client: EdgeClient, gateway: FakeGateway) -> None:
    await produced(client, 1)
    for headers in ({}, {"Accept": NDJSON}):
        gateway.trouble = [Gone("dropped", topic="orders", partition=0, earliest_id=Position(7, 1))]
        found = (await client.get(f"{ONE}?from_id=5-0", headers=headers)).problem(410, "gone")
        assert (found["earliest_id"], found["topic"], found["partition"]) == ("7-1", "orders", 0)


@pytest.mark.parametrize("path", [ALL, ONE])
async def test_consumers_and_admins_read_and_producers_do_not(client: EdgeClient, path: str) -> None:
    await produced(client, 1)
    assert (await client.get(path, role=Role.CONSUMER)).status == 200
    (await client.get(path, role=Role.PRODUCER)).problem(403, "forbidden")
    (await client.get(path, role=Role.CONSUMER, topics=["other-*"])).problem(403, "forbidden")
    (await client.get(path, role=None)).problem(401, "unauthenticated")


async def test_the_description_shows_every_form_of_the_answer(client: EdgeClient) -> None:
    found = (await client.get("/openapi.json", role=None)).json()
    for path in ("/v1/topics/{topic}/events", "/v1/topics/{topic}/partitions/{partition}/events"):
        operation = found["paths"][path]["get"]
        assert set(operation["responses"]["200"]["content"]) == {"application/json", NDJSON, CLOUD_EVENTS}
        assert {"410", "404", "422", "503"} <= operation["responses"].keys()
        names = {one["name"] for one in operation["parameters"]}
        assert {"from_id", "from_ms", "to_ms", "limit", "key", "event_type"} <= names


# --------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (NDJSON, NDJSON),
        ("application/jsonl", "application/jsonl"),
        ("application/x-ndjson, */*;q=0.1", NDJSON),
        ("*/*", "application/json"),
        ("application/json, application/x-ndjson;q=0.5", "application/json"),
        ("text/html, */*;q=0.8", "application/json"),
    ],
)
async def test_lines_are_for_who_asks_for_them(client: EdgeClient, accept: str, media: str) -> None:
    await produced(client, 3)
    answer = await client.get(ONE, headers={"Accept": accept})
    assert answer.headers["Content-Type"] == media
    assert "Accept" in answer.headers["Vary"]
    assert len(answer.body.splitlines()) == (1 if media == "application/json" else 3)


async def test_a_stream_has_everything_and_no_limit(client: EdgeClient, gateway: FakeGateway) -> None:
    await produced(client, 7_500, partitions=2)
    answer = await client.get(ALL, headers={"Accept": NDJSON})
    assert sorted(payloads(answer.body)) == list(range(7_500))
    assert gateway.reading == 0
    (await client.get(f"{ALL}?limit=5", headers={"Accept": NDJSON})).wrong_at("query", "limit")


async def test_a_payload_with_line_breaks_stays_one_line(client: EdgeClient) -> None:
    spread = b'{\r\n  "a":\t"b\\nc"\n}'
    body = b'{"events":[{"event_type":"t","payload":%b},{"event_type":"t","payload":2}],"partitions":1}' % spread
    assert (await client.post(ALL, body)).status == 200
    assert payloads((await client.get(ONE, headers={"Accept": NDJSON})).body) == [{"a": "b\nc"}, 2]
    assert spread in (await client.get(ONE)).body, "byte for byte where it can be"


async def test_an_empty_range_is_an_empty_stream(client: EdgeClient) -> None:
    await produced(client, 3)
    answer = await client.get(f"{ONE}?from_ms=1&to_ms=2", headers={"Accept": NDJSON})
    assert (answer.status, answer.body) == (200, b"")


async def test_head_of_a_stream_reads_nothing(client: EdgeClient, gateway: FakeGateway) -> None:
    await produced(client, 3_000)
    answer = await client.send("HEAD", ONE, headers={"Accept": NDJSON})
    assert (answer.status, answer.body) == (200, b"")
    assert gateway.pages <= 1


def stream_request(client: EdgeClient, path: str = ONE, version: str = "1.1") -> bytes:
    return request("GET", path, token=client.token(), Accept=NDJSON, version=version)


async def cut_short(line: Wire) -> bytes:
    """The whole of an answer up to where its connection closes, which must not look like its end."""
    said = await line.rest()
    assert b"Transfer-Encoding: chunked".lower() in said.lower()
    assert not said.endswith(b"0\r\n\r\n")
    return said


async def test_a_stream_that_is_whole_says_so(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running, wire(running.port) as line:
        await produced(running.client, 5_000)
        await line.send(stream_request(running.client))
        answer = await line.answer()
        assert payloads(answer.body) == list(range(5_000))
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["cache-control"] == "no-store"
        await line.send(stream_request(running.client))
        assert len((await line.answer()).body) == len(answer.body), "and the connection goes on"


async def test_a_backend_that_goes_away_cuts_the_stream(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running:
        await produced(running.client, 5_000)
        with gateway.closed() as go_on:
            async with wire(running.port) as line:
                await line.send(stream_request(running.client))
                await until(lambda: gateway.reading == 1)
                gateway.trouble = [Unavailable("away", backend="postgres")]
                go_on()
                assert (await line.answer()).status == 503, "before the first line there still is a status"
        gateway.page_events = 1_000
        async with wire(running.port) as line:
            gateway.trouble_at_page = 3
            await line.send(stream_request(running.client))
            with anyio.fail_after(5):
                said = await cut_short(line)
            assert said.count(b'"redis_id"') == 3_000
        await until(lambda: running.server.describe()["in_flight"] == 0)


async def test_a_node_that_drains_cuts_its_streams_and_is_not_kept(serve: Any, gateway: FakeGateway) -> None:
    async with serve(grace=5.0) as running, wire(running.port) as line:
        await produced(running.client, 60_000)
        await line.send(stream_request(running.client))
        await until(lambda: gateway.pages > 5)
        running.ctx.ask_to_stop()
        with anyio.fail_after(4):
            await cut_short(line)
            await running.ended.wait()
    assert gateway.reading == 0


async def test_a_reader_that_takes_nothing_stops_the_reading_and_is_let_go(
    serve: Any, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "STALL", 0.5)
    async with serve() as running:
        await produced(running.client, 60_000, payload="x" * 400)  # 30 MB: more than sockets hold
        async with wire(running.port) as line:
            await line.send(stream_request(running.client))
            await until(lambda: gateway.pages > 0)
            await until(lambda: running.server.describe()["connections"] == 0, 10)
            assert gateway.pages < 600, "nobody read ahead of the reader"
            assert gateway.reading == 0
            await line.stream.aclose()
        await until(lambda: running.server.describe()["in_flight"] == 0)


async def test_a_slow_reader_gets_everything_at_its_own_pace(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running, wire(running.port) as line:
        await produced(running.client, 20_000, payload="x" * 400)
        await line.send(stream_request(running.client))
        await line.stream.receive(1_000)
        await until(lambda: gateway.pages > 0)
        seen = -1
        while seen != gateway.pages:  # until the sockets between us are full
            seen = gateway.pages
            await anyio.sleep(0.1)
        assert 0 < seen < 200
        with anyio.fail_after(20):
            assert (await line.stream.receive(1_000))[:1]
            rest = b""
            while not rest.endswith(b"0\r\n\r\n"):
                rest = rest[-5:] + await line.stream.receive()
        assert gateway.pages == 200


@pytest.mark.parametrize("reset", [False, True])
async def test_a_reader_that_leaves_frees_everything(serve: Any, gateway: FakeGateway, reset: bool) -> None:
    async with serve() as running:
        await produced(running.client, 30_000, payload="x" * 400)
        for _ in range(20):
            async with wire(running.port) as line:
                await line.send(stream_request(running.client))
                await line.stream.receive(100)
                if reset:
                    raw = line.stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        await until(lambda: running.server.describe()["connections"] + running.server.describe()["in_flight"] == 0)
        assert gateway.reading == 0
        assert running.client.app.extensions["openstream"].streams.open == 0


async def test_streams_have_a_bound_of_their_own(
    serve: Any, gateway: FakeGateway, meter: FakeMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_STREAMS", 2)
    async with serve() as running:
        await produced(running.client, 10)
        with gateway.closed():
            async with wire(running.port) as one, wire(running.port) as two, wire(running.port) as three:
                await one.send(stream_request(running.client))
                await two.send(stream_request(running.client))
                await until(lambda: gateway.reading == 2)
                await three.send(stream_request(running.client))
                answer = await three.answer()
                assert (answer.status, answer.json()["type"]) == (429, "/problems/overloaded")
                assert answer.headers["retry-after"] == "5"
                await three.send(request("GET", ONE, token=running.client.token()))
                assert (await three.answer()).status == 200, "pages are another matter"
        assert meter.rejections == ["streams"]
        await until(lambda: running.client.app.extensions["openstream"].streams.open == 0)
        async with wire(running.port) as line:
            await line.send(stream_request(running.client))
            assert (await line.answer()).status == 200


async def test_http_1_0_gets_no_stream_whose_end_it_could_not_tell(serve: Any) -> None:
    async with serve() as running, wire(running.port) as line:
        await produced(running.client, 1)
        await line.send(stream_request(running.client, version="1.0"))
        answer = await line.answer()
        assert (answer.status, answer.json()["type"]) == (505, "/problems/http-version")

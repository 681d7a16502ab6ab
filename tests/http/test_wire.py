"""Messages that no well-behaved client sends, on a real port."""

from __future__ import annotations

from typing import Any

import anyio
import httpx2
import pytest
from anyio import create_task_group, fail_after, sleep

from support.fake_gateway import FakeGateway
from support.wire import EVENTS, ONE, Wire, chunk, group, poll, request, until, wire

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def test_lines_stream_through_a_real_connection(serve: Any, gateway: FakeGateway) -> None:
    async def body() -> Any:
        for n in range(30):
            yield b"".join(b'{"event_type":"t","payload":"%d-%d"}\n' % (n, m) for m in range(1_000))

    async with serve(max_body_bytes=1 << 16) as running, httpx2.AsyncClient() as http:
        headers = {"Authorization": f"Bearer {running.client.token()}", "Content-Type": "application/x-ndjson"}
        answer = await http.post(f"http://127.0.0.1:{running.port}{EVENTS}", content=body(), headers=headers)
    assert len(answer.json()["results"]) == 30_000
    assert sum(gateway.appends) == 30_000


async def test_a_chunked_body_over_the_limit_is_a_413_and_not_read_to_its_end(serve: Any, gateway: FakeGateway) -> None:
    async with serve(max_body_bytes=10_000) as running, wire(running.port) as line:
        head = request(
            "POST", EVENTS, token=running.client.token(), Transfer_Encoding="chunked", Content_Type="application/json"
        )
        await line.send(head + chunk(b'{"events":"' + b"x" * 16_000))
        answer = await line.answer()
        assert (answer.status, answer.json()["type"]) == (413, "/problems/body-too-large")
        assert answer.headers["connection"] == "close"
        with fail_after(5):
            await line.rest()
    assert gateway.held == {}


async def test_a_client_that_goes_on_sending_still_gets_its_answer(serve: Any, gateway: FakeGateway) -> None:
    """Closing at once would reset the connection under the answer; not reading at all would hang the server."""
    async with serve(max_body_bytes=10_000) as running:
        for headers in ({}, {"Upgrade": "h2c"}, {"Authorization": "Bearer none"}):  # the app, the guard, the app
            async with wire(running.port) as line:
                size = 20 << 20
                head: dict[str, Any] = {"Authorization": f"Bearer {running.client.token()}"} | headers
                await line.send(
                    request("POST", EVENTS, Content_Length=str(size), Content_Type="application/json", **head)
                )

                async def push(line: Wire = line, size: int = size) -> None:
                    try:
                        for _ in range(size >> 16):
                            await line.send(b"x" * (1 << 16))
                    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                        pass

                with fail_after(10):
                    async with create_task_group() as sending:
                        sending.start_soon(push)
                        answer = await line.answer()
                        sending.cancel_scope.cancel()
                assert answer.status in {401, 413, 501}
                assert answer.headers["content-type"] == "application/problem+json"
        await until(lambda: running.server.describe()["connections"] == 0)


@pytest.mark.parametrize(
    ("message", "status", "slug"),
    [
        (request("POST", EVENTS, b"0\r\n\r\n", Transfer_Encoding="chunked"), 400, "malformed-request"),
        (request("GET", "/livez", Upgrade="websocket2", Connection="upgrade"), 501, "upgrade-refused"),
        (request("POST", EVENTS, b"{}", Upgrade="h2c", Connection="upgrade"), 501, "upgrade-refused"),
        (request("GET", "/v1/topics/" + "x" * 1_100), 414, "target-too-long"),
        (request("GET", "/livez?" + "x" * 4_200), 414, "target-too-long"),
        (request("GET", "/livez", X_Big="x" * 17_000), 431, "headers-too-large"),
        (request("GET", "http://elsewhere/livez"), 400, "malformed-request"),
        (request("GET", "?x"), 400, "malformed-request"),
    ],
    ids=[
        "both lengths",
        "upgrade",
        "h2c with a body",
        "long path",
        "long query",
        "17 KB header",
        "absolute",
        "no path",
    ],
)
async def test_what_no_route_should_see_is_refused_and_the_connection_closed(
    serve: Any, message: bytes, status: int, slug: str
) -> None:
    async with serve() as running, wire(running.port) as line:
        await line.send(message)
        with fail_after(5):
            answer = await line.answer()
            assert (answer.status, answer.json()["type"]) == (status, f"/problems/{slug}")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert await line.rest() == b""


@pytest.mark.parametrize(
    "message",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_400_or_501_and_closed(serve: Any, message: bytes) -> None:
    async with serve() as running, wire(running.port) as line:
        await line.send(message)
        with fail_after(5):
            assert (await line.answer()).status in {400, 501}
            assert await line.rest() == b""


async def test_http2_in_clear_text_is_refused(serve: Any) -> None:
    async with serve() as running, wire(running.port) as line:
        settings = "AAMAAABkAAQAoAAAAAIAAAAA"
        await line.send(
            request("GET", "/livez", Upgrade="h2c", Connection="Upgrade, HTTP2-Settings", HTTP2_Settings=settings)
            + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
        )
        with fail_after(5):
            data = b""
            while b"/problems/" not in data:
                data += await line.stream.receive()
        assert b"ok\n" not in data


async def test_a_websocket_is_refused(serve: Any) -> None:
    async with serve() as running, wire(running.port) as line:
        await line.send(
            request(
                "GET",
                "/",
                Upgrade="websocket",
                Connection="Upgrade",
                Sec_WebSocket_Version="13",
                Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
            )
        )
        with fail_after(5):
            answer = await line.answer()
        assert (answer.status, answer.json()["type"]) == (501, "/problems/upgrade-refused")


async def test_http_1_0_is_served_and_closed(serve: Any) -> None:
    async with serve() as running, wire(running.port) as line:
        await line.send(b"GET /livez HTTP/1.0\r\n\r\n")
        with fail_after(5):
            assert (await line.answer()).body == b"ok\n"
            assert await line.rest() == b""


async def test_a_body_that_comes_too_slowly_is_given_up(serve: Any, gateway: FakeGateway) -> None:
    async with serve(body_timeout=0.3) as running:
        for media in ("application/json", "application/x-ndjson"):
            async with wire(running.port) as line:
                head = request("POST", EVENTS, token=running.client.token(), Content_Length="1000", Content_Type=media)
                await line.send(head + ONE[:10])
                with fail_after(5):
                    answer = await line.answer()
                    assert (answer.status, answer.json()["type"]) == (408, "/problems/body-timeout")
                    await line.rest()
    assert gateway.held == {}


async def test_a_trickle_of_bytes_does_not_buy_time_for_ever(serve: Any) -> None:
    async with serve(body_timeout=0.3) as running, wire(running.port) as line:
        head = request(
            "POST", EVENTS, token=running.client.token(), Content_Length="100000", Content_Type="application/json"
        )
        await line.send(head)
        answers = []

        async def listen() -> None:
            answers.append(await line.answer())
            trickling.cancel_scope.cancel()

        with fail_after(10):
            async with create_task_group() as trickling:
                trickling.start_soon(listen)
                while True:
                    await line.send(b" ")
                    await sleep(0.02)
        assert answers[0].status == 408


async def test_pipelined_requests_are_answered_in_their_order(serve: Any) -> None:
    async with serve() as running, wire(running.port) as line:
        await group(running.client)
        await line.send(
            poll(running.client, 50)
            + request("GET", "/livez")
            + request("POST", EVENTS, ONE, token=running.client.token())
            + request("GET", "/nowhere")
        )
        with fail_after(10):
            statuses = [(await line.answer()).status for _ in range(4)]
    assert statuses == [200, 200, 200, 404]


async def test_requests_beyond_the_bound_are_turned_away_and_health_is_not(serve: Any, gateway: FakeGateway) -> None:
    async with serve(max_requests=2) as running:
        await group(running.client)
        async with wire(running.port) as one, wire(running.port) as two, wire(running.port) as three:
            await one.send(poll(running.client))
            await two.send(poll(running.client))
            await until(lambda: gateway.waiting == 2)
            await three.send(request("GET", "/v1/topics", token=running.client.token()))
            answer = await three.answer()
            assert (answer.status, answer.json()["type"]) == (503, "/problems/busy")
            assert answer.headers["retry-after"] == "1"
            await three.send(request("GET", "/livez"))
            assert (await three.answer()).status == 200
            gateway.drain()
            assert ((await one.answer()).status, (await two.answer()).status) == (200, 200)
            await three.send(request("GET", "/v1/topics", token=running.client.token()))
            assert (await three.answer()).status == 200

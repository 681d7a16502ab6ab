"""Bodies that are read no faster than they are used, and answers that are settled once."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart

from openstream_http.connection import ROOM, BoundedBody, Receipt
from openstream_http.guard import fault
from openstream_http.server import HttpServer
from openstream_runtime.gateway.results import Handout
from supervisors.context import Context
from support.edge import EdgeClient
from support.fake_gateway import FakeGateway
from support.wire import request, wire

pytestmark = pytest.mark.anyio


async def test_a_body_asks_for_more_only_when_there_is_room() -> None:
    body = BoundedBody(None, None)
    await body.room()
    body.append(b"x" * ROOM)
    with anyio.move_on_after(0.01) as waited:
        await body.room()
    assert waited.cancelled_caught
    assert await anext(body) == b"x" * ROOM
    await body.room()
    body.append(b"y")
    body.set_complete()
    assert [piece async for piece in body] == [b"y"]


async def test_a_body_wakes_whoever_waits_for_it() -> None:
    body = BoundedBody(None, None)
    pieces: list[bytes] = []

    async def read() -> None:
        async for piece in body:
            pieces.append(piece)  # noqa: PERF401 - as they come

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            for piece in (b"a", b"", b"b"):
                body.append(piece)
                await anyio.wait_all_tasks_blocked()
            body.set_complete()
    assert pieces == [b"a", b"b"]


async def test_a_body_can_be_had_whole() -> None:
    body = BoundedBody(None, None)
    body.set_result(b"whole")
    assert await body == b"whole"


async def test_a_discarded_body_keeps_nothing_and_always_has_room() -> None:
    body = BoundedBody(None, None)
    body.append(b"x" * ROOM)
    body.discard()
    body.append(b"x" * ROOM)
    await body.room()
    body.set_complete()
    assert [piece async for piece in body] == []


class Told:
    def __init__(self) -> None:
        self.words: list[str] = []
        self.handout = Handout((), lambda: self.words.append("arrived"), lambda: self.words.append("given back"))


async def test_an_answer_that_was_handed_over_has_arrived() -> None:
    told = Told()
    receipt = Receipt(b"data", told.handout)
    async with receipt as body:
        assert [piece async for piece in body] == [b"data"]
        assert told.words == []
    receipt.settle()
    assert told.words == ["arrived"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
async def test_an_answer_that_failed_is_given_back(error: type[BaseException]) -> None:
    told = Told()
    receipt = Receipt(b"data", told.handout)
    with pytest.raises(error):
        async with receipt:
            raise error
    receipt.settle(arrived=True)
    assert told.words == ["given back"]


async def test_a_disconnect_that_is_known_when_the_answer_is_handed_over_gives_it_back() -> None:
    told = Told()
    with anyio.CancelScope() as scope:
        async with Receipt(b"data", told.handout):
            scope.cancel()
    assert told.words == ["given back"]


async def test_events_that_cannot_be_rendered_are_given_back(client: EdgeClient, gateway: FakeGateway) -> None:
    await client.put("/v1/topics/orders")
    await client.post("/v1/topics/orders/groups", {"group": "g"})
    await client.post("/v1/topics/orders/events", {"events": [{"event_type": "t", "payload": 1}]})
    for log in gateway.held["orders"].log:
        for place, event in enumerate(log):
            log[place] = type(event)(event.position, event.event_type, None, None, 0)  # type: ignore[arg-type]
    answer = await client.post("/v1/topics/orders/groups/g/read", {"consumer": "c", "block_ms": 0})
    answer.problem(500, "internal-error")
    assert (gateway.arrived, gateway.given_back) == (0, 1)


def scope(**changes: Any) -> dict[str, Any]:
    return {
        "type": "http", "method": "GET", "path": "/livez", "raw_path": b"/livez", "query_string": b"", "headers": [],
        "http_version": "1.1", "scheme": "http", "extensions": {},
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"headers": [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"1")]}, 400),
        ({"headers": [(b"transfer-encoding", b"gzip")]}, 400),
        ({"headers": [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")]}, 400),
        ({"headers": [(b"http2-settings", b"x")]}, 501),
        ({"http_version": "2"}, 505),
        ({"raw_path": b"*"}, 400),
        ({"raw_path": b"/" * 1025}, 414),
        ({"query_string": b"x" * 4097}, 414),
        ({"headers": [(b"x", b"y" * 100)] * 170}, 431),
    ],
    ids=str,
)
def test_a_message_with_a_fault_is_told_which(changes: dict[str, Any], status: int) -> None:
    found = fault(scope(**changes))
    assert found is not None
    assert found.status == status


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"headers": [(b"transfer-encoding", b"Chunked")]},
        {"http_version": "2", "scheme": "https"},
        {"http_version": "1.0"},
        {"method": "OPTIONS", "raw_path": b"*"},
        {"raw_path": b"/" * 1024, "query_string": b"x" * 4096},
        {"raw_path": b""},
    ],
    ids=str,
)
def test_a_message_without_a_fault_goes_on(changes: dict[str, Any]) -> None:
    assert fault(scope(**changes)) is None


async def test_a_websocket_is_closed_where_the_server_knows_no_other_answer(app: Quart) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app.asgi_app(scope(type="websocket"), receive, send)  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_hypercorn_used_by_somebody_else_is_not_disturbed(app: Quart) -> None:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    listener = config.create_sockets().insecure_sockets[0]
    port = listener.getsockname()[1]
    config.bind = [f"fd://{listener.detach()}"]
    stop = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: serve(app, config, shutdown_trigger=stop.wait))
        with anyio.fail_after(5):
            while True:
                try:
                    async with wire(port) as line:
                        await line.send(request("GET", "/livez"))
                        assert (await line.answer()).body == b"ok\n"
                        break
                except OSError:
                    await anyio.sleep(0.01)
        stop.set()


async def test_hypercorn_tripping_over_its_own_cancellation_is_an_end_only_when_it_was_asked_to(
    app: Quart, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def trip(*_: Any, shutdown_trigger: Any) -> None:
        if wait:
            await shutdown_trigger()
        raise anyio.get_cancelled_exc_class()

    monkeypatch.setattr("openstream_http.server.serve", trip)
    wait = True
    ctx = Context("http")
    async with anyio.create_task_group() as group:
        group.start_soon(HttpServer(app, host="127.0.0.1", port=0, grace=0).run, ctx)
        await ctx.started.wait()
        ctx.ask_to_stop()
    wait = False
    with pytest.raises(anyio.get_cancelled_exc_class()):
        await HttpServer(app, host="127.0.0.1", port=0, grace=0).run(Context("http"))

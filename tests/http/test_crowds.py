"""How many may be connected, for how long, and who has to go: on a real port, in seconds.

The crowd of ten thousand is in tests/integration/test_crowds.py.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import pytest

from openstream_http import server
from openstream_http.port import affordable
from support.fake_gateway import FakeGateway
from support.wire import Wire, group, poll, request, until, wire

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def connections(running: Any) -> int:
    found: int = running.server.describe()["connections"]
    return found


@pytest.mark.parametrize("sent", ["nothing", "a request", "half a request", "half a body", "a poll"])
async def test_a_client_that_has_left_is_not_kept(serve: Any, sent: str) -> None:
    """Long before the time after which it would have been idle for too long."""
    async with serve() as running:
        await group(running.client)
        async with wire(running.port) as line:
            await line.send(
                {
                    "nothing": b"",
                    "a request": request("GET", "/livez"),
                    "half a request": request("GET", "/livez")[:-2],
                    "half a body": request("POST", "/v1/topics/orders/events", token="x", Content_Length="9") + b"{",
                    "a poll": poll(running.client),
                }[sent]
            )
            if sent == "a request":
                assert (await line.answer()).status == 200
            await until(lambda: connections(running) == 1)
        await until(lambda: connections(running) == 0, server.KEEP_ALIVE / 2)


async def test_whoever_sends_nothing_makes_room_for_whoever_comes(serve: Any) -> None:
    async with serve(max_connections=4) as running, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(wire(running.port)) for _ in range(4)]
        await until(lambda: connections(running) == 4)
        lines = [await stack.enter_async_context(wire(running.port)) for _ in range(2)]
        for line in lines:
            await line.send(request("GET", "/livez"))
            assert (await line.answer()).body == b"ok\n"
        for gone in silent[:2]:
            with anyio.fail_after(5):
                assert await gone.rest() == b""
        # Those that came later than the ones that had to go are still served.
        await silent[3].send(request("GET", "/livez"))
        assert (await silent[3].answer()).status == 200
        assert (connections(running), running.server.describe()["ended_idle"]) == (4, 2)


async def test_whoever_was_served_and_asks_for_nothing_more_makes_room_too_and_is_not_the_first(serve: Any) -> None:
    async with serve(max_connections=2) as running, AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(wire(running.port)) for _ in range(2)]
        await until(lambda: connections(running) == 2)
        await first.send(request("GET", "/livez"))
        assert (await first.answer()).status == 200  # idle since now: for shorter than the second
        third = await stack.enter_async_context(wire(running.port))
        await third.send(request("GET", "/livez"))
        assert (await third.answer()).status == 200
        assert await second.rest() == b""
        await first.send(request("GET", "/livez"))
        assert (await first.answer()).status == 200


async def test_nobody_who_is_being_served_has_to_go_and_one_too_many_is_told_so(
    serve: Any, gateway: FakeGateway
) -> None:
    async with serve(max_connections=3) as running, AsyncExitStack() as stack:
        await group(running.client)
        polls: list[Wire] = []
        for number in range(3):
            polls.append(await stack.enter_async_context(wire(running.port)))
            await polls[-1].send(poll(running.client))
            await until(lambda number=number: gateway.waiting == number + 1)  # type: ignore[misc]
        async with wire(running.port) as late:
            with anyio.fail_after(5):
                answer = await late.answer()
                assert await late.rest() == b""
        assert (answer.status, answer.json()["type"]) == (503, "/problems/busy")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["connection"] == "close"
        assert running.server.describe() | {"port": 0} == {
            "port": 0, "connections": 3, "ended_idle": 0, "turned_away": 1, "in_flight": 3,
        }  # fmt: skip
        gateway.drain()
        for line in polls:
            assert (await line.answer()).status == 200
        async with wire(running.port) as again:
            await again.send(request("GET", "/livez"))
            assert (await again.answer()).status == 200


async def test_headers_that_drip_are_waited_for_as_long_as_silence_and_no_longer(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE", 0.5)

    async def drip(data: bytes) -> None:
        async with wire(running.port) as line:
            for byte in data:
                try:
                    await line.send(bytes([byte]))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return
                await anyio.sleep(0.05)
            raise AssertionError("a request line took longer than the server waits, and it waited")

    async with serve() as running:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as slow:
                for _ in range(20):
                    slow.start_soon(drip, request("GET", "/livez", X_Slow="x" * 1_000))
        await until(lambda: connections(running) == 0)


async def test_a_second_request_that_drips_is_waited_for_no_longer_than_the_first(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE", 0.5)
    async with serve() as running, wire(running.port) as line:
        await line.send(request("GET", "/livez") + b"GET /li")
        assert (await line.answer()).status == 200
        with anyio.fail_after(10):
            assert await line.rest() == b""


@pytest.mark.parametrize(
    "message",
    [
        b"G" * 100_000,
        b"GET /" + b"x" * 100_000,
        b"GET /livez HTTP/1.1\r\n" + b"x" * 100_000,
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000,
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000,
        b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 100_000,
        b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 100_000,
        b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 100_000,
    ],
    ids=["method", "path", "name", "value", "many", "chunk's size", "chunk's extension", "trailer"],
)
async def test_what_has_no_end_is_not_waited_for(serve: Any, message: bytes) -> None:
    async with serve() as running, wire(running.port) as line:
        with anyio.fail_after(10):
            with suppress(anyio.BrokenResourceError):
                await line.send(message)
            data = await line.rest()
            assert data == b"" or data.split()[1] in {b"400", b"405", b"413", b"431"}, data[:200]
        await until(lambda: connections(running) == 0)


@pytest.mark.parametrize("soft", [64, 1_024, 100_000])
async def test_connections_leave_files_for_everything_else(monkeypatch: pytest.MonkeyPatch, soft: int) -> None:
    limits = [(soft, soft)]
    monkeypatch.setattr("resource.getrlimit", lambda _: limits[-1])
    monkeypatch.setattr("resource.setrlimit", lambda _, new: limits.append(new))
    assert affordable(10_000) == max(1, min(10_000, soft - 256))
    assert limits[-1] == (soft, soft)


async def test_the_limit_on_files_is_raised_as_far_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1_024, 4_096)]
    monkeypatch.setattr("resource.getrlimit", lambda _: limits[-1])
    monkeypatch.setattr("resource.setrlimit", lambda _, new: limits.append(new))
    assert affordable(1_000) == 1_000
    assert limits[-1] == (1_256, 4_096)
    assert affordable(10_000) == 4_096 - 256
    assert limits[-1] == (4_096, 4_096)

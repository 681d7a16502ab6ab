"""The server on a real port: consumers that leave, stopping with everything open, listening."""

from __future__ import annotations

import socket
from typing import Any

import anyio
import httpx2
import pytest
from anyio import create_task_group, fail_after

from openstream_http.app import create_app
from openstream_http.port import CannotListen
from openstream_http.server import HttpServer
from supervisors.context import Context
from support.edge import settings_of
from support.fake_gateway import FakeGateway
from support.wire import EVENTS, ONE, READ, group, poll, request, until, wire

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def test_an_ordinary_client_is_served_over_one_connection(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running, httpx2.AsyncClient(base_url=f"http://127.0.0.1:{running.port}") as http:
        headers = {"Authorization": f"Bearer {running.client.token()}", "Content-Type": "application/json"}
        for _ in range(3):
            answer = await http.post(EVENTS, content=ONE, headers=headers)
            assert answer.status_code == 200
            assert answer.json()["topic"] == "orders"
        assert "server" not in answer.headers
        quiet = {"connections": 1, "ended_idle": 0, "turned_away": 0, "in_flight": 0}
        await until(lambda: running.server.describe() == {"port": running.port} | quiet)
    assert len(gateway.events("orders")) == 3


async def test_a_consumer_that_leaves_in_the_middle_of_a_poll_loses_nothing(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running:
        await group(running.client)
        async with wire(running.port) as line:
            await line.send(poll(running.client))
            await until(lambda: gateway.waiting == 1)
        await until(lambda: gateway.cancelled == 1)
        await running.client.post(EVENTS, ONE)
        answer = await running.client.post(READ, {"consumer": "d", "block_ms": 0})
        assert [event["deliveries"] for event in answer.json()["events"]] == [1]


async def test_a_half_closed_poll_is_a_client_that_left(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running:
        await group(running.client)
        async with wire(running.port) as line:
            await line.send(poll(running.client))
            await until(lambda: gateway.waiting == 1)
            await line.stream.send_eof()
            await until(lambda: gateway.cancelled == 1)


@pytest.mark.parametrize("reset", [False, True])
async def test_whoever_leaves_just_before_its_answer_gets_its_events_given_back_or_has_them(
    serve: Any, gateway: FakeGateway, reset: bool
) -> None:
    """The race at every distance: an event is appended while the client leaves. Each handout is settled once."""
    async with serve() as running:
        await group(running.client)
        for turn in range(30):
            async with wire(running.port) as line:
                if reset:
                    raw = line.stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - not Django
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                await line.send(poll(running.client))
                await until(lambda: gateway.waiting == 1)
                async with create_task_group() as race:
                    race.start_soon(running.client.post, EVENTS, ONE)
                    for _ in range(turn):
                        await anyio.lowlevel.checkpoint()
                    race.start_soon(line.stream.aclose)
            await until(lambda: running.server.describe()["in_flight"] == 0)
            # Either it went out, or whoever reads next has it now and it counts as never handed out.
            known = gateway.held["orders"].groups["g"]
            released = sum(map(len, known.released.values()))
            assert released in {0, 1}
            answer = await running.client.post(READ, {"consumer": "d", "block_ms": 0})
            found = answer.json()["events"]
            assert len(found) in {0, 1}
            assert all(event["deliveries"] == 1 for event in found)
            handed = gateway.arrived + gateway.given_back + gateway.cancelled
            assert handed == 2 * (turn + 1), "every read was settled exactly once"
        assert gateway.given_back + gateway.cancelled > 0


async def test_a_client_that_left_while_its_answer_was_made_gets_it_given_back(
    serve: Any, gateway: FakeGateway
) -> None:
    """Held between the handout and the sending, where a disconnect is already known."""
    async with serve() as running:
        await group(running.client)
        await running.client.post(EVENTS, ONE)
        app = running.client.app
        made, go = anyio.Event(), anyio.Event()

        async def hold(response: Any) -> Any:
            if not go.is_set():
                made.set()
                await go.wait()
            return response

        app.after_request_funcs[None].append(hold)
        async with wire(running.port) as line:
            await line.send(poll(running.client, 0))
            with fail_after(5):
                await made.wait()
        await until(lambda: gateway.given_back == 1)
        go.set()
        assert gateway.arrived == 0
        answer = await running.client.post(READ, {"consumer": "d", "block_ms": 0})
        assert [event["deliveries"] for event in answer.json()["events"]] == [1]


async def test_stopping_answers_polls_lets_requests_finish_and_returns_promptly(
    serve: Any, gateway: FakeGateway
) -> None:
    async with serve(grace=20.0) as running:
        await group(running.client)
        with gateway.closed() as let_go:
            async with wire(running.port) as polling, wire(running.port) as producing, wire(running.port) as idle:
                await polling.send(poll(running.client))
                await producing.send(request("POST", EVENTS, ONE, token=running.client.token()))
                await idle.send(request("GET", "/livez"))
                await idle.answer()
                await until(lambda: gateway.waiting == 1 and running.server.describe()["in_flight"] == 2)
                running.ctx.ask_to_stop()
                with fail_after(5):
                    assert (await polling.answer()).json()["events"] == []
                    assert await idle.rest() == b""
                    assert not running.ended.is_set()
                    let_go()
                    assert (await producing.answer()).status == 200
                    await running.ended.wait()
        with pytest.raises(OSError, match=r"."):
            await anyio.connect_tcp("127.0.0.1", running.port)


async def test_while_it_says_goodbye_every_request_is_served_and_its_connection_told_to_end(
    serve: Any, gateway: FakeGateway
) -> None:
    async with serve(grace=20.0) as running:
        produce = request("POST", EVENTS, ONE, token=running.client.token())
        async with wire(running.port) as kept, wire(running.port) as silent:
            await kept.send(produce)
            assert "connection" not in (await kept.answer()).headers
            running.ctx.ask_to_stop()
            await until(lambda: gateway.draining)
            await kept.send(produce)
            answer = await kept.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await kept.rest() == b""
            async with wire(running.port) as late:  # a load balancer that has not looked yet
                await late.send(produce)
                assert (await late.answer()).status == 200
            with fail_after(5):
                assert await silent.rest() == b""
                await running.ended.wait()
    assert len(gateway.events("orders")) == 3


async def test_what_does_not_end_within_the_grace_is_cut(serve: Any, gateway: FakeGateway) -> None:
    async with serve(grace=0.2) as running:
        with gateway.closed():
            async with wire(running.port) as stuck, wire(running.port) as deaf:
                await stuck.send(request("POST", EVENTS, ONE, token=running.client.token()))
                # A client that asks and never reads: its answers fill every buffer on the way.
                asset = request("GET", "/docs/assets/swagger-ui-bundle.js")
                await deaf.send(asset * 20)
                await until(lambda: running.server.describe()["in_flight"] == 2)
                running.ctx.ask_to_stop()
                with fail_after(10):
                    await running.ended.wait()
                    assert await stuck.rest() == b""
    assert running.server.describe()["connections"] == 0
    assert running.server.describe()["in_flight"] == 0


async def test_a_taken_port_is_a_clear_error_and_the_actor_is_never_ready(gateway: FakeGateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = HttpServer(create_app(gateway, settings_of()), host="127.0.0.1", port=port, grace=1)
        ctx = Context("http")
        with pytest.raises(CannotListen, match=f"port {port}: it is in use already"):
            await server.run(ctx)
        assert not ctx.started.is_set()


async def test_an_address_that_is_none_is_a_clear_error(gateway: FakeGateway) -> None:
    for host in ("256.1.1.1.invalid", "192.0.2.1"):
        server = HttpServer(create_app(gateway, settings_of()), host=host, port=0, grace=1)
        with pytest.raises(CannotListen, match=host):
            await server.run(Context("http"))


async def test_whoever_connects_as_soon_as_it_is_ready_is_served(gateway: FakeGateway) -> None:
    told: list[tuple[str, int]] = []
    server = HttpServer(
        create_app(gateway, settings_of()), host="localhost", port=0, grace=1,
        on_listening=lambda host, port: told.append((host, port)),
    )  # fmt: skip
    assert server.describe() == dict.fromkeys(("port", "connections", "ended_idle", "turned_away", "in_flight"), 0)
    ctx = Context("http")
    async with create_task_group() as group_:
        group_.start_soon(server.run, ctx)
        await ctx.started.wait()
        assert told == [("localhost", server.port)]
        async with await anyio.connect_tcp("localhost", server.port) as stream:
            await stream.send(request("GET", "/livez"))
            assert (await stream.receive()).startswith(b"HTTP/1.1 200")
        ctx.ask_to_stop()


async def test_a_supervisor_can_start_it_again_on_the_same_port(gateway: FakeGateway) -> None:
    port = 0
    for _ in range(3):
        server = HttpServer(create_app(gateway, settings_of()), host="127.0.0.1", port=port, grace=1)
        ctx = Context("http")
        async with create_task_group() as group_:
            group_.start_soon(server.run, ctx)
            await ctx.started.wait()
            port = server.port
            async with wire(port) as line:
                await line.send(request("GET", "/livez"))
                assert (await line.answer()).status == 200
                ctx.ask_to_stop()

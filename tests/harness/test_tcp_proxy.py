"""The proxy does to a connection what it says, and nothing before or after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from support.tcp_proxy import TcpProxy, tcp_proxy

pytestmark = pytest.mark.anyio
LONG_S = 10.0
SHORT_S = 0.2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[TcpProxy, list[bytes], SocketStream]]:
    """A server that says everything twice, what it heard, and a client that talks to it through a proxy."""
    heard: list[bytes] = []

    async def serve(stream: SocketStream) -> None:
        async with stream:
            async for data in stream:
                heard.append(data)
                await stream.send(data * 2)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - no Django here
        async with tcp_proxy("127.0.0.1", port) as proxy, await anyio.connect_tcp("127.0.0.1", proxy.port) as client:
            with anyio.fail_after(LONG_S):
                yield proxy, heard, client
        tasks.cancel_scope.cancel()


async def receive(client: SocketStream, number: int) -> bytes:
    got = b""
    while len(got) < number:
        got += await client.receive(number - len(got))
    return got


async def nothing_comes(client: SocketStream) -> bool:
    with anyio.move_on_after(SHORT_S):
        await client.receive()
        return False
    return True


async def test_it_passes_everything_on() -> None:
    async with echoing() as (_, heard, client):
        await client.send(b"hello")
        assert await receive(client, 10) == b"hellohello"
        assert b"".join(heard) == b"hello"


async def test_a_stall_holds_back_both_ways_or_only_answers_until_it_ends() -> None:
    async with echoing() as (proxy, heard, client):
        proxy.stall()
        await client.send(b"one")
        assert await nothing_comes(client)
        assert heard == []
        proxy.resume()
        assert await receive(client, 6) == b"oneone"
        proxy.stall(answers_only=True)
        await client.send(b"two")
        assert await nothing_comes(client)
        assert b"".join(heard) == b"onetwo"
        proxy.resume()
        assert await receive(client, 6) == b"twotwo"


async def test_a_trickle_lets_everything_pass_slowly() -> None:
    async with echoing() as (proxy, _, client):
        proxy.trickle = 1_000
        began = anyio.current_time()
        await client.send(b"x" * 200)
        assert await receive(client, 400) == b"x" * 400
        assert anyio.current_time() - began > 0.3  # 200 bytes there, and then 400 at 1,000 a second


async def test_a_reset_ends_a_connection_in_the_middle_of_an_answer() -> None:
    async with echoing() as (proxy, heard, client):
        await client.send(b"1234")
        await receive(client, 8)
        proxy.reset_after(3)
        await client.send(b"abcd")
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await receive(client, 8)
        assert b"".join(heard) == b"1234abcd"
        assert proxy.cuts == 1
        async with await anyio.connect_tcp("127.0.0.1", proxy.port) as other:
            await other.send(b"again")
            assert await receive(other, 10) == b"againagain"


async def test_a_cut_is_after_the_pattern_with_or_without_it_delivered() -> None:
    for delivered in (True, False):
        async with echoing() as (proxy, heard, client):
            proxy.cut_after(b"COMMIT", delivered=delivered)
            await client.send(b"COM")
            await receive(client, 6)
            await client.send(b"MIT")
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await receive(client, 6)
            assert b"".join(heard) == (b"COMMIT" if delivered else b"COM")
            assert proxy.cuts == 1

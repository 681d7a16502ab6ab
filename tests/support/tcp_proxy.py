"""A TCP proxy on loopback that can be slow, stall, refuse and cut: what networks do and `kill` does not.

    async with tcp_proxy("127.0.0.1", 5432) as proxy:
        proxy.cut_after(b"COMMIT")      # the server gets it and acts on it; its answer never arrives
        proxy.stall(); proxy.resume()

It knows no protocol. A pattern is looked for in what a client sends, also across packets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from socket import SO_LINGER, SOL_SOCKET
from struct import pack

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

_ENDS = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
#: How long a cut waits for the server's answer, which it then swallows: it shows that the server has acted.
_ANSWER_S = 5.0
_TICK_S = 0.02


@dataclass(slots=True)
class _Cut:
    pattern: bytes
    delivered: bool
    left: int


@dataclass(slots=True)
class _Link:
    client: SocketStream
    server: SocketStream
    #: Once there, the server's answers end here; set when one came.
    swallowed: anyio.Event | None = None


class TcpProxy:
    """Made by `tcp_proxy`. Counters are for asserting that the trouble really happened."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = 0
        #: Seconds each packet waits, in both directions.
        self.delay = 0.0
        #: Bytes a second that pass, for each connection and direction; None: as many as come.
        self.trickle: float | None = None
        #: New connections are accepted and closed at once.
        self.refusing = False
        self.connections = 0
        self.cuts = 0
        #: What moves, from clients to the server and back.
        self._requests, self._answers = anyio.Event(), anyio.Event()
        self._requests.set()
        self._answers.set()
        self._cut: _Cut | None = None
        #: Bytes of answers until the connection that carries them is reset; None: never.
        self._reset_in: int | None = None
        self._stall_at: bytes | None = None
        self._open: set[ByteStream] = set()

    def cut_after(self, pattern: bytes, *, delivered: bool = True, times: int = 1) -> None:
        """Cut the connection whose client sends the pattern, the next `times` times.

        `delivered`: the server gets the packet with the pattern and answers, only the answer is lost. Otherwise the
        packet is lost as well.
        """
        self._cut = _Cut(pattern, delivered, times)

    def stall_after(self, pattern: bytes) -> None:
        """Stall everything once a client sends the pattern; the packet with it does not arrive before `resume`."""
        self._stall_at = pattern

    def stall(self, *, answers_only: bool = False) -> None:
        """Nothing moves any more, or nothing that the server says, and no connection is closed."""
        if self._answers.is_set():
            self._answers = anyio.Event()
        if not answers_only and self._requests.is_set():
            self._requests = anyio.Event()

    def resume(self) -> None:
        self._requests.set()
        self._answers.set()

    def reset_after(self, number: int) -> None:
        """Reset (RST) the connection whose server says the byte of that number, counted over all of them from now."""
        self._reset_in = number

    async def cut_all(self) -> None:
        """Close every connection that is open, at both ends."""
        for stream in list(self._open):
            await anyio.aclose_forcefully(stream)

    async def _serve(self, client: SocketStream) -> None:
        self.connections += 1
        if self.refusing:
            await anyio.aclose_forcefully(client)
            return
        try:
            server = await anyio.connect_tcp(*self._target)
        except OSError:
            await anyio.aclose_forcefully(client)
            return
        self._open |= {client, server}
        try:
            async with anyio.create_task_group() as both:
                link = _Link(client, server)
                both.start_soon(self._upstream, link, both.cancel_scope)
                both.start_soon(self._downstream, link, both.cancel_scope)
        finally:
            self._open -= {client, server}
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(client)
                await anyio.aclose_forcefully(server)

    async def _upstream(self, link: _Link, scope: anyio.CancelScope) -> None:
        tail = b""
        with suppress(*_ENDS):
            while True:
                data = await link.client.receive()
                if self._stall_at is not None and self._stall_at in data:
                    self._stall_at = None
                    self.stall()
                await self._wait(requests=True)
                cut = self._cut
                if cut is not None and cut.left > 0:
                    if cut.pattern in tail + data:
                        cut.left -= 1
                        self.cuts += 1
                        if cut.delivered:
                            link.swallowed = anyio.Event()
                            await link.server.send(data)
                            with anyio.move_on_after(_ANSWER_S):
                                await link.swallowed.wait()
                        break
                    tail = (tail + data)[-len(cut.pattern) :]
                await self._send(link.server, data)
        scope.cancel()

    async def _downstream(self, link: _Link, scope: anyio.CancelScope) -> None:
        with suppress(*_ENDS):
            while True:
                data = await link.server.receive()
                if link.swallowed is not None:
                    link.swallowed.set()
                    continue
                await self._wait(requests=False)
                left, self._reset_in = self._reset_in, _less(self._reset_in, len(data))
                if left is not None and left <= len(data):
                    self._reset_in = None
                    self.cuts += 1
                    await link.client.send(data[:left])
                    # What is closed with no time to linger is reset.
                    link.client.extra(SocketAttribute.raw_socket).setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))  # noqa: S610 - no Django here
                    break
                await self._send(link.client, data)
        scope.cancel()

    async def _wait(self, *, requests: bool) -> None:
        if self.delay:
            await anyio.sleep(self.delay)
        while not (self._requests if requests else self._answers).is_set():
            await (self._requests if requests else self._answers).wait()

    async def _send(self, to: SocketStream, data: bytes) -> None:
        """All at once, or in the small pieces that a trickle lets pass."""
        while data:
            rate = self.trickle
            piece = len(data) if rate is None else max(1, int(rate * _TICK_S))
            await to.send(data[:piece])
            data = data[piece:]
            if rate is not None:
                await anyio.sleep(_TICK_S)


def _less(number: int | None, by: int) -> int | None:
    return None if number is None else number - by


@asynccontextmanager
async def tcp_proxy(host: str, port: int) -> AsyncIterator[TcpProxy]:
    """A proxy in front of (host, port), listening on `proxy.port` of loopback."""
    proxy = TcpProxy(host, port)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        proxy.port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - no Django here
        tasks.start_soon(listener.serve, proxy._serve)
        try:
            yield proxy
        finally:
            tasks.cancel_scope.cancel()

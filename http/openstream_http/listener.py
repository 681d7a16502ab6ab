"""Hypercorn's connections, known one by one: counted, bounded, and none outlives the server or its client's interest.

Hypercorn leaves a connection to itself once it is accepted. From Python 3.12.1 on it then waits for every one of them
for ever when it stops, and nothing it offers can bound their number, end one whose client does not read, or keep it
from HTTP/2 in clear text. So the classes it makes connections of are replaced by these.
"""

from __future__ import annotations

import hypercorn.asyncio.run
import hypercorn.protocol
from anyio import move_on_after
from h11 import Request
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.protocol.h11 import H11Protocol

from openstream_http.problems import BUSY, Problem

#: Seconds a client may take to make room for what we have for it: pieces of 64 KiB at most, so about 1 KB a second.
STALL = 60.0


class ServerConfig(Config):
    """Hypercorn's settings, and the connections made under them."""

    def __init__(self, max_connections: int) -> None:
        super().__init__()
        self.max_connections = max_connections
        self.connections: set[KnownConnection] = set()
        #: Those that ask for nothing at the moment, for longest first.
        self.idle: dict[KnownConnection, None] = {}
        #: Ended while they were idle to make room; turned away because none was.
        self.ended_idle = self.turned_away = 0

    def make_room(self) -> bool:
        """Whether one more may come in. Whoever sends nothing keeps nobody out: the one idle for longest has to go."""
        while len(self.connections) >= self.max_connections:
            longest = next(iter(self.idle), None)
            if longest is None:
                self.turned_away += 1
                return False
            self.ended_idle += 1
            self.forget(longest)
            longest.abort()
        return True

    def forget(self, connection: KnownConnection) -> None:
        self.connections.discard(connection)
        self.idle.pop(connection, None)

    def abort_connections(self) -> int:
        """End every connection at once, without a word; how many there were."""
        connections = list(self.connections)
        for connection in connections:
            connection.abort()
        return len(connections)


class KnownConnection(TCPServer):
    """A connection that its server knows of."""

    #: Whether a request has come over it.
    asked = False

    async def run(self) -> None:
        config = self.config
        if not isinstance(config, ServerConfig):  # a Hypercorn of somebody else in this process
            await super().run()
            return
        if not config.make_room():
            self.writer.write(_busy())
            await self._close()
            return
        config.connections.add(self)
        config.idle[self] = None
        try:
            await super().run()
        finally:
            config.forget(self)

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            event = Updated(idle=event.idle and not self.reader.at_eof())
            self._note(event.idle)
        with move_on_after(STALL) as patience:
            await super().protocol_send(event)
        # Not `cancelled_caught`: closing, Hypercorn takes the cancellation for the end it waited for.
        if patience.cancel_called:
            self.abort()

    async def _read_data(self) -> None:
        await super()._read_data()
        # The client has left. Hypercorn would keep its connection, and the file, until it had been idle for long.
        await self.idle_task.stop()

    def _note(self, is_idle: bool) -> None:
        self.asked = self.asked or not is_idle
        if isinstance(self.config, ServerConfig):
            self.config.idle.pop(self, None)
            if is_idle and self in self.config.connections:
                self.config.idle[self] = None

    def abort(self) -> None:
        self.writer.transport.abort()


class Http1(H11Protocol):
    """HTTP/1.1 that stays it: HTTP/2 in clear text would come past every limit that is set on connections here."""

    async def _check_protocol(self, event: Request) -> None:
        if not isinstance(self.config, ServerConfig):
            await super()._check_protocol(event)


def _busy() -> bytes:
    """What a connection too many is told; nobody has read its request."""
    status, headers, body = Problem(BUSY).render()
    lines = [f"HTTP/1.1 {status} Service Unavailable", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"content-length: {len(body)}", "connection: close"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


hypercorn.asyncio.run.TCPServer = KnownConnection  # type: ignore[attr-defined]
hypercorn.protocol.H11Protocol = Http1  # type: ignore[attr-defined]

"""Hypercorn's connections, known one by one, so that none of them outlives the server, or its client's interest.

Hypercorn leaves a connection to itself once it is accepted. From Python 3.12.1 on it then waits for every one of them
for ever when it stops, and nothing it offers can end one whose client does not read. So the class it makes
connections of is replaced by this one, which tells its server that it is there and waits for no reader for ever.
"""

from __future__ import annotations

from typing import Any

import hypercorn.asyncio.run
from anyio import move_on_after
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.events import Event

#: Seconds a client may take to make room for what we have for it: pieces of 64 KiB at most, so about 1 KB a second.
STALL = 60.0


class ServerConfig(Config):
    """Hypercorn's settings, and the connections made under them."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: set[KnownConnection] = set()

    def abort_connections(self) -> int:
        """End every connection at once, without a word; how many there were."""
        connections = list(self.connections)
        for connection in connections:
            connection.abort()
        return len(connections)


class KnownConnection(TCPServer):
    """A connection that its server knows of."""

    async def run(self) -> None:
        known: Any = getattr(self.config, "connections", None)
        if known is None:  # a Hypercorn of somebody else in this process
            await super().run()
            return
        known.add(self)
        try:
            await super().run()
        finally:
            known.discard(self)

    async def protocol_send(self, event: Event) -> None:
        with move_on_after(STALL) as patience:
            await super().protocol_send(event)
        # Not `cancelled_caught`: closing, Hypercorn takes the cancellation for the end it waited for.
        if patience.cancel_called:
            self.abort()

    def abort(self) -> None:
        self.writer.transport.abort()


hypercorn.asyncio.run.TCPServer = KnownConnection  # type: ignore[attr-defined]

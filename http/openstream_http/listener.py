"""Hypercorn's connections, known one by one, so that none of them outlives the server.

Hypercorn leaves a connection to itself once it is accepted. From Python 3.12.1 on it then waits for every one of them
for ever when it stops, and nothing it offers can end one whose client does not read. So the class it makes
connections of is replaced by this one, which differs in nothing but that it tells its server that it is there.
"""

from __future__ import annotations

from typing import Any

import hypercorn.asyncio.run
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config


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

    def abort(self) -> None:
        self.writer.transport.abort()


hypercorn.asyncio.run.TCPServer = KnownConnection  # type: ignore[attr-defined]

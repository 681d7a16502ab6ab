"""A server that is away for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread

from openstream_ops.server_process import ServerProcess


@asynccontextmanager
async def away(server: ServerProcess, *, kill: bool = False) -> AsyncIterator[None]:
    """The server is down inside, and up again afterwards, with its data. The event loop runs on meanwhile."""
    await anyio.to_thread.run_sync(server.kill if kill else server.stop)
    try:
        yield
    finally:
        await anyio.to_thread.run_sync(server.start)

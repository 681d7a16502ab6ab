"""HttpServer: the actor that listens. Last of the tree to start, first to stop.

It stops by its trigger and is never cancelled: cancelling Hypercorn skips its shutdown and leaves handlers behind.
Asked to stop it first says goodbye in its answers, then closes the port, lets requests in flight end, and after its
grace cuts what is left.
"""

from __future__ import annotations

import logging
import socket
from asyncio import CancelledError
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import structlog
from hypercorn.asyncio import serve
from quart import Quart

from openstream_http.guard import Guard
from openstream_http.listener import ServerConfig
from openstream_http.port import BACKLOG, affordable, let_nobody_in, listen
from supervisors.context import Context

#: Seconds an idle connection stays open; also how long a client may take over its request line and headers.
KEEP_ALIVE = 15
#: Hypercorn's own end of patience. Ours comes first; its way of cancelling raises out of `serve`.
_NEVER_FIRST = 5.0
#: Seconds, and the part of the grace at most, in which every answer ends its connection. A kept one that is closed
#: while its client sends the next request leaves that client not knowing what became of it; one told to end does not.
GOODBYE, GOODBYE_SHARE = 1.0, 0.5
#: Seconds in which those are served who were let in last: who has asked before, and who came and has not asked yet.
#: A client that is busy may take long from its connecting to its asking. The part of the grace for both, at most.
LAST_CALL, FIRST_CALL, LAST_SHARE = 0.5, 2.0, 0.4
#: So many looks one after the other must find nobody: who is accepted takes some turns of the loop to be known.
SURE = 3
#: Seconds between looks whether anybody is still connected.
_LOOK = 0.02

log = structlog.get_logger(__name__)


class HttpServer:
    """Serves an app at `host:port` (0: a free port; see `port` once ready).

    `grace`: seconds for requests in flight after being asked to stop; the child's own grace must be two seconds more.
    `max_connections`: fewer when the process may not have so many files.
    `on_listening(host, port)`: told before it is ready. `on_stopping`: told first of all, so that long-polls return.
    """

    def __init__(
        self,
        app: Quart,
        *,
        host: str,
        port: int,
        grace: float,
        max_connections: int = 10_000,
        on_listening: Callable[[str, int], None] | None = None,
        on_stopping: Callable[[], None] | None = None,
    ) -> None:
        self._app = app
        self._host = host
        self._asked_port = port
        self._grace = grace
        self._max_connections = max_connections
        self._on_listening = on_listening
        self._on_stopping = on_stopping
        self._config: ServerConfig | None = None
        #: Where it listens; 0 before it does.
        self.port = 0

    async def run(self, ctx: Context) -> None:
        """Listen until asked to stop. CannotListen when the address is taken or is not ours."""
        listener = await listen(self._host, self._asked_port)
        self.port = listener.getsockname()[1]
        if self._on_listening is not None:
            self._on_listening(self._host, self.port)
        queue = listener.dup()  # the same queue of connections, for when Hypercorn owns the listener
        config = self._config = _config(listener, affordable(self._max_connections))
        config.graceful_timeout = self._grace + _NEVER_FIRST
        ctx.ready()
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch, ctx, config)
                try:
                    await serve(self._app, config, shutdown_trigger=partial(self._goodbye, ctx, config, queue))
                except CancelledError:
                    # Nobody can cancel a shielded scope from outside: this is Hypercorn tripping over a future that
                    # its own timeout cancelled. What it was about to do is end.
                    if not ctx.stopping.is_set():
                        raise
                    log.warning("http server ended uncleanly")
                finally:
                    queue.close()
                group.cancel_scope.cancel()

    async def _goodbye(self, ctx: Context, config: ServerConfig, queue: socket.socket) -> None:
        """Return when it is time to close the port: everybody has left, or had the time to."""
        await ctx.stopping.wait()
        if self._on_stopping is not None:
            self._on_stopping()
        guard = self._app.extensions.get("guard")
        if isinstance(guard, Guard):
            guard.ending = True
        await _all_left(config, min(GOODBYE, self._grace * GOODBYE_SHARE))
        # Whoever stands in the queue when it is closed may have sent his request already, and would not know what
        # became of it. So first nobody is let in any more, and those who are in are served.
        let_nobody_in(queue)
        with anyio.move_on_after(min(FIRST_CALL, self._grace * LAST_SHARE)):
            await _all_left(config, LAST_CALL)
            while any(not one.asked for one in config.connections):  # noqa: ASYNC110 (nor of its first request)
                await anyio.sleep(_LOOK)

    async def _watch(self, ctx: Context, config: ServerConfig) -> None:
        """See to it that stopping ends."""
        await ctx.stopping.wait()
        await anyio.sleep(self._grace)
        if cut := config.abort_connections():
            log.warning("connections cut", connections=cut, grace_s=self._grace)

    def describe(self) -> dict[str, Any]:
        """For the snapshot of the tree."""
        guard = self._app.extensions.get("guard")
        config = self._config
        return {
            "port": self.port,
            "connections": len(config.connections) if config is not None else 0,
            "ended_idle": config.ended_idle if config is not None else 0,
            "turned_away": config.turned_away if config is not None else 0,
            "in_flight": guard.in_flight if isinstance(guard, Guard) else 0,
        }


async def _all_left(config: ServerConfig, seconds: float) -> None:
    """Return when nobody is connected any more, or after that time."""
    looks = 0
    with anyio.move_on_after(seconds):
        while looks < SURE:  # Hypercorn tells nobody that a connection has ended
            await anyio.sleep(_LOOK)
            looks = 0 if config.connections else looks + 1


def _config(listener: socket.socket, max_connections: int) -> ServerConfig:
    config = ServerConfig(max_connections)
    config.bind = [f"fd://{listener.detach()}"]  # from here on Hypercorn owns the socket, and closes it
    config.backlog = BACKLOG
    config.keep_alive_timeout = KEEP_ALIVE
    # Hypercorn closes a connection after 1000 requests and does not say so in the answer: a producer that has just
    # sent its next one could not know whether it was served. HTTP/2, for which the limit is meant, the guard refuses.
    config.keep_alive_max_requests = 1 << 60
    config.read_timeout = None  # it would cut long-polls; bodies have their own limit (bodies.py)
    config.h11_max_incomplete_size = 16 << 10
    config.include_server_header = False
    config.accesslog = None  # it prints what the client sent
    errors = logging.getLogger("hypercorn.error")
    errors.setLevel(logging.WARNING)  # its "running on" would be the second of its kind
    config.errorlog = errors
    return config

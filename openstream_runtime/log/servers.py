"""Servers: which of them takes writes now. One at a fixed address, or the one that Sentinels name.

Redis-py's own clients find it as well, and then send every command again that failed on the way: a doubled append. So
they are asked where the primary is, and nothing is sent through them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol

import anyio
import structlog
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from openstream_runtime.log.errors import CONNECTION_ERRORS, unavailable
from openstream_runtime.redis_url import RedisUrl

_log = structlog.get_logger(__name__)

#: Where a server is; None: where the URL says.
Address = tuple[str, int] | None
#: Hears the addresses there are when they have changed: connections to others must end.
Listener = Callable[[Collection[Address]], Awaitable[None]]

#: Seconds to ask one Sentinel or node, and all of them.
ASK_ONE, ASK_ALL = 0.5, 2.0
#: Seconds that what was found is believed without asking again, and that a failure is.
FRESH, FAILED = 1.0, 0.1


class Servers(Protocol):
    """The primaries, as they were last seen."""

    #: Whether they change places: then who answers is asked whether it is a primary.
    moving: bool
    #: Whether there are several, each with a part of the slots.
    sharded: bool

    async def primary(self, key: bytes = b"", *, look: bool = False) -> Address:
        """Where the primary of a key is. `look`: ask first, if that was long ago. Raises Unavailable."""
        ...

    async def primaries(self) -> Collection[Address]:
        """Where all of them are. Raises Unavailable."""
        ...

    def doubt(self) -> None:
        """A server went away, or said that it is none of them: ask before the next use."""
        ...

    def on_change(self, listener: Listener) -> None: ...

    async def close(self) -> None: ...


class OneServer:
    """The server of a redis://, rediss:// or unix:// URL. If another takes its place, that is its address' business."""

    moving = sharded = False

    async def primary(self, key: bytes = b"", *, look: bool = False) -> Address:
        return None

    async def primaries(self) -> Collection[Address]:
        return (None,)

    def doubt(self) -> None:
        pass

    def on_change(self, listener: Listener) -> None:
        pass

    async def close(self) -> None:
        pass


class FoundServers:
    """What is found by asking: remembered for a moment, asked by one at a time, doubted when something is wrong."""

    moving = True
    sharded = False

    def __init__(self) -> None:
        self._known: frozenset[Address] = frozenset()
        self._doubted = True
        self._asked_at = self._failed_at = -1e9
        self._asking = anyio.Lock()
        self._listeners: list[Listener] = []

    def doubt(self) -> None:
        self._doubted = True

    def on_change(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def primary(self, key: bytes = b"", *, look: bool = False) -> Address:
        # One looks, and only without a doubt others go on: who is asked may be slow, or away.
        if self._doubted or (look and time.monotonic() - self._asked_at > FRESH and not self._asking.locked()):
            await self._look()
        return self._place(key)

    async def primaries(self) -> Collection[Address]:
        if self._doubted:
            await self._look()
        return self._known

    async def _look(self) -> None:
        began = time.monotonic()
        async with self._asking:
            if self._asked_at <= began and began - self._failed_at > FAILED:  # else somebody has just asked
                await self._look_around()
            if self._doubted:
                raise unavailable()

    async def _look_around(self) -> None:
        try:
            with anyio.fail_after(ASK_ALL):
                found = await self._ask()
        except CONNECTION_ERRORS:
            # Without a doubt who we know is still there, as far as anybody can tell.
            self._asked_at = self._failed_at = time.monotonic()
            return
        self._asked_at, self._doubted = time.monotonic(), False
        if found != self._known:
            _log.info("found the primary", at=sorted(f"{host}:{port}" for host, port in filter(None, found)))
            self._known = found
            for listener in self._listeners:
                await listener(found)

    async def _ask(self) -> frozenset[Address]:
        raise NotImplementedError

    def _place(self, key: bytes) -> Address:
        raise NotImplementedError


class SentinelServers(FoundServers):
    """The primary of a service, as the first Sentinel that answers names it."""

    def __init__(self, url: RedisUrl, options: dict[str, Any]) -> None:
        """`options` of connections that are the same for Sentinels: TLS."""
        super().__init__()
        self._service = url.service
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            url.hosts,
            sentinel_kwargs={
                **options,
                **dict(url.sentinel_login),
                "protocol": 2,
                "retry": Retry(NoBackoff(), 0),
                "socket_timeout": ASK_ONE,
                "socket_connect_timeout": ASK_ONE,
            },
        )

    async def close(self) -> None:
        await self._sentinel.aclose()

    async def _ask(self) -> frozenset[Address]:
        host, port = await self._sentinel.discover_master(self._service)
        return frozenset({(host, int(port))})

    def _place(self, key: bytes) -> Address:
        return next(iter(self._known))

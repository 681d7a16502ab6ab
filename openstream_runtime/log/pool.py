"""A pool: connections to one server for one kind of traffic, and what each of them knows of its server."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import anyio
import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError

from openstream_runtime.log.errors import CONNECTION_ERRORS, unavailable
from openstream_runtime.log.scripts import ALL, Command
from openstream_runtime.log.servers import Address

#: Seconds to find a connection: waiting for a free one, connecting, logging in. Nothing has been sent by then.
CONNECT_TIMEOUT = 2.0
_pack = cast(Callable[[Command], bytes], hiredis.pack_command)


class Login:
    """How connections are made, and what was learned while logging in."""

    def __init__(self, url: str, *, name: str, must_be_primary: bool) -> None:
        self._servers: WeakKeyDictionary[AbstractConnection, tuple[str, int]] = WeakKeyDictionary()
        self._must_be_primary = must_be_primary
        options = url_options(url)
        options |= {
            # RESP3 would switch on maintenance notifications, and those switch off the check of idle connections.
            "protocol": 2,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),
            "socket_connect_timeout": CONNECT_TIMEOUT,
            # Reads and writes are bounded by scopes around whole exchanges: redis-py makes a task or a timer of each.
            "socket_timeout": None,
            "client_name": f"openstream-{name}",
            "redis_connect_func": self._on_connect,
        }
        self._make: Callable[..., AbstractConnection] = partial(options.pop("connection_class", Connection), **options)

    def connection(self, address: Address) -> AbstractConnection:
        """A connection that is not open yet."""
        return self._make() if address is None else self._make(host=address[0], port=address[1])

    def run_id(self, connection: AbstractConnection) -> str:
        return self._servers[connection][0]

    def client_id(self, connection: AbstractConnection) -> int:
        return self._servers[connection][1]

    async def _on_connect(self, connection: AbstractConnection) -> None:
        """Log in, and learn what every user of this connection needs: its server's run id, and all scripts loaded."""
        await connection.on_connect()
        commands = [(b"INFO", b"server"), (b"CLIENT", b"ID"), *(script.load() for script in ALL)]
        if self._must_be_primary:
            commands.append((b"INFO", b"replication"))
        await connection.send_packed_command(pack(commands), check_health=False)
        info, client_id, *rest = [await connection.read_response(timeout=math.inf) for _ in commands]
        if self._must_be_primary and info_field(rest[-1], b"role") != b"master":
            raise ReadOnlyError("a replica answers where a primary was")
        self._servers[connection] = (info_field(info, b"run_id").decode(), int(client_id))


class Pool:
    """Up to `size` connections."""

    def __init__(self, login: Login, address: Address, size: int) -> None:
        self._login = login
        self._address = address
        self._free = anyio.Semaphore(size, fast_acquire=True)
        #: Connections nobody has now, the last one given back at the end; some may be closed.
        self._idle: list[AbstractConnection] = []
        self._taken: set[AbstractConnection] = set()
        self._left = False

    @property
    def in_use(self) -> int:
        return len(self._taken)

    async def hang_up(self) -> None:
        """Close every connection, taken ones too: who reads from one finds it lost."""
        for connection in [*self._idle, *self._taken]:
            await connection.disconnect(nowait=True)

    async def leave(self) -> None:
        """For good: this is no primary any more."""
        self._left = True
        await self.hang_up()

    @asynccontextmanager
    async def take(self) -> AsyncIterator[AbstractConnection]:
        """A connection that is open as far as one can tell. Raises Unavailable, and then nothing was sent."""
        connection = await self._open()
        try:
            yield connection
        finally:
            self._give_back(connection)

    async def _open(self) -> AbstractConnection:
        try:
            self._free.acquire_nowait()
        except anyio.WouldBlock:
            with anyio.move_on_after(CONNECT_TIMEOUT) as waiting:
                await self._free.acquire()
            if waiting.cancelled_caught:
                raise unavailable() from None
        connection = self._idle.pop() if self._idle else self._login.connection(self._address)
        self._taken.add(connection)
        try:
            if not connection.is_connected or await connection.can_read():  # data nobody asked for, or its end
                await _connect(connection)
            if self._left:
                raise ReadOnlyError("another server has become the primary")
        except CONNECTION_ERRORS as error:
            await self._discard(connection)
            raise unavailable() from error
        except BaseException:
            await self._discard(connection)
            raise
        return connection

    async def _discard(self, connection: AbstractConnection) -> None:
        """Close it, and give it back."""
        await drop(connection)
        self._give_back(connection)

    def _give_back(self, connection: AbstractConnection) -> None:
        self._taken.remove(connection)
        self._idle.append(connection)
        self._free.release()


async def _connect(connection: AbstractConnection) -> None:
    with anyio.fail_after(CONNECT_TIMEOUT):
        await connection.disconnect(nowait=True)
        await connection.connect()  # type: ignore[no-untyped-call]


async def drop(connection: AbstractConnection) -> None:
    with anyio.CancelScope(shield=True):
        await connection.disconnect(nowait=True)


def url_options(url: str) -> dict[str, Any]:
    """What a URL says of connections. It may say where Redis is and who we are, not how often we send."""
    options: dict[str, Any] = {**parse_url(url)}
    for ours in ("max_connections", "timeout", "retry_on_timeout", "retry_on_error", "health_check_interval"):
        options.pop(ours, None)
    return options


def pack(commands: Sequence[Command]) -> list[bytes]:
    return [_pack(command) for command in commands]


def info_field(info: bytes, name: bytes) -> bytes:
    """One field of what INFO answers; empty when it is not there."""
    return next((line[len(name) + 1 :] for line in info.splitlines() if line.startswith(name + b":")), b"")

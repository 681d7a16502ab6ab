"""A lane: connections to Redis for one kind of traffic, and the only place that sends and receives.

redis-py gives connections and replies; pooling and sending are ours: its clients retry every command ten times on
their own (a retried append doubles events), and its pools cost more than an append of one event does.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel
import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from openstream_runtime.domain.errors import Unavailable
from openstream_runtime.log.errors import CONNECTION_ERRORS, REPLY_ERRORS, answer, outcome_unknown, unavailable
from openstream_runtime.log.scripts import ALL, Arg, Call, Command, Script

#: Seconds to find a connection: waiting for a free one, connecting, logging in. Nothing has been sent by then.
CONNECT_TIMEOUT = 2.0
#: Commands sent in one go. Replies of all of them are held in memory.
CHUNK = 256

_pack = cast(Callable[[Command], bytes], hiredis.pack_command)


class Lane:
    """Up to `size` connections. `tries` above 1 only for what may be done twice: then an answer lost is asked again."""

    def __init__(self, url: str, *, name: str, size: int, timeout: float, tries: int = 1) -> None:
        #: Seconds from sending to the last reply.
        self.timeout = timeout
        self._tries = tries
        self._servers: WeakKeyDictionary[AbstractConnection, tuple[str, int]] = WeakKeyDictionary()
        options: dict[str, Any] = {**parse_url(url)}
        for ours in ("max_connections", "timeout", "retry_on_timeout", "retry_on_error", "health_check_interval"):
            options.pop(ours, None)  # a URL may say where Redis is and who we are, not how often we send
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
        self._make: Callable[[], AbstractConnection] = partial(options.pop("connection_class", Connection), **options)
        self._free = anyio.Semaphore(size, fast_acquire=True)
        #: Connections nobody has now, the last one given back at the end; some may be closed.
        self._idle: list[AbstractConnection] = []
        self._taken: set[AbstractConnection] = set()

    async def close(self) -> None:
        with anyio.move_on_after(CONNECT_TIMEOUT, shield=True):
            await self.hang_up()

    async def hang_up(self) -> None:
        """Close every connection, taken ones too: who reads from one finds it lost."""
        for connection in [*self._idle, *self._taken]:
            await connection.disconnect(nowait=True)

    @property
    def in_use(self) -> int:
        """Connections taken and not given back."""
        return len(self._taken)

    def run_id(self, connection: AbstractConnection) -> str:
        """The run id of the server this connection leads to: new with every start of a server process."""
        return self._servers[connection][0]

    def client_id(self, connection: AbstractConnection) -> int:
        """What the server calls this connection."""
        return self._servers[connection][1]

    @asynccontextmanager
    async def take(self) -> AsyncIterator[AbstractConnection]:
        """A connection that is open as far as one can tell. Raises Unavailable, and then nothing was sent."""
        # Let the loop hear what sockets have to say: a connection whose server went away while it was idle is then
        # found closed before anything is sent, rather than lost with a command on the way.
        await anyio.lowlevel.checkpoint()
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
        connection = self._idle.pop() if self._idle else self._make()
        self._taken.add(connection)
        try:
            if not connection.is_connected or await connection.can_read():  # data nobody asked for, or its end
                await self._connect(connection)
        except CONNECTION_ERRORS as error:
            await self._discard(connection)
            raise unavailable() from error
        except BaseException:
            await self._discard(connection)
            raise
        return connection

    async def _connect(self, connection: AbstractConnection) -> None:
        with anyio.fail_after(CONNECT_TIMEOUT):
            await connection.disconnect(nowait=True)
            await connection.connect()  # type: ignore[no-untyped-call]

    async def _discard(self, connection: AbstractConnection) -> None:
        """Close it, and give it back."""
        await _drop(connection)
        self._give_back(connection)

    def _give_back(self, connection: AbstractConnection) -> None:
        self._taken.remove(connection)
        self._idle.append(connection)
        self._free.release()

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """The reply to each command, error replies as values.

        Raises Unavailable when nothing was done. An answer that is lost: OutcomeUnknown, on a lane that may try again
        Unavailable.
        """
        for left in reversed(range(self._tries)):
            try:
                async with self.take() as connection:
                    replies, lost = await self.exchange(connection, pack(commands))
                if lost is None:
                    return replies
                if not left:
                    raise (unavailable() if self._tries > 1 else outcome_unknown()) from lost
            except Unavailable:
                if not left:
                    raise
            await anyio.sleep(random.uniform(0.02, 0.2))  # noqa: S311
        raise AssertionError("unreachable")  # pragma: no cover

    async def calls(self, commands: Sequence[Command]) -> list[Any]:
        """`call` in chunks, for many commands."""
        replies: list[Any] = []
        for start in range(0, len(commands), CHUNK):
            replies += await self.call(commands[start : start + CHUNK])
        return replies

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg] = ()) -> Any:
        """One script's answer; raises as `call` and `errors.answer` do."""
        return (await self.run_each(script, [(keys, args)]))[0]

    async def run_each(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """One script's answers to many calls, in order. A script Redis has forgotten is loaded and called again."""
        commands = [script.call(keys, args) for keys, args in calls]
        replies = await self.calls(commands)
        forgotten = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if forgotten:
            again = await self.calls([script.load(), *(commands[index] for index in forgotten)])
            for index, reply in zip(forgotten, again[1:], strict=True):
                replies[index] = reply
        return [answer(reply) for reply in replies]

    async def exchange(
        self, connection: AbstractConnection, packed: Sequence[bytes], *, timeout: float | None = None
    ) -> tuple[list[Any], BaseException | None]:
        """Send commands as one write and read a reply for each; also what went wrong when replies are missing.

        Never raises for a backend. When replies are missing, or when cancelled, the connection is closed: a late
        reply must not be taken for the answer to something else.
        """
        replies: list[Any] = []
        try:
            with anyio.fail_after(self.timeout if timeout is None else timeout):
                await connection.send_packed_command(packed, check_health=False)
                for _ in packed:
                    try:
                        reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
                    except REPLY_ERRORS as error:
                        reply = error
                    replies.append(reply)
        except CONNECTION_ERRORS as error:
            await _drop(connection)
            return replies, error
        except BaseException:
            await _drop(connection)
            raise
        return replies, None

    async def _on_connect(self, connection: AbstractConnection) -> None:
        """Log in, and learn what every user of this connection needs: its server's run id, and all scripts loaded."""
        await connection.on_connect()
        commands = [(b"INFO", b"server"), (b"CLIENT", b"ID"), *(script.load() for script in ALL)]
        await connection.send_packed_command(pack(commands), check_health=False)
        info, client_id, *_ = [await connection.read_response(timeout=math.inf) for _ in commands]
        self._servers[connection] = (info_field(info, b"run_id").decode(), int(client_id))


def pack(commands: Sequence[Command]) -> list[bytes]:
    return [_pack(command) for command in commands]


def info_field(info: bytes, name: bytes) -> bytes:
    """One field of what INFO answers; empty when it is not there."""
    return next((line[len(name) + 1 :] for line in info.splitlines() if line.startswith(name + b":")), b"")


async def _drop(connection: AbstractConnection) -> None:
    with anyio.CancelScope(shield=True):
        await connection.disconnect(nowait=True)

"""A lane: one kind of traffic to Redis, and the only place that sends and receives.

redis-py gives connections and replies; pooling and sending are ours: its clients retry every command ten times on
their own (a retried append doubles events), and its pools cost more than an append of one event does.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ReadOnlyError

from openstream_runtime.domain.errors import Unavailable
from openstream_runtime.log.errors import CONNECTION_ERRORS, REPLY_ERRORS, answer, outcome_unknown, unavailable
from openstream_runtime.log.pool import CONNECT_TIMEOUT, Login, Pool, drop, pack
from openstream_runtime.log.scripts import Arg, Call, Command, Script
from openstream_runtime.log.servers import Address, Servers

#: Commands sent in one go. Replies of all of them are held in memory.
CHUNK = 256


class Lane:
    """Up to `size` connections. `tries` above 1 only for what may be done twice: then an answer lost is asked again.
    Such a lane also looks now and then whether the primary is still the same, for all of them."""

    def __init__(self, servers: Servers, url: str, *, name: str, size: int, timeout: float, tries: int = 1) -> None:
        """`url` as redis-py reads it."""
        #: Seconds from sending to the last reply.
        self.timeout = timeout
        self._tries = tries
        self._size = size
        self._servers = servers
        self._login = Login(url, name=name, must_be_primary=servers.moving)
        self._pools: dict[Address, Pool] = {}
        servers.on_change(self._keep_only)
        self.run_id = self._login.run_id
        self.client_id = self._login.client_id

    async def close(self) -> None:
        with anyio.move_on_after(CONNECT_TIMEOUT, shield=True):
            await self.hang_up()

    async def hang_up(self) -> None:
        """Close every connection, taken ones too: who reads from one finds it lost."""
        for pool in self._pools.values():
            await pool.hang_up()

    async def _keep_only(self, addresses: Collection[Address]) -> None:
        """Let go of servers that are no primaries any more: what they still acknowledge would be lost."""
        for address in self._pools.keys() - set(addresses):
            await self._pools.pop(address).leave()

    @property
    def in_use(self) -> int:
        """Connections taken and not given back."""
        return sum(pool.in_use for pool in self._pools.values())

    @asynccontextmanager
    async def take(self) -> AsyncIterator[AbstractConnection]:
        """A connection that is open as far as one can tell. Raises Unavailable, and then nothing was sent."""
        # Let the loop hear what sockets have to say: a connection whose server went away while it was idle is then
        # found closed before anything is sent, rather than lost with a command on the way.
        await anyio.lowlevel.checkpoint()
        address = await self._servers.primary(look=self._tries > 1)
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = Pool(self._login, address, self._size)
        try:
            async with pool.take() as connection:
                yield connection
        except Unavailable:
            self._servers.doubt()
            raise

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

    async def run_here(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg]) -> Any:
        """Like `run`, once; a last argument is added, the run id of the very server that gets them."""
        async with self.take() as connection:
            command = script.call(keys, [*args, self.run_id(connection)])
            replies, lost = await self.exchange(connection, pack([command]))
            if lost is None and isinstance(replies[0], NoScriptError):
                replies, lost = await self.exchange(connection, pack([script.load(), command]))
        if lost is not None:
            raise outcome_unknown() from lost
        return answer(replies[-1])

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
                        if isinstance(error, ReadOnlyError):  # a primary that became a replica
                            self._servers.doubt()
                    replies.append(reply)
        except CONNECTION_ERRORS as error:
            self._servers.doubt()
            await drop(connection)
            return replies, error
        except BaseException:
            await drop(connection)
            raise
        return replies, None

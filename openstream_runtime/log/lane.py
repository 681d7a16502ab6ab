"""A lane: one kind of traffic to Redis, and the only place that sends and receives.

redis-py gives connections and replies; pooling and sending are ours: its clients retry every command ten times on
their own (a retried append doubles events), and its pools cost more than an append of one event does.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ClusterDownError, MovedError, NoScriptError, ReadOnlyError

from openstream_runtime.domain.errors import OpenStreamError, OutcomeUnknown, Unavailable
from openstream_runtime.log.errors import (
    CONNECTION_ERRORS,
    REPLY_ERRORS,
    RETRY_AFTER_MS,
    answer,
    outcome_unknown,
    unavailable,
)
from openstream_runtime.log.pool import CONNECT_TIMEOUT, Login, Pool, drop, pack
from openstream_runtime.log.scripts import Arg, Call, Command, Script
from openstream_runtime.log.servers import Address, Servers

#: What a server says that is no primary any more, or not of this slot.
_NOT_HERE = (ReadOnlyError, MovedError, ClusterDownError)
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
    async def take(self, key: bytes = b"") -> AsyncIterator[AbstractConnection]:
        """A connection, open as far as one can tell, to where a key is. Raises Unavailable: then nothing was sent."""
        # Let the loop hear what sockets have to say: a connection whose server went away while it was idle is then
        # found closed before anything is sent, rather than lost with a command on the way.
        await anyio.lowlevel.checkpoint()
        address = await self._servers.primary(key, look=self._tries > 1)
        try:
            async with self._pool(address).take() as connection:
                yield connection
        except Unavailable:
            self._servers.doubt()
            raise

    def _pool(self, address: Address) -> Pool:
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = Pool(self._login, address, self._size)
        return pool

    @property
    def sharded(self) -> bool:
        """Whether keys of several slots are on several servers, and never in one command."""
        return self._servers.sharded

    async def split(self, keys: Sequence[bytes]) -> list[list[int]]:
        """The indexes of these keys, by the server they are on. Those that are nowhere now stand alone."""
        if not self.sharded:
            return [list(range(len(keys)))]
        groups: dict[object, list[int]] = {}
        for index, key in enumerate(keys):
            place: object
            try:
                place = await self._servers.primary(key)
            except Unavailable:
                place = index
            groups.setdefault(place, []).append(index)
        return list(groups.values())

    async def call(
        self, commands: Sequence[Command], key: bytes | None = None, *, server: str | None = None
    ) -> list[Any]:
        """The reply to each command, error replies as values. All go to where the key is, by default that of the first.

        Raises Unavailable when nothing was done, also when it is not the server with this run id that answers. An
        answer that is lost: OutcomeUnknown, on a lane that may try again Unavailable.
        """
        key = key_of(commands[0]) if key is None else key
        for left in reversed(range(self._tries)):
            try:
                async with self.take(key) as connection:
                    if server not in (None, self.run_id(connection)):
                        raise Unavailable("Another Redis answers.", backend="redis", retry_after_ms=RETRY_AFTER_MS)
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
        """`call` in chunks, for many commands of any keys."""
        replies: list[Any] = [None] * len(commands)

        async def ask(indexes: Sequence[int]) -> None:
            for start in range(0, len(indexes), CHUNK):
                part = indexes[start : start + CHUNK]
                for index, reply in zip(part, await self.call([commands[one] for one in part]), strict=True):
                    replies[index] = reply

        await side_by_side(ask, await self.split(list(map(key_of, commands))))
        # Sent to where the slot is no more: certainly not done, and we know by now where it is.
        moved = [index for index, reply in enumerate(replies) if isinstance(reply, MovedError)]
        if moved:
            await side_by_side(ask, [[moved[one] for one in group] for group in await self.split(
                [key_of(commands[index]) for index in moved]
            )])  # fmt: skip
        return replies

    async def everywhere(self, command: Command) -> list[Any]:
        """The reply of every primary. Raises as `call` does."""
        if not self.sharded:
            return await self.call([command])
        replies: list[Any] = []
        try:
            for address in await self._servers.primaries():
                async with self._pool(address).take() as connection:
                    found, lost = await self.exchange(connection, pack([command]))
                if lost is not None:
                    raise unavailable() from lost
                replies += found
        except Unavailable:
            self._servers.doubt()
            raise
        return replies

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg] = ()) -> Any:
        """One script's answer; raises as `call` and `errors.answer` do."""
        return (await self.run_each(script, [(keys, args)]))[0]

    async def run_each(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """One script's answers to many calls, in order. A script Redis has forgotten is loaded and called again."""
        commands = [script.call(keys, args) for keys, args in calls]
        replies = await self.calls(commands)
        forgotten = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        for index in forgotten:
            [_, replies[index]] = await self.call([script.load(), commands[index]], key_of(commands[index]))
        return [answer(reply) for reply in replies]

    async def run_here(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg]) -> tuple[Any, str]:
        """Like `run`, once; a last argument is added, the run id of the server that gets it; and given back."""
        async with self.take(keys[0]) as connection:
            run_id = self.run_id(connection)
            command = script.call(keys, [*args, run_id])
            replies, lost = await self.exchange(connection, pack([command]))
            if lost is None and isinstance(replies[0], NoScriptError):
                replies, lost = await self.exchange(connection, pack([script.load(), command]))
        if lost is not None:
            raise outcome_unknown() from lost
        return answer(replies[-1]), run_id

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
                        if isinstance(error, _NOT_HERE):
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


def key_of(command: Command) -> bytes:
    """The first key of a command; empty where it has none."""
    name = command[0]
    if name in (b"EVALSHA", b"EVAL"):
        return command[3]  # type: ignore[return-value]
    if len(command) == 1 or name in (b"SCRIPT", b"INFO", b"CLIENT"):
        return b""
    return command[1]  # type: ignore[return-value]


async def side_by_side(ask: Callable[[list[int]], Awaitable[None]], groups: list[list[int]]) -> None:
    """One group here, several at once; when some fail the first error is raised, bare, after all have ended."""
    if len(groups) == 1:
        await ask(groups[0])
        return
    trouble: list[OpenStreamError] = []

    async def one(group: list[int]) -> None:
        try:
            await ask(group)
        except OpenStreamError as error:
            trouble.append(error)

    async with anyio.create_task_group() as tasks:
        for group in groups:
            tasks.start_soon(one, group)
    if trouble:
        raise next((one for one in trouble if isinstance(one, OutcomeUnknown)), trouble[0])

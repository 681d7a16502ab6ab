"""Tail: one blocking read for the whole node, over every stream somebody waits for and the bell."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import anyio
from redis.asyncio.connection import AbstractConnection

from openstream_runtime.domain.errors import OutcomeUnknown, Unavailable
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.log import keys, scripts
from openstream_runtime.log.codec import format_position, parse_position
from openstream_runtime.log.errors import answer, unavailable
from openstream_runtime.log.lane import Lane
from openstream_runtime.log.pool import pack
from openstream_runtime.log.scripts import Command
from openstream_runtime.ports.log import TailNews

#: Seconds that Redis may answer late before the connection counts as dead.
_LATE = 5.0
#: Bells read at once, and how often the end of a blocking read is asked for.
_BELLS, _TRIES = 1_000, 50


class RedisTail:
    """`blocking` has two connections: one blocks, one ends the blocking. `writes` rings."""

    def __init__(self, blocking: Lane, writes: Lane) -> None:
        self._blocking = blocking
        self._writes = writes
        #: Where we heard the last bell; None before the first wait.
        self._heard: Position | None = None
        self._server: tuple[str, int] | None = None
        # The running wait: set when it is over, whether it was interrupted, and its client id while it blocks.
        self._done: anyio.Event | None = None
        self._interrupted = False
        self._client_id: int | None = None
        # Held while an UNBLOCK is under way, so that it never meets a later wait.
        self._unblocking = anyio.Lock()

    async def wait(self, positions: Mapping[TopicPartition, Position], timeout: float) -> TailNews:
        done = self._done = anyio.Event()  # from here on, before anything waits, an interrupt is for us
        self._interrupted = False
        try:
            async with self._unblocking:  # an UNBLOCK for an earlier wait has arrived before we block
                pass
            async with self._blocking.take() as connection:
                return await self._wait_on(connection, positions, timeout)
        finally:
            self._done = None
            done.set()

    async def interrupt(self) -> None:
        done = self._done
        if done is None:
            return
        self._interrupted = True
        for attempt in range(_TRIES):
            async with self._unblocking:
                if self._done is not done or self._client_id is None:
                    # It has returned, or has not begun to block and sees the flag, or is done with blocking.
                    return
                try:
                    [reply] = await self._blocking.call([(b"CLIENT", b"UNBLOCK", self._client_id)])
                    if answer(reply):
                        return
                except (Unavailable, OutcomeUnknown):
                    # It may still reach Redis: the connection it names must not live to see a later wait.
                    await self._blocking.hang_up()
                    return
            # The blocking read is still on its way to Redis.
            with anyio.move_on_after(min(0.001 * (attempt + 1), 0.05)):
                await done.wait()
                return
        await self._blocking.hang_up()  # something between us and Redis gives connections other names than it says

    async def ring(self, bell: str) -> None:
        with suppress(Unavailable, OutcomeUnknown):
            [reply] = await self._writes.call(
                [(b"XADD", keys.BELL, b"MAXLEN", b"~", keys.BELL_LENGTH, b"*", b"b", bell)]
            )
            answer(reply)

    async def _wait_on(
        self, connection: AbstractConnection, positions: Mapping[TopicPartition, Position], timeout: float
    ) -> TailNews:
        heard = await self._bell_position(connection)
        places = {keys.stream(at): at for at in positions}
        block_ms = max(0, round(timeout * 1000))
        command: list[bytes | int] = [b"XREAD", b"COUNT", 1]
        if block_ms:  # 0 would be for ever
            command += (b"BLOCK", block_ms)
        command += (b"STREAMS", *places, keys.BELL)
        command += (*map(format_position, positions.values()), format_position(heard))
        if self._interrupted:
            return TailNews()
        self._client_id = self._blocking.client_id(connection)
        try:
            reply = await self._ask(connection, tuple(command), timeout + _LATE)
        finally:
            self._client_id = None
        seen = {key: parse_position(entries[-1][0]) for key, entries in reply or ()}
        moved: dict[TopicPartition, Position] = {}
        if ready := [key for key in seen if key in places]:
            # Ids only: an entry that woke us brings its payload along, more of them need not.
            last = await self._ask(connection, (b"EVAL", scripts.LAST.source, len(ready), *ready), _LATE)
            moved = {places[key]: max(seen[key], parse_position(raw)) for key, raw in zip(ready, last, strict=True)}
        return TailNews(moved, await self._bells(connection, heard) if keys.BELL in seen else ())

    async def _bells(self, connection: AbstractConnection, heard: Position) -> list[str]:
        start = b"(" + format_position(heard)
        entries = await self._ask(connection, (b"XRANGE", keys.BELL, start, b"+", b"COUNT", _BELLS), _LATE)
        if entries:
            self._heard = parse_position(entries[-1][0])
        # Each bell once: that it rang is all it says.
        return list(dict.fromkeys(fields[1].decode(errors="replace") for _, fields in entries))

    async def _bell_position(self, connection: AbstractConnection) -> Position:
        """Where to listen from: the end at first, then where we were, unless Redis has lost that."""
        server = (self._blocking.run_id(connection), self._blocking.client_id(connection))
        if self._heard is None or self._server != server:
            [raw] = await self._ask(connection, (b"EVAL", scripts.LAST.source, 1, keys.BELL), _LATE)
            last = parse_position(raw)
            if self._heard is None:
                self._heard = last
            elif last < self._heard:
                self._heard = ZERO
            self._server = server
        return self._heard

    async def _ask(self, connection: AbstractConnection, command: Command, timeout: float) -> Any:
        replies, lost = await self._blocking.exchange(connection, pack([command]), timeout=timeout)
        if lost is not None:
            raise unavailable() from lost
        return answer(replies[0])

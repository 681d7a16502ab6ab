"""Consuming as an async iterator: `async for message in client.consume("orders", "billing")`.

A task reads ahead by long-poll, up to `prefetch` messages, and waits patiently while nodes are away. What waits here
and the message the loop is at are kept, however slow the loop is. Nothing is lost when it ends: what was not acked is
handed to the next reader after the group's idle time.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from openstream_client.acks import Acks
from openstream_client.backoff import Backoff
from openstream_client.bell import Bell
from openstream_client.calls import Calls
from openstream_client.errors import ClientError, Retryable
from openstream_client.hands import Hands, InHand
from openstream_client.message import Message
from openstream_client.models import Kept

PREFETCH = 100
#: Below the limit of 30 s, and so short that a proxy in between does not think the request is dead.
BLOCK_MS = 10_000
ACK_LINGER = 0.05
#: Seconds that closing waits for the last acks.
CLOSE_WITHIN = 5.0
#: Seconds before what a handler failed at is handed out again.
NACK_DELAY = 1.0
#: Seconds for which an event is kept here at most: a loop that nobody goes on with must not hold it for ever.
KEEP_FOR = 600.0


class Consumer:
    """One consumer of a group. Also a context manager, which closes it: the way to leave the loop early."""

    def __init__(
        self,
        calls: Calls,
        tasks: TaskGroup,
        topic: str,
        group: str,
        *,
        consumer: str | None = None,
        prefetch: int = PREFETCH,
        block_ms: int = BLOCK_MS,
        partitions: Sequence[int] | None = None,
        auto_ack: bool = False,
        claim_idle_ms: int | None = None,
        ack_linger: float = ACK_LINGER,
        nack_delay: float = NACK_DELAY,
        extend_every: float | None = None,
        keep_for: float = KEEP_FOR,
    ) -> None:
        """`auto_ack`: asking for the next message acks the one before. `claim_idle_ms`: take over what others hold
        longer than that; nodes do so by themselves after the group's own. `extend_every`: seconds between two
        extensions, without it a third of the group's `claim_idle_ms`; each event is kept for `keep_for` seconds."""
        self.name = consumer or f"{socket.gethostname()}-{os.getpid()}"
        self._calls = calls
        self._tasks = tasks
        self._topic = topic
        self._group = group
        self._prefetch = prefetch
        self._block_ms = block_ms
        self._partitions = partitions
        self._auto_ack = auto_ack
        self._claim_idle_ms = claim_idle_ms
        self._nack_delay = nack_delay
        self._acks = Acks(calls, topic, group, linger=ack_linger)
        self._hands = Hands(calls, topic, group, self.name, self._acks, every=extend_every, keep_for=keep_for)
        self._buffer: deque[InHand] = deque()
        self._changed = Bell()
        self._room = Bell()
        self._scope: anyio.CancelScope | None = None
        self._stopping = False
        self._failure: ClientError | None = None
        self._in_hand: InHand | None = None
        #: The last trouble with reading, while there is some: it is tried again without an end.
        self.trouble: Retryable | None = None

    def stop(self) -> None:
        """The loop ends after the message it is at. Nothing more is read."""
        self._stopping = True
        if self._scope is not None:
            self._scope.cancel()
        self._changed.ring()

    async def flush(self) -> None:
        """Wait until every ack is with a node."""
        await self._acks.flush()

    async def aclose(self) -> None:
        """Stop, send the acks that wait (for at most CLOSE_WITHIN seconds), give up what was not worked on."""
        self.stop()
        self._buffer.clear()
        self._hands.leave_all()
        if self._acks.waiting:
            with anyio.move_on_after(CLOSE_WITHIN, shield=True):
                await self._acks.flush()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        await self._leave_last()
        if self._scope is None:
            self._scope = anyio.CancelScope()
            self._tasks.start_soon(self._acks.run)
            self._tasks.start_soon(self._run, self._scope)
            self._tasks.start_soon(self._hands.run)
        while not self._next_in_buffer() and not self._stopping and self._failure is None:
            await self._changed.wait()
        if self._stopping:
            await self.aclose()
            raise StopAsyncIteration
        failure = self._failure or self._acks.failure
        if failure is not None:
            raise failure
        self._in_hand = self._buffer.popleft()
        self._room.ring()
        return Message(self._in_hand, self._hands, self._nack_delay)

    async def _leave_last(self) -> None:
        """Asking for the next message ends the work on the one before, unless that goes on in a block of its own."""
        last, self._in_hand = self._in_hand, None
        if last is not None and self._auto_ack:
            await self._hands.ack(last)
        elif last is not None and not last.worked_on:
            self._hands.leave(last)

    def _next_in_buffer(self) -> bool:
        """Whether there is one; those that were lost while they waited here are passed over."""
        while self._buffer and self._buffer[0].lost:
            self._buffer.popleft()
            self._room.ring()
        return bool(self._buffer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Exception) and self._in_hand is not None:
                # The loop failed at this message. Its own error goes out; what no node takes back comes again in time.
                with suppress(Retryable):
                    await self._hands.nack(self._in_hand, self._nack_delay)
        finally:
            await self.aclose()

    async def _run(self, scope: anyio.CancelScope) -> None:
        with scope:
            backoff = Backoff()
            claim_at = anyio.current_time()
            while True:
                # Half empty, and not at each message: one request for many.
                while len(self._buffer) > self._prefetch // 2:
                    await self._room.wait()
                try:
                    if self._claim_idle_ms is not None and anyio.current_time() >= claim_at:
                        claim_at = anyio.current_time() + self._claim_idle_ms / 2000
                        self._take(await self._claim(self._claim_idle_ms))
                    self._take(await self._read(claim_at))
                except Retryable as trouble:
                    self.trouble = trouble
                    await anyio.sleep(backoff.pause(trouble.retry_after))
                except ClientError as failure:
                    self._failure = failure
                    self._changed.ring()
                    return
                else:
                    self.trouble = None
                    backoff.worked()

    async def _read(self, claim_at: float) -> list[Kept]:
        block_ms = self._block_ms
        if self._claim_idle_ms is not None:  # a claim must not wait for the end of a long-poll
            block_ms = max(0, min(block_ms, int((claim_at - anyio.current_time()) * 1000)))
        room = self._prefetch - len(self._buffer)
        return await self._calls.read(
            self._topic, self._group, self.name, count=max(1, room), block_ms=block_ms, partitions=self._partitions
        )

    async def _claim(self, min_idle_ms: int) -> list[Kept]:
        room = self._prefetch - len(self._buffer)
        return await self._calls.claim(self._topic, self._group, self.name, min_idle_ms=min_idle_ms, count=max(1, room))

    def _take(self, events: list[Kept]) -> None:
        if events:
            self._buffer.extend(self._hands.take(events))
            self._changed.ring()

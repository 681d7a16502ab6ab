"""Acks on their way: gathered, sent together, and sent again until a node has them, for acking twice is harmless."""

from __future__ import annotations

import anyio

from openstream_client.backoff import Backoff
from openstream_client.bell import Bell
from openstream_client.calls import Calls
from openstream_client.errors import ClientError, Retryable
from openstream_client.models import Kept

#: The node takes 5000 ids a request.
MOST_AT_ONCE = 1_000
#: Acks that may wait while no node takes them; then whoever acks waits.
MOST_WAITING = 10_000


class Acks:
    """The acks of one consumer."""

    def __init__(self, calls: Calls, topic: str, group: str, *, linger: float) -> None:
        self._calls = calls
        self._topic = topic
        self._group = group
        self._linger = linger
        self._waiting: list[tuple[int, str]] = []
        self._sending = 0
        self._changed = Bell()
        self._hurry = anyio.Event()
        self.failure: ClientError | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting) + self._sending

    async def add(self, event: Kept) -> None:
        while self.waiting >= MOST_WAITING and self.failure is None:
            await self._changed.wait()
        if self.failure is not None:
            raise self.failure
        self._waiting.append((event.partition, event.redis_id))
        if len(self._waiting) >= MOST_AT_ONCE:
            self._hurry.set()
        self._changed.ring()

    async def flush(self) -> None:
        """Wait until a node has every ack."""
        self._hurry.set()
        while self.waiting and self.failure is None:
            await self._changed.wait()
        if self.failure is not None:
            raise self.failure

    async def run(self) -> None:
        backoff = Backoff()
        while True:
            while not self._waiting:
                await self._changed.wait()
            with anyio.move_on_after(self._linger):
                await self._hurry.wait()
            self._hurry = anyio.Event()
            some, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            self._sending = len(some)
            if not await self._send(some, backoff):
                return

    async def _send(self, some: list[tuple[int, str]], backoff: Backoff) -> bool:
        ids: dict[int, list[str]] = {}
        for partition, redis_id in some:
            ids.setdefault(partition, []).append(redis_id)
        while True:
            try:
                await self._calls.ack(self._topic, self._group, ids)
            except Retryable as trouble:
                await anyio.sleep(backoff.pause(trouble.retry_after))
                continue
            except ClientError as failure:
                self.failure = failure
            backoff.worked()
            self._sending = 0
            if self._waiting and self.failure is None and len(self._waiting) >= MOST_AT_ONCE:
                self._hurry.set()
            self._changed.ring()
            return self.failure is None

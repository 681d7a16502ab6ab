"""Producing many events: gathered into requests, in bounded memory, in order for each key.

A key belongs to a lane and a lane has one request on its way, so a request that is repeated (only when nothing of it
was kept) is overtaken by nothing. An unknown outcome is reported and never repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from openstream_client import tracing
from openstream_client.batch import Batch, Receipt
from openstream_client.bell import Bell
from openstream_client.calls import Calls, as_event
from openstream_client.delivery import deliver
from openstream_client.errors import ClientError, NotSent
from openstream_client.models import Event

#: The node's own limit is 5000 events; its limit of bytes is a setting, 8 MiB unless set.
BATCH_EVENTS = 500
BATCH_BYTES = 256 << 10
BUFFER_BYTES = 8 << 20
LINGER = 0.01
GIVE_UP_AFTER = 60.0

OnFailure = Callable[[Event, ClientError], None]


class Producer:
    """Made by `OpenStream.producer`. A failure ends it, unless `on_failure` takes failures."""

    def __init__(
        self,
        calls: Calls,
        topic: str,
        *,
        batch_events: int = BATCH_EVENTS,
        batch_bytes: int = BATCH_BYTES,
        buffer_bytes: int = BUFFER_BYTES,
        linger: float = LINGER,
        lanes: int = 1,
        ack: str = "appended",
        give_up_after: float = GIVE_UP_AFTER,
        on_failure: OnFailure | None = None,
    ) -> None:
        self._calls = calls
        self._topic = topic
        self._batch_events = batch_events
        self._batch_bytes = batch_bytes
        self._buffer_bytes = buffer_bytes
        self._linger = linger
        self._ack = ack
        self._give_up_after = give_up_after
        self._on_failure = on_failure
        self._lanes = [_Lane() for _ in range(lanes)]
        self._turns = count()
        self._buffered = 0
        self._less = Bell()
        self._failure: ClientError | None = None
        self._ended = False

    @property
    def buffered_bytes(self) -> int:
        """Bytes of events without an outcome; `send` waits so that it stays within `buffer_bytes`."""
        return self._buffered

    async def send(self, event: Event | Mapping[str, Any]) -> Receipt:
        """Hand an event over. Returns as soon as there is room for it, which is not yet when it is kept."""
        event = tracing.traced(as_event(event))
        encoded = msgspec.json.encode(event)
        while self._buffered and self._buffered + len(encoded) > self._buffer_bytes:
            self._check()
            await self._less.wait()
        self._check()
        self._buffered += len(encoded)
        lane = self._lane(event.partition_key)
        if not lane.queue or not lane.queue[-1].takes(len(encoded)):
            if lane.queue:
                lane.queue[-1].closed.set()
            lane.queue.append(Batch(self._batch_events, self._batch_bytes))
            lane.more.ring()
        return lane.queue[-1].add(encoded, event)

    async def flush(self) -> None:
        """Wait until every event that was handed over has its outcome; raises the first failure."""
        for lane in self._lanes:
            if lane.queue:
                lane.queue[-1].closed.set()
        while self._buffered:
            await self._less.wait()
        if self._failure is not None:
            raise self._failure

    def begin(self, tasks: TaskGroup) -> None:
        """Start sending; what the lanes do ends with `tasks`."""
        for lane in self._lanes:
            tasks.start_soon(self._run, lane)

    def end(self) -> None:
        """What still has no outcome gets one: whoever waits for a receipt must not wait for ever."""
        self._ended = True
        for lane in self._lanes:
            for batch in lane.queue:
                batch.settle_rest(NotSent("the producer was closed before this event was sent"))
                batch.settled.set()
            lane.queue.clear()
        self._less.ring()

    def _check(self) -> None:
        if self._failure is not None:
            raise NotSent(f"an earlier event failed: {self._failure.detail}") from self._failure
        if self._ended:
            raise NotSent("the producer is closed")

    def _lane(self, key: str | None) -> _Lane:
        if len(self._lanes) == 1:
            return self._lanes[0]
        return self._lanes[(next(self._turns) if key is None else hash(key)) % len(self._lanes)]

    async def _run(self, lane: _Lane) -> None:
        while True:
            batch = await self._next(lane)
            try:
                if self._failure is not None:
                    raise NotSent(f"an earlier event failed: {self._failure.detail}")
                await deliver(self._calls, self._topic, batch, ack=self._ack, give_up_after=self._give_up_after)
            except ClientError as error:
                batch.settle_rest(error)
            finally:
                self._done(batch)

    async def _next(self, lane: _Lane) -> Batch:
        """The oldest batch, once it is full, has waited for `linger` or is being flushed."""
        while not lane.queue:
            await lane.more.wait()
        batch = lane.queue[0]
        with suppress(TimeoutError), anyio.fail_after(max(0.0, batch.opened_at + self._linger - anyio.current_time())):
            await batch.closed.wait()
        batch.closed.set()
        lane.queue.popleft()
        return batch

    def _done(self, batch: Batch) -> None:
        batch.settle_rest(NotSent("the producer was closed while this event was on its way"))
        for event, outcome in zip(batch.events, batch.outcomes, strict=True):
            if isinstance(outcome, ClientError) and event is not None:
                if self._on_failure is not None:
                    self._on_failure(event, outcome)
                elif self._failure is None:
                    self._failure = outcome
        self._buffered -= batch.size
        batch.settled.set()
        self._less.ring()


class _Lane:
    """Batches in order; the last one may still be open."""

    def __init__(self) -> None:
        self.queue: deque[Batch] = deque()
        self.more = Bell()

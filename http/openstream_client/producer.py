"""Producing many events: gathered into requests, in bounded memory, in order for each key.

A key belongs to a lane and a lane has one request on its way, so a request that is repeated is overtaken by nothing.
Requests are numbered (numbering.py): one whose answer was lost is sent again, to any node, and kept once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from openstream_client import tracing
from openstream_client.batch import Batch, Receipt
from openstream_client.bell import Bell
from openstream_client.calls import Calls, as_event
from openstream_client.delivery import deliver, deliver_numbered
from openstream_client.errors import ClientError, NotSent
from openstream_client.models import Event
from openstream_client.numbering import Numbering, Stamp

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
        idempotent: bool = True,
        stamp: Stamp | None = None,
    ) -> None:
        """`idempotent=False`: requests are not numbered, and one whose answer was lost ends with OutcomeUnknown.

        `stamp`: a name, epoch and first number of your own, to go on where a producer before stopped. Whoever gives the
        same name a newer epoch ends this producer (StaleEpoch). It needs one lane, and any failure ends it.
        """
        if stamp is not None and (lanes != 1 or not idempotent):
            raise ValueError("a stamp needs one lane and idempotent requests")
        self._calls = calls
        self._topic = topic
        self._batch_events = batch_events
        self._batch_bytes = batch_bytes
        self._buffer_bytes = buffer_bytes
        self._linger = linger
        self._ack = ack
        self._give_up_after = give_up_after
        self._on_failure = on_failure
        self._goes_on = on_failure is not None and stamp is None
        self._lanes = [_Lane(Numbering(stamp, own=stamp is None) if idempotent else None) for _ in range(lanes)]
        self._turns = count()
        self._buffered = 0
        self._less = Bell()
        self._failure: ClientError | None = None
        self._ended = False

    @property
    def buffered_bytes(self) -> int:
        """Bytes of events without an outcome; `send` waits so that it stays within `buffer_bytes`."""
        return self._buffered

    @property
    def stamp(self) -> Stamp | None:
        """The stamp of the next request of the only lane; after `flush` this is where another producer may go on."""
        numbering = self._lanes[0].numbering
        return None if numbering is None or len(self._lanes) > 1 else numbering.stamp

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
                await self._deliver(lane, batch)
            except ClientError as error:
                batch.settle_rest(error)
                if lane.numbering is not None and lane.numbering.own:
                    lane.numbering.begin_anew()  # and what is still on its way of this batch is refused from then on
            finally:
                self._done(batch)

    async def _deliver(self, lane: _Lane, batch: Batch) -> None:
        how: dict[str, Any] = {"ack": self._ack, "give_up_after": self._give_up_after}
        if lane.numbering is None:
            await deliver(self._calls, self._topic, batch, **how)
        else:
            await deliver_numbered(self._calls, self._topic, batch, lane.numbering, **how)

    async def _next(self, lane: _Lane) -> Batch:
        """The oldest batch, once it is full, has waited for `linger` or is being flushed."""
        while not lane.queue:
            await lane.more.wait()
        batch = lane.queue[0]
        with anyio.move_on_after(max(0.0, batch.opened_at + self._linger - anyio.current_time())):
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
                if self._failure is None and not self._goes_on:
                    self._failure = outcome
        self._buffered -= batch.size
        batch.settled.set()
        self._less.ring()


class _Lane:
    """Batches in order; the last one may still be open."""

    def __init__(self, numbering: Numbering | None) -> None:
        self.numbering = numbering
        self.queue: deque[Batch] = deque()
        self.more = Bell()

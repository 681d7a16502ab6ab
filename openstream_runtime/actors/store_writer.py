"""The store writer: group commit for PostgreSQL. Batches of many persisters share one COPY and one transaction."""

from __future__ import annotations

import structlog

from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.ports.store import Committed, FencedOff, PersistBatch
from supervisors import ChildSpec, Context, Mailbox

_log = structlog.get_logger(__name__)

MAX_BATCHES = 256
MAX_BYTES = 16 << 20  # one transaction; with a read-ahead of 8 MiB a partition, two of the largest batches

ROOM = 64 << 20  # bytes of batches that wait

StoreMailbox = Mailbox[PersistBatch, Committed | FencedOff]


def store_mailbox() -> StoreMailbox:
    """Bounded in bytes: persisters that are faster than PostgreSQL wait here."""
    return Mailbox(4096, max_bytes=ROOM, size=batch_bytes)


def batch_bytes(batch: PersistBatch) -> int:
    """About what a batch takes in memory. Never more than the room there is: a page of huge events must go through."""
    return min(ROOM, 256 + sum(256 + len(event.payload) + len(event.headers or b"") for event in batch.events))


class StoreWriter:
    """Takes all that waits, commits it as one, answers each."""

    def __init__(self, world: World, mailbox: StoreMailbox) -> None:
        self._mailbox = mailbox
        self._store = world.store
        self._meter = world.meter
        self._clock = world.clock

    @classmethod
    def spec(cls, world: World, mailbox: StoreMailbox) -> ChildSpec:
        return ChildSpec(id="store-writer", actor=lambda: cls(world, mailbox), grace=world.limits.grace(0.06))

    def describe(self) -> dict[str, object]:
        return self._mailbox.describe()

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        while not ctx.stopping.is_set():
            envelopes = []
            with ctx.interruptible():
                envelopes = await self._mailbox.receive_all(max_count=MAX_BATCHES, max_bytes=MAX_BYTES)
            waiting = [envelope for envelope in envelopes if not envelope.abandoned]
            if not waiting:
                continue
            batches = [envelope.message for envelope in waiting]
            began = self._clock.monotonic()
            try:
                outcomes = await self._store.write(batches)
            except OpenStreamError as error:
                self._meter.store_failed()
                for envelope in waiting:
                    envelope.fail(error)
                continue
            self._meter.store_commit(sum(len(batch.events) for batch in batches), self._clock.monotonic() - began)
            for envelope, outcome in zip(waiting, outcomes, strict=True):
                envelope.answer(outcome)

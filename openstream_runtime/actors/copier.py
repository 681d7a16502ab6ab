"""The copier: what the owner of a partition does while it holds the lease: read, commit, publish, trim, wait."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import structlog

from openstream_runtime.actors.pacing import jittered, pause
from openstream_runtime.actors.store_writer import StoreMailbox
from openstream_runtime.actors.verifying import verify
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import Fenced, Unavailable
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.ledger import Ledger
from openstream_runtime.domain.positions import Cursor, Position, TopicPartition
from openstream_runtime.domain.retention import Trim, trim_below
from openstream_runtime.domain.topics import Topic, TopicSettings
from openstream_runtime.domain.tracing import carried_by
from openstream_runtime.ports.store import FencedOff, PersistBatch
from openstream_runtime.ports.tracing import Operation
from supervisors import Context

_log = structlog.get_logger(__name__)

BATCH = 2000  # events read and committed at once: PostgreSQL's COPY has reached its pace by then
BATCH_BYTES = 8 << 20
RESOLUTION = 64  # a bound by length or bytes is met to about this part of it
ENTRY_BYTES = 100  # about what an entry takes in Redis beside its payload
LINGER = 0.005  # seconds: a stream that trickles is committed in small groups instead of one by one
COMMIT_TIMEOUT = 60.0  # seconds; longer than every statement timeout of the store
PUBLISH = 0.25  # seconds between published cursors while a backlog is worked off
TRIM = 1.0  # seconds between trims of an active stream
TRIM_IDLE = 5.0  # and of one where nothing happens, so that a thousand idle partitions cost little
RELIEF = 0.75  # of the memory at which producers are refused: from there on retention gives way, unnoticed by readers
TRIM_SHORT = 0.25  # seconds between trims then
LOOK_AGAIN = 1.0  # seconds: should a wake-up be lost, no event waits longer than this for PostgreSQL


class Copier:
    """Copies one partition under one epoch, from a cursor on, until asked to stop.

    Raises Fenced when another owner has taken the partition, LeaseLost when Redis says so, and whatever the ports
    raise when a backend is away: the cursor in PostgreSQL then says where the next copier goes on.
    """

    def __init__(
        self, world: World, topic: Topic, at: TopicPartition, writer: StoreMailbox, token: str, cursor: Cursor
    ) -> None:
        self._world = world
        self._topic = topic
        self._at = at
        self._writer = writer
        self._token = token
        self.cursor = cursor
        #: The last trim this copier asked for, for people.
        self.trimmed: Trim | None = None
        self._ledger = Ledger(cursor.position)
        #: Committed events whose cursor Redis has not been told yet.
        self._unpublished = 0
        self._publish_at = 0.0
        self._trim_at = 0.0
        self._active = True

    async def run(self, ctx: Context) -> None:
        world, clock = self._world, self._world.clock
        # Make the stream fit for the cursor, under the Redis that answers now.
        # From now on only what that one has is copied: a commit of what another had moved the cursor over what this one
        # does not have, and it must see that before anything else moves it.
        server = await verify(world, self._topic, self._at.partition, self.cursor)
        await world.log.mark_persisted(self._at, self._token, self.cursor.position, count=None, trim_below=None)
        level = False
        while not ctx.stopping.is_set():
            events = await world.log.read_after(
                self._at, self.cursor.position, count=BATCH, max_bytes=BATCH_BYTES, server=server
            )
            if events:
                await self._commit(events)
                self._active = True
            elif not level:
                level = await self._pass_what_is_lost(server)
            now = clock.monotonic()
            caught_up = len(events) < BATCH
            if now >= self._trim_at:
                await self._publish(await self._bound())
                pace = TRIM if self._active else TRIM_IDLE
                self._trim_at = now + jittered(min(pace, TRIM_SHORT) if self._memory_is_short() else pace)
                self._active = False
            elif self._unpublished and (caught_up or now >= self._publish_at):
                await self._publish(None)
            if not events:
                await self._wait(ctx)
            elif caught_up:
                await pause(ctx, LINGER)
        if self._unpublished:
            await self._publish(None)

    async def _pass_what_is_lost(self, server: str | None) -> bool:
        """Take the cursor over ids that hold nothing, where Redis gives out none of them again: who waits for one of
        those, or looks after it, learns that it is lost without the next event. False when something came meanwhile.
        """
        cursor, last = self.cursor.position, (await self._world.log.edges(self._at)).last
        if last <= cursor:
            return True
        if await self._world.log.read_after(self._at, cursor, upto=last, count=1, server=server):
            return False
        await self._write([], last)
        return True

    async def _commit(self, events: list[StoredEvent]) -> None:
        with self._world.tracer.batch(
            Operation.PERSIST,
            self._at.topic,
            carried_by(event.headers for event in events),
            events=len(events),
            partition=self._at.partition,
        ):
            await self._write(events, events[-1].position)

    async def _write(self, events: list[StoredEvent], upto: Position) -> None:
        cursor = self.cursor
        outcome = await self._writer.call(
            PersistBatch(
                topic_id=self._topic.id,
                partition=self._at.partition,
                epoch=cursor.epoch,
                generation=cursor.generation,
                after=cursor.position,
                upto=upto,
                events=events,
            ),
            timeout=COMMIT_TIMEOUT,
        )
        if isinstance(outcome, FencedOff):
            now = await self._world.store.cursor(self._topic.id, self._at.partition)
            if now is None or now.epoch != cursor.epoch:
                raise Fenced("another owner has taken it" if now else "the topic is gone")
            # A commit whose answer was lost, ours all the same: go on from where it really is.
            raise Unavailable("the cursor is not where it was left; it is read again", backend="postgres")
        if outcome.quarantined:
            _log.error("events went to quarantine", partition=str(self._at), events=outcome.quarantined)
        self.cursor = cursor._replace(position=upto)
        if not events:
            return
        self._world.meter.persisted(self._at.topic, self._at.partition, len(events), outcome.quarantined)
        self._world.meter.persist_delay(self._at.topic, self._at.partition, events, self._world.clock.now_ms())
        self._world.receipts.committed(self._topic, self._at.partition, events)
        self._count(events)
        self._unpublished += len(events)

    def _count(self, events: Sequence[StoredEvent]) -> None:
        """Note what was committed, finely enough for the bound of this topic: a batch may be larger than all of it."""
        settings = self._settings
        keep = self._target_len(settings)
        if settings.retention_bytes is not None:
            size = sum(ENTRY_BYTES + len(event.payload) + len(event.headers or b"") for event in events)
            keep = min(keep, settings.retention_bytes * len(events) // size)
        grain = max(1, keep // RESOLUTION)
        for start in range(0, len(events), grain):
            counted = events[start : start + grain]
            self._ledger.add(counted[-1].position, len(counted), grain=grain)

    @property
    def _settings(self) -> TopicSettings:
        """As the board has them now: a change needs no restart."""
        return self._world.board.topics.get(self._topic.name, self._topic).settings

    def _target_len(self, settings: TopicSettings) -> int:
        """Half of what producers are refused at: what is persisted never keeps them out."""
        return (settings.max_stream_len or self._world.limits.max_stream_len) // 2

    async def _publish(self, trim: Trim | None) -> None:
        below = None if trim is None else trim.below
        trimmed = await self._world.log.mark_persisted(
            self._at, self._token, self.cursor.position, count=self._unpublished, trim_below=below
        )
        self._unpublished = 0
        if trim is not None:
            self._ledger.forget(trim.below)
            self._world.meter.trimmed(self._at.topic, self._at.partition, trimmed)
            self.trimmed = trim
        self._publish_at = self._world.clock.monotonic() + PUBLISH
        if trimmed:
            bound_by = None if trim is None else trim.bound_by
            _log.debug("trimmed", partition=str(self._at), events=trimmed, below=str(below), bound_by=bound_by)

    async def _bound(self) -> Trim | None:
        world = self._world
        settings = self._settings
        edges = await world.log.edges(self._at, with_bytes=settings.retention_bytes is not None)
        if edges.first is None:
            return None
        return trim_below(
            settings,
            first=edges.first,
            cursor=self.cursor.position,
            memory_is_short=self._memory_is_short(),
            ledger=self._ledger,
            length=edges.length,
            target_len=self._target_len(settings),
            size=edges.bytes,
            now_ms=edges.now_ms,
            default_retention_ms=world.limits.retention_ms,
        )

    def _memory_is_short(self) -> bool:
        sample, limits = self._world.board.sample, self._world.limits
        return sample.used_memory > sample.maxmemory * limits.redis_memory * RELIEF > 0

    async def _wait(self, ctx: Context) -> None:
        """Until an event stands after the cursor, or it is time to trim or to look without being told."""
        woken = anyio.Event()
        ticket = self._world.watch.wait_for({self._at: self.cursor.position}, lambda _: woken.set())
        patience = min(jittered(LOOK_AGAIN), self._trim_at - self._world.clock.monotonic())
        try:
            with ctx.interruptible(), anyio.move_on_after(max(0.0, patience)):
                await woken.wait()
        finally:
            ticket.close()

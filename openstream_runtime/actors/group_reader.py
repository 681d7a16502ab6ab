"""The reader of a consumer group on this node: every read, ack and claim of the group that came here goes through it.

Waiting requests hold no connection and no task of Redis: they wait in a list, the tailer says when it is worth looking,
and the look is one short script. It runs here and never in a request's task, which is cancelled when the client leaves:
what was handed to a client that is gone goes back at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio
import structlog

from openstream_runtime.actors.group_source import GroupSource
from openstream_runtime.actors.tailer import Ticket
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.events import Delivery
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.ports.groups import GroupRead
from supervisors import Context, Envelope, Mailbox

_log = structlog.get_logger(__name__)

LOOK_AGAIN = 2.0  # seconds; should a wake-up be missed, or positions start anew, nobody waits longer than this
LOOK_SOON = 0.03  # seconds; nobody rings when events are persisted, or when others are done with what is cold
EMPTY = GroupRead(deliveries=(), tails={})


@dataclass(slots=True)
class Read:
    """Hand out events, waiting for the first until `deadline` (monotonic seconds)."""

    consumer: str
    count: int
    partitions: Sequence[int]
    deadline: float
    #: Set once the answer was heard; whoever then loses it gives it back.
    handed_out: GroupRead | None = None
    #: Before that moment (monotonic seconds) nobody held what is handed out.
    taken_at: float = 0.0


@dataclass(slots=True)
class Claim:
    """Take over what is released or pending for at least `min_idle_ms`."""

    consumer: str
    count: int
    partitions: Sequence[int]
    min_idle_ms: int
    handed_out: GroupRead | None = None
    taken_at: float = 0.0


@dataclass(frozen=True, slots=True)
class AckItems:
    """Done with these."""

    items: Mapping[int, Sequence[Position]]


@dataclass(frozen=True, slots=True)
class GiveBack:
    """These never reached their consumer."""

    consumer: str
    items: Mapping[int, Sequence[Position]]


@dataclass(frozen=True, slots=True)
class Arrived:
    """These were long on their way to their consumer: the time it has for them begins now."""

    consumer: str
    items: Mapping[int, Sequence[Position]]


@dataclass(frozen=True, slots=True)
class Nudge:
    """Look: something may have changed on these partitions."""

    partitions: Sequence[int] = ()


Message = Read | Claim | AckItems | GiveBack | Arrived | Nudge
ReaderMailbox = Mailbox[Message, GroupRead | int]
_Waiting = Envelope[Message, GroupRead | int]


def positions_of(deliveries: Sequence[Delivery]) -> dict[int, list[Position]]:
    """Deliveries by partition, as acks and releases want them."""
    items: dict[int, list[Position]] = {}
    for delivery in deliveries:
        items.setdefault(delivery.partition, []).append(delivery.event.position)
    return items


class GroupReader:
    """One incarnation of a group's reader."""

    def __init__(self, world: World, topic: str, group: str, mailbox: ReaderMailbox) -> None:
        self._world = world
        self._topic = topic
        self._group = group
        self._mailbox = mailbox
        #: Reads that found nothing yet, in the order they came.
        self._waiting: list[_Waiting] = []
        #: After which position each partition was last seen empty.
        self._tails: dict[int, Position] = {}
        #: Partitions that may hold something, as far as those who wait are concerned.
        self._dirty: set[int] = set()
        self._look_again_at = 0.0
        self._ticket: Ticket | None = None
        self._source = GroupSource(world, topic, group)

    def describe(self) -> dict[str, object]:
        return {"waiting": len(self._waiting), **self._mailbox.describe()}

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        try:
            while True:
                envelopes: list[_Waiting] = []
                with ctx.interruptible(), anyio.move_on_after(self._patience()):
                    envelopes = await self._mailbox.receive_all()
                if ctx.stopping.is_set():
                    # What was acked or given back before the stop is still seen to.
                    envelopes = envelopes or self._mailbox.drain()
                    if not envelopes:
                        break
                fresh = [envelope for envelope in envelopes if not await self._handle(envelope)]
                await self._serve(fresh, waiting_ends=self._world.board.draining or ctx.stopping.is_set())
                self._watch()
            for envelope in self._waiting:
                envelope.answer(EMPTY)
        finally:
            self._forget_ticket()

    def _patience(self) -> float | None:
        """Seconds until something is due by itself; None while nobody waits."""
        if not self._waiting:
            return None
        now = self._world.clock.monotonic()
        return max(0.0, min(self._look_again_at, *(_read(envelope).deadline for envelope in self._waiting)) - now)

    async def _handle(self, envelope: _Waiting) -> bool:
        """Do what can be done at once; False for a read, which is served in turn."""
        message = envelope.message
        try:
            match message:
                case AckItems(items):
                    envelope.answer(await self._world.groups.ack(self._topic, self._group, items))
                case GiveBack(consumer, items):
                    await self._release(consumer, items)
                case Arrived(consumer, items):
                    await self._world.groups.extend(self._topic, self._group, consumer, items)
                case Claim():
                    if not envelope.abandoned:
                        await self._claim(envelope, message)
                case Nudge(partitions):
                    self._dirty.update(partitions)
                case Read():
                    return envelope.abandoned
        except OpenStreamError as error:
            if not envelope.fail(error) and isinstance(message, GiveBack):
                _log.warning("could not give back; the claim-reaper will", group=self._group, error=str(error))
        return True

    # -- reading

    async def _serve(self, fresh: list[_Waiting], *, waiting_ends: bool) -> None:
        """Try everybody for whom there may be something, those who wait longest first."""
        now = self._world.clock.monotonic()
        again = now >= self._look_again_at
        if again:
            self._look_again_at = now + LOOK_AGAIN
        for envelope in [*self._waiting, *fresh] if again else fresh:
            self._dirty.update(_read(envelope).partitions)
        # Who comes anew waits behind the others also here: a partition the first of them finds empty is empty for all.
        trying, self._waiting = [*self._waiting, *fresh], []
        for envelope in trying:
            if not envelope.abandoned:
                await self._try(envelope, waiting_ends=waiting_ends)

    async def _try(self, envelope: _Waiting, *, waiting_ends: bool) -> None:
        """Answer a read if there is something for it or its time is up; else it waits (on)."""
        read = _read(envelope)
        partitions = [number for number in read.partitions if number in self._dirty and not self._source.paused]
        read.taken_at = self._world.clock.monotonic()
        try:
            found = await self._source.read(read.consumer, partitions, read.count) if partitions else EMPTY
        except OpenStreamError as error:
            envelope.fail(error)
            return
        if found.deliveries:
            await self._hand_out(envelope, read, found)
            return
        self._tails.update(found.tails)
        if found.unpersisted:
            self._look_again_in(LOOK_SOON)
        else:
            self._dirty.difference_update(found.tails)
        if found.due_ms is not None:
            self._look_again_in(found.due_ms / 1000)
        if waiting_ends or self._world.clock.monotonic() >= read.deadline:
            envelope.answer(EMPTY)
        else:
            self._waiting.append(envelope)

    def _look_again_in(self, seconds: float) -> None:
        self._look_again_at = min(self._look_again_at, self._world.clock.monotonic() + seconds)

    # -- handing out, and taking back

    async def _claim(self, envelope: _Waiting, claim: Claim) -> None:
        if self._source.paused:
            envelope.answer(EMPTY)
            return
        claim.taken_at = self._world.clock.monotonic()
        found = await self._source.claim(claim.consumer, claim.partitions, claim.min_idle_ms, claim.count)
        if found.deliveries:
            self._world.meter.claimed(self._topic, self._group, len(found.deliveries))
        await self._hand_out(envelope, claim, found)

    async def _hand_out(self, envelope: _Waiting, request: Read | Claim, found: GroupRead) -> None:
        if envelope.answer(found):
            request.handed_out = found
        elif found.deliveries:
            try:
                await self._release(request.consumer, positions_of(found.deliveries))
            except OpenStreamError as error:
                _log.warning("could not give back; the claim-reaper will", group=self._group, error=str(error))

    async def _release(self, consumer: str, items: Mapping[int, Sequence[Position]]) -> None:
        released = await self._world.groups.release(self._topic, self._group, consumer, items, undelivered=True)
        self._dirty.update(items)
        if released:
            self._world.meter.released(self._topic, self._group, released)
            for partition in items:
                await self._world.tail.ring(f"group:{self._topic}:{self._group}:{partition}")

    # -- waiting

    def _watch(self) -> None:
        """Have the tailer tell us of the next event on a partition somebody waits for."""
        wanted = {
            TopicPartition(self._topic, number): self._tails[number]
            for envelope in self._waiting
            for number in _read(envelope).partitions
            if number in self._tails
        }
        if self._ticket is not None and self._ticket.positions == wanted and not self._ticket.done:
            return
        self._forget_ticket()
        if wanted:
            self._ticket = self._world.watch.wait_for(wanted, self._moved)

    def _moved(self, partitions: list[TopicPartition]) -> None:
        self._dirty.update(at.partition for at in partitions)
        # A full mailbox needs no nudge: the actor is about to look anyway. Nor does a closed one.
        if not self._mailbox.closed:
            self._mailbox.offer(Nudge())

    def _forget_ticket(self) -> None:
        if self._ticket is not None:
            self._ticket.close()
            self._ticket = None


def _read(envelope: _Waiting) -> Read:
    message = envelope.message
    if not isinstance(message, Read):
        raise TypeError(f"only reads wait, not {message!r}")
    return message

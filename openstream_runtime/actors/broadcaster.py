"""The broadcaster: reads what is new on the partitions somebody watches, once for all who do.

It is for people, so it never falls behind: a partition with more new events than fit into a look is left at its end,
and the watchers are told how many they did not see. Readers that must see everything are consumer groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import structlog

from openstream_runtime.actors.audience import Audience, Seat
from openstream_runtime.actors.pacing import Retry, pause, until_told
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.ports.log import StreamStats
from supervisors import ChildSpec, Context

_log = structlog.get_logger(__name__)

#: Events and bytes of one partition in one look, and seconds between looks: 2500 events a second are shown.
LOOK_EVENTS = 500
LOOK_BYTES = 512 << 10
PACE = 0.2
#: Seconds after which it looks anyway, should a wake-up be missed.
LOOK_AGAIN = 5.0


@dataclass(slots=True)
class _Place:
    """How far a partition was shown: the position, and how many events were ever appended up to it."""

    position: Position
    count: int


class Broadcaster:
    """One incarnation. Its places are taken anew after a restart, so what came in between is not shown."""

    def __init__(self, world: World, audience: Audience) -> None:
        self._world = world
        self._audience = audience
        self._places: dict[TopicPartition, _Place] = {}
        self._dirty: set[TopicPartition] = set()

    @classmethod
    def spec(cls, world: World) -> ChildSpec:
        # It owes nobody anything: whatever it waits for is broken into.
        return ChildSpec(id="broadcaster", actor=lambda: cls(world, world.audience), grace=world.limits.grace(0.01))

    def describe(self) -> dict[str, object]:
        return {"watchers": len(self._audience), "partitions": len(self._places)}

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        retry = Retry(most=2.0)
        while not ctx.stopping.is_set():
            changed = self._audience.changed.mark()
            try:
                with ctx.interruptible():
                    await self._take_places()
                    await self._show()
            except OpenStreamError as error:
                if retry.failures == 0:
                    _log.warning("live tails stand still until Redis is back", error=str(error))
                await pause(ctx, retry.delay())
                continue
            retry.succeeded()
            await self._wait(ctx, changed)

    async def _take_places(self) -> None:
        """Begin at the present end of what is newly watched, and forget what nobody watches any more."""
        seats = self._audience.seats()
        for seat in seats:
            if any(self._gone(at) for at in seat.partitions):
                seat.end("the topic is gone")
        wanted = {at for seat in seats if seat.ended is None for at in seat.partitions}
        for at in self._places.keys() - wanted:
            del self._places[at]
        fresh = sorted(wanted - self._places.keys())
        if fresh:
            for at, stats in zip(fresh, await self._world.log.stats(fresh), strict=True):
                self._places[at] = _Place(stats.last, _appended(stats))
        self._dirty &= self._places.keys()
        for seat in seats:
            if not seat.ready and seat.partitions <= self._places.keys():
                seat.begin()

    def _gone(self, at: TopicPartition) -> bool:
        topic = self._world.board.topics.get(at.topic)
        return topic is None or topic.deleting

    async def _show(self) -> None:
        for at in sorted(self._dirty):
            place, seats = self._places[at], self._watching(at)
            events = await self._world.log.read_after(at, place.position, count=LOOK_EVENTS, max_bytes=LOOK_BYTES)
            for event in events:
                for seat in seats:
                    seat.offer(at.partition, event)
            if events:
                place.position, place.count = events[-1].position, place.count + len(events)
            self._dirty.discard(at)
            if len(events) == LOOK_EVENTS or sum(event.size() for event in events) >= LOOK_BYTES:
                await self._skip(at, place, seats)

    async def _skip(self, at: TopicPartition, place: _Place, seats: list[Seat]) -> None:
        """Go to the end, and say how many events that leaves out."""
        [stats] = await self._world.log.stats([at])
        missed = _appended(stats) - place.count
        if missed > 0 and stats.last > place.position:
            for seat in seats:
                seat.miss(missed)
            place.position, place.count = stats.last, _appended(stats)

    def _watching(self, at: TopicPartition) -> list[Seat]:
        return [seat for seat in self._audience.seats() if at in seat.partitions and seat.ended is None]

    async def _wait(self, ctx: Context, changed: anyio.Event) -> None:
        """Until there is something new on a watched partition, or somebody comes or goes."""
        if not self._places:
            await until_told(ctx, changed, 3600.0)
            return
        await pause(ctx, PACE)
        told = anyio.Event()

        def wake(moved: list[TopicPartition]) -> None:
            self._dirty.update(moved)
            told.set()

        ticket = self._world.watch.wait_for({at: place.position for at, place in self._places.items()}, wake)
        try:
            with ctx.interruptible(), anyio.move_on_after(LOOK_AGAIN) as waited:
                async with anyio.create_task_group() as race:

                    async def first(event: anyio.Event) -> None:
                        await event.wait()
                        race.cancel_scope.cancel()

                    race.start_soon(first, told)
                    race.start_soon(first, changed)
            if waited.cancelled_caught:
                self._dirty.update(self._places)
        finally:
            ticket.close()


def _appended(stats: StreamStats) -> int:
    return stats.persisted_count + stats.unpersisted

"""Dead letters: looked at, and redriven.

Letters go back in batches. PostgreSQL notes what is in a batch, then it is appended to the topic the letters came from
and moves a mark there, then PostgreSQL settles it. Whoever comes next must move that mark on, and settles what it
stands for before he looks which letters are still to go: so none goes twice, whatever breaks off in between.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from openstream_runtime.actors.verifying import verify
from openstream_runtime.actors.world import World
from openstream_runtime.domain.dead_letters import DeadLetter, Redrive, dead_letter_topic, letter_in, redriven
from openstream_runtime.domain.errors import NotFound, Overloaded, Unavailable
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import Place, Span
from openstream_runtime.domain.partitioning import partition_of
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.replays import Mark
from openstream_runtime.domain.topics import Group, Topic
from openstream_runtime.gateway.reading import Reading, apart
from openstream_runtime.gateway.topics import Topics
from openstream_runtime.ports.log import AppendBatch, Appended, Refusal, Refused

PATIENCE = 3.0  # seconds of one request
PAGE = 100
ATTEMPTS = 20  # for one batch, while others redrive from the same partition


@dataclass(frozen=True, slots=True)
class Letter:
    letter: DeadLetter
    #: It went back already.
    redriven: bool


@dataclass(frozen=True, slots=True)
class LetterPage:
    #: The dead-letter topic; it need not exist yet.
    topic: str
    letters: Sequence[Letter]
    next: Place | None


@dataclass(slots=True)
class Redriven:
    topic: str
    redriven: int = 0
    already: int = 0
    #: Of the ids asked for, those under which the group has no dead letter.
    unknown: Sequence[Place] = ()
    #: Where to go on; None: that was all.
    next: Place | None = None


class DeadLetterDesk:
    """The gateway's way to dead letters."""

    def __init__(self, world: World, topics: Topics, reading: Reading) -> None:
        self._world = world
        self._topics = topics
        self._reading = reading
        #: For each dead-letter topic, its partition and the partition appended to: where the mark was last seen, and
        #: the last batch that is known to be settled.
        self._marks: dict[tuple[int, int, int], Position] = {}
        self._settled: dict[tuple[int, int, int], Position] = {}

    async def page(self, topic: str, group: str, *, limit: int, at: Place | None) -> LetterPage:
        source = await self._topics.find(topic)
        return await self._page(await self._topics.group(source, group), limit=limit, at=at)

    async def redrive(
        self, topic: str, group: str, *, to: Redrive, ids: Sequence[Place] | None, at: Place | None
    ) -> Redriven:
        """`ids` None: all, from a place on."""
        source = await self._topics.find(topic)
        found = await self._topics.group(source, group)
        try:
            letters = await self._topics.find(dead_letter_topic(found))
        except NotFound:
            return Redriven(dead_letter_topic(found), unknown=ids or ())
        if ids is None:
            return await self._redrive_all(source, found, letters, to, at)
        return await self._redrive_some(source, found, letters, to, ids)

    async def _redrive_all(
        self, source: Topic, group: Group, letters: Topic, to: Redrive, at: Place | None
    ) -> Redriven:
        done = Redriven(letters.name)
        deadline = self._world.clock.monotonic() + PATIENCE
        while True:
            page = await self._page(group, limit=PAGE, at=at)
            await self._put(done, source, letters, page.letters, to)
            if page.next is None:
                return done
            at = page.next
            if self._world.clock.monotonic() > deadline:
                done.next = at
                return done

    async def _redrive_some(
        self, source: Topic, group: Group, letters: Topic, to: Redrive, ids: Sequence[Place]
    ) -> Redriven:
        done, found, unknown = Redriven(letters.name), [], []
        for place in dict.fromkeys(ids):
            one = await self._letter_at(group, letters, place)
            if one is None:
                unknown.append(place)
            else:
                found.append(one)
        await self._put(done, source, letters, found, to)
        done.unknown = unknown
        return done

    # -- looking

    async def _page(self, group: Group, *, limit: int, at: Place | None) -> LetterPage:
        name = dead_letter_topic(group)
        try:
            found = await self._reading.page(name, None, Span(), limit=limit, at=at)
            topic = await self._topics.find(name)
        except NotFound:
            return LetterPage(name, (), None)
        return LetterPage(name, await self._told(topic, [_of(group, *one) for one in found.events]), found.next)

    async def _letter_at(self, group: Group, letters: Topic, place: Place) -> Letter | None:
        if place.partition >= letters.partitions:
            return None
        span = Span(place.position, place.position)
        found = await self._reading.page(letters.name, place.partition, span, limit=1, at=None)
        told = await self._told(letters, [_of(group, *one) for one in found.events])
        return told[0] if told else None

    async def _told(self, topic: Topic, letters: Sequence[DeadLetter | None]) -> list[Letter]:
        by_partition: dict[int, list[Position]] = defaultdict(list)
        for letter in letters:
            if letter is not None:
                by_partition[letter.partition].append(letter.event.position)
        gone = {
            partition: await self._world.redrives.done(topic.id, partition, positions)
            for partition, positions in by_partition.items()
        }
        return [Letter(one, one.event.position in gone[one.partition]) for one in letters if one is not None]

    # -- sending back

    async def _put(self, done: Redriven, source: Topic, letters: Topic, some: Sequence[Letter], to: Redrive) -> None:
        """Those that did not go back yet, in the order given inside each partition they go to."""
        before = done.redriven
        by_place: dict[tuple[int, int], list[DeadLetter]] = defaultdict(list)
        for one in some:
            if not one.redriven:
                key = one.letter.event.partition_key
                number = (
                    partition_of(key, source.partitions) if key else one.letter.origin_partition % source.partitions
                )
                by_place[one.letter.partition, number].append(one.letter)
        for (partition, target), waiting in by_place.items():
            for start in range(0, len(waiting), PAGE):
                batch = waiting[start : start + PAGE]
                done.redriven += await apart(partial(self._send, source, target, letters, partition, batch, to))
        done.already += len(some) - (done.redriven - before)

    async def _send(
        self, source: Topic, target: int, letters: Topic, partition: int, some: Sequence[DeadLetter], to: Redrive
    ) -> int:
        """Append a batch; how many of these letters it held: others may be faster."""
        world, place = self._world, (letters.id, partition, target)
        sent: dict[Position, int] = {}  # batches whose answer was lost
        for _ in range(ATTEMPTS):
            mark = self._marks.get(place, ZERO)
            if mark > ZERO and self._settled.get(place) != mark:
                await world.redrives.settle(letters.id, partition, mark)
                self._settled[place] = mark
            if mark in sent:
                return sent[mark]
            # Asked after the mark was seen: what is appended from here on moves it, and then ours is refused.
            gone = await world.redrives.done(letters.id, partition, [one.event.position for one in some])
            left = [one for one in some if one.event.position not in gone]
            if not left:
                return 0
            batch_id = Position(world.clock.now_ms(), secrets.randbits(62))
            await world.redrives.note(letters.id, partition, batch_id, [one.event.position for one in left])
            batch = AppendBatch(
                source,
                target,
                [redriven(one, letters.name, to) for one in left],
                source.settings.max_stream_len or world.limits.max_stream_len,
                world.limits.max_unpersisted,
                Mark(f"redrive:{letters.id}", partition, mark, batch_id),
            )
            [outcome] = await world.log.append([batch])
            if isinstance(outcome, Appended):
                self._marks[place] = batch_id
                world.meter.appended(source.name, target, len(left), sum(len(one.event.payload) for one in left))
                await world.redrives.settle(letters.id, partition, batch_id)
                self._settled[place] = batch_id
                return len(left)
            if isinstance(outcome, Refused):
                await self._refused(source, target, place, outcome)
            else:
                sent[batch_id] = len(left)  # the mark tells whether it was kept
        raise Unavailable("others redrive at the same time", backend="redis", retry_after_ms=1000)

    async def _refused(self, source: Topic, target: int, place: tuple[int, int, int], outcome: Refused) -> None:
        """Learn from a refusal, or say what is in the way."""
        if outcome.mark is not None:
            self._marks[place] = outcome.mark
        elif outcome.reason is Refusal.UNVERIFIED:
            if not await verify(self._world, source, target):
                raise NotFound(f"there is no topic {source.name!r}", topic=source.name)
        elif outcome.reason is Refusal.UNAVAILABLE:
            raise Unavailable("Redis takes no writes now", backend="redis", retry_after_ms=1000)
        else:
            raise Overloaded(
                "the topic is full",
                reason=str(outcome.reason),
                retry_after_ms=1000,
                topic=source.name,
                partition=target,
            )


def _of(group: Group, partition: int, event: StoredEvent) -> DeadLetter | None:
    """A letter of this group; None for what else stands in the topic."""
    letter = letter_in(partition, event)
    return letter if letter is not None and (letter.topic, letter.group) == (group.topic, group.name) else None

"""Replays: made, looked at, cancelled. The copying itself is the replayer's (actors/replayer.py)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from openstream_runtime.actors.replayer import BELL
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import Conflict, Gone, InvalidRequest, NotFound, OpenStreamError
from openstream_runtime.domain.history import END, before, first_at, last_at
from openstream_runtime.domain.names import check_topic
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.domain.replays import MIN_RATE, NewReplay, Part, Replay, ReplayState
from openstream_runtime.domain.topics import Topic
from openstream_runtime.gateway.topics import Topics


@dataclass(frozen=True, slots=True)
class ReplayWish:
    """What a client asks for. Of `from_id` and `from_ms`, and of `to_id` and `to_ms`, one at most; both ends are
    included, and without them everything is that is kept."""

    target: str
    from_id: Position | None = None
    from_ms: int | None = None
    to_id: Position | None = None
    to_ms: int | None = None
    partitions: Sequence[int] | None = None
    rate_per_s: float | None = None


class Replaying:
    """The gateway's way to the replays."""

    def __init__(self, world: World, topics: Topics) -> None:
        self._world = world
        self._topics = topics

    async def create(self, name: str, wish: ReplayWish) -> Replay:
        """Everything is settled now: what arrives in the source from here on is no part of it, so it ends."""
        source = await self._topics.find(name)
        if check_topic(wish.target) == source.name:
            raise InvalidRequest("a topic cannot be replayed into itself", topic=source.name)
        if wish.rate_per_s is not None and not MIN_RATE <= wish.rate_per_s < float("inf"):
            raise InvalidRequest(f"rate_per_s must be at least {MIN_RATE}", topic=source.name)
        first, last = _bounds(wish)
        numbers = _partitions(source, wish.partitions)
        parts, waiting = await self._parts(source, numbers, first, last)
        total = await self._world.replays.count(source.id, parts)
        target = await self._target(wish.target, source)
        made = await self._world.replays.create(
            NewReplay(
                id=f"rp_{secrets.token_hex(10)}",
                source_id=source.id,
                source=source.name,
                target_id=target.id,
                target=target.name,
                target_partitions=target.partitions,
                first=first,
                last=last,
                rate_per_s=wish.rate_per_s,
                total=None if total is None else total + waiting,
                parts=parts,
            )
        )
        await self._ring()
        return made

    async def find(self, replay_id: str) -> Replay:
        found = await self._world.replays.find(replay_id)
        if found is None:
            raise _unknown(replay_id)
        return found

    async def all(self) -> list[Replay]:
        return await self._world.replays.all()

    async def cancel(self, replay_id: str) -> Replay:
        done = await self._world.replays.cancel(replay_id)
        if done is None:
            raise _unknown(replay_id)
        replay, now = done
        if not now and replay.state is not ReplayState.CANCELLED:
            raise Conflict(f"the replay has ended: it is {replay.state}", replay_id=replay_id, state=str(replay.state))
        if now:
            await self._ring()
        return replay

    async def _parts(
        self, source: Topic, numbers: Sequence[int], first: Position | None, last: Position | None
    ) -> tuple[list[Part], int]:
        """What is to be copied of each partition, and how many of these events PostgreSQL does not have yet."""
        places = [TopicPartition(source.name, number) for number in numbers]
        # The streams before the cursors: an event of the one is then found behind the other, or before it.
        streams = await self._world.log.stats(places)
        cursors = await self._world.store.cursors()
        floors = await self._world.history.floors(source.id)
        if not floors:
            raise NotFound(f"there is no topic {source.name!r}", topic=source.name)
        begin = first or ZERO
        kept_from = max(floors.get(number, ZERO) for number in numbers)
        if ZERO < begin < kept_from or (last or END) < kept_from:
            raise Gone("not all of that is kept any more", topic=source.name, earliest_id=kept_from)
        parts, waiting = [], 0
        for place, stream in zip(places, streams, strict=True):
            persisted = cursors[place].position if place in cursors else ZERO
            start = before(max(begin, floors.get(place.partition, ZERO)))
            end = max(persisted, stream.last)
            upto = max(start, min(last or END, end))
            parts.append(Part(place.partition, start, upto, start))
            if upto == end > persisted:
                waiting += stream.unpersisted
        return parts, waiting

    async def _target(self, name: str, source: Topic) -> Topic:
        """The target as it is; one that does not exist gets as many partitions as its source."""
        try:
            return await self._topics.find(name)
        except NotFound:
            return await self._topics.find_or_create(name, source.partitions)

    async def _ring(self) -> None:
        try:
            await self._world.tail.ring(BELL)
        except OpenStreamError:
            return  # the nodes look every second by themselves


def _bounds(wish: ReplayWish) -> tuple[Position | None, Position | None]:
    """The first and the last position, both included."""
    if wish.from_id is not None and wish.from_ms is not None:
        raise InvalidRequest("from_id and from_ms exclude each other")
    if wish.to_id is not None and wish.to_ms is not None:
        raise InvalidRequest("to_id and to_ms exclude each other")
    first = wish.from_id if wish.from_ms is None else first_at(wish.from_ms)
    last = wish.to_id if wish.to_ms is None else last_at(wish.to_ms)
    if first is not None and last is not None and last < first:
        raise InvalidRequest("the replay ends before it begins: from is above to")
    return first, last


def _partitions(source: Topic, asked: Sequence[int] | None) -> list[int]:
    numbers = list(range(source.partitions)) if asked is None else sorted(set(asked))
    if not numbers or not 0 <= numbers[0] <= numbers[-1] < source.partitions:
        raise InvalidRequest(f"topic {source.name!r} has partitions 0 to {source.partitions - 1}", topic=source.name)
    return numbers


def _unknown(replay_id: str) -> NotFound:
    return NotFound(f"there is no replay {replay_id[:64]!r}", replay_id=replay_id[:64])

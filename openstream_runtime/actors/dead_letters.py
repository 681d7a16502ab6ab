"""Moving what a partition's groups gave up on to their dead-letter topics: appended there, then acknowledged here.

With the append, in one step, a mark beside the dead-letter partition moves on to the last entry of the batch, and all
is refused if the mark does not stand where the writer thought. Whoever finds the mark in his queue knows that what is
up to it stands in the dead-letter topic, so an owner that dies or sleeps between the two steps doubles nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from openstream_runtime.actors.verifying import verify
from openstream_runtime.actors.world import World
from openstream_runtime.domain.dead_letters import DeadEntry, dead_letter_topic, letter_of
from openstream_runtime.domain.errors import NotFound
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.domain.replays import Mark
from openstream_runtime.domain.topics import Group, Topic, TopicSettings
from openstream_runtime.ports.log import AppendBatch, Appended, AppendOutcome, Refusal, Refused

_log = structlog.get_logger(__name__)

PAGE = 100  # entries moved at once
ATTEMPTS = 10  # without getting on; then the next round tries


class DeadLetters:
    """The dead letters of one partition."""

    def __init__(self, world: World, topic: Topic, at: TopicPartition) -> None:
        self._world = world
        self._topic = topic
        self._at = at
        #: Where each mark was last seen, by dead-letter topic and group.
        self._marks: dict[tuple[int, str], Position] = {}

    async def move(self, group: Group) -> int:
        """Empty a group's queue as far as that goes now; how many letters were written.

        Unavailable when a backend is away; what is left then waits for the next call, on any node.
        """
        moved, idle = 0, 0
        while idle < ATTEMPTS:
            idle += 1
            entries = await self._world.groups.dead(self._at.topic, group.name, self._at.partition, count=PAGE)
            if not entries:
                break
            target = await self._target(group)
            key = target.id, group.name
            # The queue was read after the mark: what is in it and not up to the mark was appended by nobody, or by
            # somebody who has moved the mark on, and then ours is refused.
            mark = self._marks.get(key, ZERO)
            queued = [entry.queued for entry in entries]
            if mark in queued:
                done = entries[: queued.index(mark) + 1]
                moved += await self._bury(group, done)
                idle = 0
                continue
            events = await self._contents(group, entries)
            letters = [
                letter_of(events[entry.position], group, self._at.partition, entry)
                for entry in entries
                if entry.position in events
            ]
            if not letters:
                await self._bury(group, entries)
                continue
            mark_id = f"dead:{self._topic.id}:{group.name}"
            batch = AppendBatch(
                target,
                self._at.partition % target.partitions,
                letters,
                self._world.limits.max_stream_len,
                self._world.limits.max_unpersisted,
                Mark(mark_id, self._at.partition, mark, queued[-1]),
            )
            [outcome] = await self._world.log.append([batch])
            if not await self._settled(target, batch, outcome, key):
                break
        return moved

    async def _settled(self, target: Topic, batch: AppendBatch, outcome: AppendOutcome, key: tuple[int, str]) -> bool:
        """Learn from the outcome of an append; False when it is better to wait."""
        assert batch.mark is not None  # noqa: S101 - it was just given one
        if isinstance(outcome, Appended):
            self._marks[key] = batch.mark.upto
            size = sum(len(event.payload) for event in batch.events)
            self._world.meter.appended(target.name, batch.partition, len(batch.events), size)
        elif isinstance(outcome, Refused) and outcome.mark is not None:
            self._marks[key] = outcome.mark
        elif outcome == Refused(Refusal.UNVERIFIED):
            if not await verify(self._world, target, batch.partition):
                raise NotFound("the dead-letter topic was deleted", topic=target.name)
        elif isinstance(outcome, Refused):
            _log.warning("dead letters wait", topic=target.name, events=len(batch.events), reason=str(outcome.reason))
            return False
        return True  # a lost answer too: the mark tells whether it was kept

    async def _bury(self, group: Group, entries: Sequence[DeadEntry]) -> int:
        """Done with these; how many of them are letters now, as far as this node brought it to an end."""
        buried = await self._world.groups.bury(self._at.topic, group.name, self._at.partition, entries)
        letters = min(buried, sum(entry.held for entry in entries))
        if letters:
            _log.info("events became dead letters", group=group.name, partition=str(self._at), events=letters)
            self._world.meter.dead_lettered(self._at.topic, group.name, letters)
        return letters

    async def _contents(self, group: Group, entries: Sequence[DeadEntry]) -> dict[Position, StoredEvent]:
        """The events of entries that are pending still. What neither Redis nor PostgreSQL keeps nobody can have."""
        found = {entry.position: entry.event for entry in entries if entry.event is not None}
        trimmed = [entry.position for entry in entries if entry.held and entry.event is None]
        if trimmed:
            stored = await self._world.history.at(self._topic.id, self._at.partition, trimmed)
            found.update(stored)
            if lost := [position for position in trimmed if position not in stored]:
                _log.warning(
                    "events of dead letters are not kept any more",
                    group=group.name,
                    partition=str(self._at),
                    events=len(lost),
                )
        return found

    async def _target(self, group: Group) -> Topic:
        """The dead-letter topic, made on first use with as many partitions as the source."""
        name = dead_letter_topic(group)
        known = self._world.board.topics.get(name)
        if known is not None and not known.deleting:
            return known
        topic, is_new = await self._world.catalog.create_topic(name, self._topic.partitions, TopicSettings())
        if topic.deleting:
            raise NotFound(f"dead-letter topic {name!r} is being deleted", topic=name)
        self._world.board.add_topic(topic)
        if is_new:
            _log.info("dead-letter topic created", topic=name, partitions=topic.partitions)
            await self._world.tail.ring("topics")
        return topic

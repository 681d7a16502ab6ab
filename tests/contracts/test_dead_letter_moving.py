"""The way of a dead letter through every log, in memory as on Redis: broken off between its two steps, and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from openstream_runtime.actors.dead_letters import DeadLetters
from openstream_runtime.actors.world import World
from openstream_runtime.domain.dead_letters import DeadEntry, letter_in
from openstream_runtime.domain.errors import Unavailable
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.domain.topics import Group, GroupSettings, Topic
from openstream_runtime.ports.groups import GroupLog
from support.actors import make_world
from support.log_harness import Log, appended, at, events, verified

pytestmark = pytest.mark.anyio


class DiesBeforeTheAck:
    """Groups of a node that dies when a letter is written and not acknowledged yet."""

    def __init__(self, groups: GroupLog) -> None:
        self._groups = groups

    def __getattr__(self, name: str) -> object:
        return getattr(self._groups, name)

    async def bury(self, topic: str, group: str, partition: int, entries: Sequence[DeadEntry]) -> int:
        raise Unavailable("the node is dead", backend="node")


def node(log: Log) -> World:
    """The world of a node on this log; PostgreSQL is in memory."""
    return replace(make_world().world, log=log.events, groups=log.groups, tail=log.tail)


async def a_group(log: Log, world: World, count: int) -> tuple[Topic, Group, list[Position]]:
    """A group that gives up after one delivery, and its dead-letter topic."""
    topic, letters = await verified(log), await verified(log)
    positions = await appended(log, topic, events(count))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    world.board.add_topic(letters)
    settings = GroupSettings(max_deliveries=1, dead_letter_topic=letters.name)
    return topic, Group(topic.id, topic.name, "g", "0-0", settings=settings), positions


async def kill(log: Log, topic: Topic, positions: Sequence[Position]) -> None:
    await log.groups.read(topic.name, "g", "c", [0], count=100, max_deliveries=1)
    await log.groups.nack(topic.name, "g", {0: positions}, max_deliveries=1)


async def written(log: Log, group: Group) -> list[Position]:
    """The originals of the letters, in order."""
    place = TopicPartition(group.settings.dead_letter_topic or "", 0)
    found = [letter_in(0, event) for event in await log.events.read_after(place, ZERO, count=1000)]
    return [letter.origin for letter in found if letter is not None]


async def test_a_letter_is_written_once_although_its_writer_died_before_the_ack(log: Log) -> None:
    world = node(log)
    topic, group, positions = await a_group(log, world, 5)
    await kill(log, topic, positions[3:])
    doomed = replace(world, groups=DiesBeforeTheAck(world.groups))  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await DeadLetters(doomed, topic, at(topic)).move(group)
    assert await written(log, group) == positions[3:]
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert described.pending == 5
    await kill(log, topic, positions[:1])
    assert await DeadLetters(world, topic, at(topic)).move(group) == 3
    assert await written(log, group) == [*positions[3:], positions[0]]
    [described] = await log.groups.describe(topic.name, "g", [0])
    assert described.pending == 2


async def test_letters_of_several_lives_follow_one_another(log: Log) -> None:
    world = node(log)
    topic, group, positions = await a_group(log, world, 6)
    for start in range(0, 6, 2):
        await kill(log, topic, positions[start : start + 2])
        assert await DeadLetters(world, topic, at(topic)).move(group) == 2
    assert await written(log, group) == positions
    assert await log.groups.dead(topic.name, "g", 0, count=9) == []

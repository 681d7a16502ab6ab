"""Verifying: making a partition fit for appends and groups under the Redis that answers now."""

from __future__ import annotations

from collections.abc import Iterable

import anyio

from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.positions import Cursor, Position, TopicPartition
from openstream_runtime.domain.topics import Topic

#: Nodes look for the primary every second, and Sentinels cut off who is with an old one: nobody is for longer.
APART_MS = 5_000
AT_ONCE = 8  # partitions verified side by side: a topic may have a thousand, the store's pool has few connections


async def verify(world: World, topic: Topic, partition: int, cursor: Cursor | None = None) -> str | None:
    """Verify one partition, by PostgreSQL's cursor unless it is known; on which server, None when the topic is gone.

    NotFound when Redis knows a newer topic of that name; Unavailable, OutcomeUnknown.
    """
    cursor = cursor or await world.store.cursor(topic.id, partition)
    if cursor is None:
        return None
    at = TopicPartition(topic.name, partition)
    return await world.log.verify(topic, partition, cursor, floor=floor_of(world, at))


async def verify_all(world: World, topic: Topic, partitions: Iterable[int]) -> None:
    """Verify several partitions; the first trouble is raised when all have ended."""
    trouble: list[OpenStreamError] = []
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def one(partition: int) -> None:
        async with limiter:
            if not trouble:  # a backend that is away costs one timeout and not one for each partition
                try:
                    await verify(world, topic, partition)
                except OpenStreamError as error:
                    trouble.append(error)

    async with anyio.create_task_group() as tasks:
        for partition in partitions:
            tasks.start_soon(one, partition)
    if trouble:
        raise trouble[0]


def floor_of(world: World, at: TopicPartition) -> Position:
    """Above every id that readers may know of a partition, as far as this node can tell, and that somebody may still be
    told by a primary that was replaced and lives: the ids of two servers must not meet. Redis' clock may be ahead of
    ours, and its ids of its clock."""
    soon = Position(world.clock.now_ms() + APART_MS, 0)
    return max(soon, world.board.heights.above(at, world.clock.monotonic()))

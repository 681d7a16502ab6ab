"""Verifying: making a partition fit for appends and groups under the Redis that answers now."""

from __future__ import annotations

from collections.abc import Iterable

import anyio

from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.positions import Cursor, Position, TopicPartition
from openstream_runtime.domain.topics import Topic

AT_ONCE = 8  # partitions verified side by side: a topic may have a thousand, the store's pool has few connections


async def verify(world: World, topic: Topic, partition: int, cursor: Cursor | None = None) -> bool:
    """Verify one partition, by PostgreSQL's cursor unless it is known; False when the topic is gone.

    NotFound when Redis knows a newer topic of that name; Unavailable, OutcomeUnknown.
    """
    cursor = cursor or await world.store.cursor(topic.id, partition)
    if cursor is None:
        return False
    at = TopicPartition(topic.name, partition)
    await world.log.verify(topic, partition, cursor, floor=floor_of(world, at))
    return True


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
    """Above every id that readers may know of a partition, as far as this node can tell: Redis' clock may be ahead of
    ours, and its ids of its clock."""
    return max(Position(world.clock.now_ms(), 0), world.board.heights.above(at, world.clock.monotonic()))

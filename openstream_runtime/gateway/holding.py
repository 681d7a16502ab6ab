"""What consumers hold: given back for another delivery, or kept for longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from openstream_runtime.actors.reaper import bell_of
from openstream_runtime.actors.world import World
from openstream_runtime.domain.names import check_consumer
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.gateway.topics import Topics, numbers_of
from openstream_runtime.ports.redelivery import GivenBack


class Holding:
    """Each is one step in Redis, so it is done here and needs no actor."""

    def __init__(self, world: World, topics: Topics) -> None:
        self._world = world
        self._topics = topics

    async def nack(
        self, topic: str, group: str, items: Mapping[int, Sequence[Position]], *, consumer: str | None, delay_ms: int
    ) -> GivenBack:
        found = await self._topics.find(topic)
        settings = (await self._topics.group(found, group)).settings
        numbers_of(found, list(items))
        done = await self._world.groups.nack(
            found.name, group, items, consumer=consumer, delay_ms=delay_ms, max_deliveries=settings.max_deliveries
        )
        if done.again + done.dead:
            self._world.meter.nacked(found.name, group, done.again + done.dead)
        for partition in items:
            if done.again:  # who waits looks, and learns when to look again
                await self._world.tail.ring(f"group:{found.name}:{group}:{partition}")
            if done.dead:
                await self._world.tail.ring(bell_of(TopicPartition(found.name, partition)))
        return done

    async def extend(
        self, topic: str, group: str, consumer: str, items: Mapping[int, Sequence[Position]]
    ) -> Mapping[int, Sequence[Position]]:
        check_consumer(consumer)
        found = await self._topics.find(topic)
        await self._topics.group(found, group)
        numbers_of(found, list(items))
        return await self._world.groups.extend(found.name, group, consumer, items)

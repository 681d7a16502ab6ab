"""Live tails: the gateway's way to a seat in the audience."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from openstream_runtime.actors.audience import Seat
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import Overloaded, Unavailable
from openstream_runtime.domain.history import Span
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.gateway.topics import Topics, numbers_of

TIMEOUT = 10.0  # seconds until the broadcaster has found the ends of the partitions


class Tailing:
    """Opens live tails."""

    def __init__(self, world: World, topics: Topics) -> None:
        self._world = world
        self._topics = topics

    async def open(
        self, name: str, *, partitions: Sequence[int] | None, key: str | None, event_type: str | None
    ) -> Seat:
        topic = await self._topics.find(name)
        numbers = numbers_of(topic, partitions)
        wanted = Span(key=key, event_type=event_type)
        try:
            seat = self._world.audience.sit([TopicPartition(topic.name, number) for number in numbers], wanted)
        except Overloaded:
            self._world.meter.rejected("tails")
            raise
        try:
            with anyio.fail_after(TIMEOUT):
                await seat.until_ready()
        except TimeoutError:
            seat.close()
            raise Unavailable("the ends of the partitions are not known yet", backend="redis") from None
        except BaseException:
            seat.close()
            raise
        return seat

"""Catching up: what a group wants next is no longer in Redis, so its reader hands it out from PostgreSQL.

A page is read, and the group advanced over it as one step in Redis, if nobody else was faster. What a page holds beyond
what was wanted is kept for the next read. There is no window to refill and no owner to wait for.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import NotFound
from openstream_runtime.domain.events import Delivery, StoredEvent
from openstream_runtime.domain.history import Span
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.groups import Cold, Stub

_log = structlog.get_logger(__name__)

PAGE = 1_000  # events read at once: a page costs a round trip and a plan, however few are wanted of it
PAGE_BYTES = 4 << 20
KEPT_BYTES = 8 << 20  # of events read ahead, by one group on one node


class CatchUp:
    """One group's way through history, on this node."""

    def __init__(self, world: World, topic: str, group: str) -> None:
        self._world = world
        self._topic = topic
        self._group = group
        #: Events read ahead, by partition: everything after the first position, up to and including the second.
        self._ahead: dict[int, tuple[Position, Position, Sequence[StoredEvent]]] = {}

    async def serve(self, consumer: str, cold: Cold, count: int, max_bytes: int) -> list[Delivery]:
        """The next events of a cold partition, now held by the consumer.

        Empty when the group was moved without any: somebody else was faster, or nothing was left. Look again then.
        """
        topic = await self._find_topic()
        upto, events = await self._next(topic, cold, count, max_bytes)
        moved = await self._world.groups.advance(
            self._topic, self._group, consumer, cold, [event.position for event in events], upto
        )
        if not moved:
            return []
        return [Delivery(cold.partition, event, 1) for event in events]

    async def contents(self, stubs: Sequence[Stub]) -> list[Delivery]:
        """The events of stubs, in the same order. What PostgreSQL keeps no more is acknowledged: nobody can have it."""
        by_partition: dict[int, list[Position]] = {}
        for stub in stubs:
            by_partition.setdefault(stub.partition, []).append(stub.position)
        topic = await self._find_topic()
        found = {
            partition: await self._world.history.at(topic.id, partition, positions)
            for partition, positions in by_partition.items()
        }
        gone: dict[int, list[Position]] = {}
        deliveries: list[Delivery] = []
        for stub in stubs:
            event = found[stub.partition].get(stub.position)
            if event is None:
                gone.setdefault(stub.partition, []).append(stub.position)
            else:
                deliveries.append(Delivery(stub.partition, event, stub.deliveries))
        if gone:
            _log.warning(
                "events that waited for an ack are not kept any more",
                topic=self._topic,
                group=self._group,
                events=sum(map(len, gone.values())),
            )
            await self._world.groups.ack(self._topic, self._group, gone)
        return deliveries

    async def _find_topic(self) -> Topic:
        topic = self._world.board.topics.get(self._topic) or await self._world.catalog.topic(self._topic)
        if topic is None or topic.deleting:
            raise NotFound(f"there is no topic {self._topic!r}", topic=self._topic)
        return topic

    async def _next(self, topic: Topic, cold: Cold, count: int, max_bytes: int) -> tuple[Position, list[StoredEvent]]:
        """Events after where the group is, and up to where that is all of them."""
        after, upto, events = self._ahead.pop(cold.partition, (cold.after, cold.after, ()))
        if not after <= cold.after < upto:
            page = await self._world.history.page(
                topic.id,
                cold.partition,
                Span(cold.after.next(), cold.upto),
                count=max(count, PAGE),
                max_bytes=max(1, min(max_bytes, PAGE_BYTES)),
            )
            upto, events = page.upto, page.events
        wanted: list[StoredEvent] = []
        for event in events:
            if event.position > cold.after and len(wanted) < count:
                wanted.append(event)
        rest = [event for event in events if event.position > (wanted[-1].position if wanted else cold.after)]
        if not rest:
            return upto, wanted
        self._keep(cold.partition, wanted[-1].position, upto, rest)
        return wanted[-1].position, wanted

    def _keep(self, partition: int, after: Position, upto: Position, rest: Sequence[StoredEvent]) -> None:
        kept = sum(len(one.payload) for _, _, events in self._ahead.values() for one in events)
        if kept + sum(len(event.payload) for event in rest) <= KEPT_BYTES:
            self._ahead[partition] = (after, upto, rest)

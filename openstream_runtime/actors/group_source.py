"""Where a group's events come from: the streams, PostgreSQL for what is no longer in them, and what others gave back.

Used by the group's reader alone, one call after the other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import structlog

from openstream_runtime.actors.catch_up import CatchUp
from openstream_runtime.actors.placing import place_again
from openstream_runtime.actors.world import World
from openstream_runtime.domain.dead_letters import is_for
from openstream_runtime.domain.errors import NotFound, OpenStreamError, Unavailable
from openstream_runtime.domain.events import Delivery
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import GROUP_DEFAULTS, GroupSettings, Visibility
from openstream_runtime.ports.groups import GroupRead

_log = structlog.get_logger(__name__)

LOOKS = 10  # in a row for one read, while what is cold holds nothing or others are faster
MAX_BYTES = 8 << 20


class GroupSource:
    """One group, on this node."""

    def __init__(self, world: World, topic: str, group: str) -> None:
        self._world = world
        self._topic = topic
        self._group = group
        self._catch_up = CatchUp(world, topic, group)

    async def read(self, consumer: str, partitions: Sequence[int], count: int) -> GroupRead:
        """Up to `count` events, whole, without waiting. `unpersisted`: there is something, and it is worth another look
        in a moment."""
        # Nobody's partition is always the last one. By chance: by turns, two consumers that alternate would each see
        # one half of the partitions first, for ever.
        start = random.randrange(len(partitions))  # noqa: S311 (nothing to guess)
        turned = [*partitions[start:], *partitions[:start]]
        for _ in range(LOOKS):
            found = await self._look(consumer, turned, count)
            if found.missing:
                await self._create(found.missing)
            if found.deliveries:
                found = await self._ours(found)
                if not found.deliveries:
                    continue  # none of them was for this group
                self._world.meter.read(self._topic, self._group, len(found.deliveries))
                return found
            if not found.missing and found.cold is None and not found.stubs:
                return found
        return GroupRead((), {}, unpersisted=True)  # others are faster, time and again

    async def claim(self, consumer: str, partitions: Sequence[int], min_idle_ms: int, count: int) -> GroupRead:
        """Entries that are released or idle for so long, whole."""
        found = await self._world.groups.claim(
            self._topic,
            self._group,
            consumer,
            partitions,
            min_idle_ms=min_idle_ms,
            count=count,
            max_deliveries=self._settings.max_deliveries,
        )
        return await self._ours(await self._whole(consumer, found))

    async def _ours(self, found: GroupRead) -> GroupRead:
        """Without what was redriven for another group of the topic: that is done with for this one."""
        ours: list[Delivery] = []
        items: dict[int, list[Position]] = {}
        for one in found.deliveries:
            if is_for(one.event.headers, self._topic, self._group):
                ours.append(one)
            else:
                items.setdefault(one.partition, []).append(one.event.position)
        if not items:
            return found
        try:
            await self._world.groups.ack(self._topic, self._group, items)
        except OpenStreamError as error:
            _log.info("what is for another group is passed over again later", group=self._group, error=str(error))
        return replace(found, deliveries=ours)

    async def _look(self, consumer: str, partitions: Sequence[int], count: int) -> GroupRead:
        """One look at Redis, and at PostgreSQL for what stands there. What it hands out is whole."""

        async def ask(*, hot_only: bool) -> GroupRead:
            return await self._world.groups.read(
                self._topic,
                self._group,
                consumer,
                partitions,
                count=count,
                persisted=self._visibility is Visibility.PERSISTED,
                hot_only=hot_only,
                max_deliveries=self._settings.max_deliveries,
            )

        found = await self._whole(consumer, await ask(hot_only=False))
        if found.deliveries or found.cold is None:
            return found
        try:
            caught = await self._catch_up.serve(consumer, found.cold, count, MAX_BYTES)
        except Unavailable as away:
            # What Redis has of the other partitions is handed out all the same.
            found = await self._whole(consumer, await ask(hot_only=True))
            if found.deliveries:
                return found
            raise away
        return replace(found, deliveries=caught)

    async def _whole(self, consumer: str, found: GroupRead) -> GroupRead:
        """With the events of its stubs. Where they cannot be had they go back, and the rest is handed out."""
        if not found.stubs:
            return found
        try:
            return replace(found, deliveries=[*await self._catch_up.contents(found.stubs), *found.deliveries])
        except OpenStreamError:
            items: dict[int, list[Position]] = {}
            for stub in found.stubs:
                items.setdefault(stub.partition, []).append(stub.position)
            await self._world.groups.release(self._topic, self._group, consumer, items, undelivered=True)
            if found.deliveries:
                return replace(found, stubs=())
            raise

    @property
    def paused(self) -> bool:
        return self._settings.paused

    @property
    def _settings(self) -> GroupSettings:
        group = self._world.board.groups.get((self._topic, self._group))
        return GROUP_DEFAULTS if group is None else group.settings

    @property
    def _visibility(self) -> Visibility:
        group = self._world.board.groups.get((self._topic, self._group))
        return Visibility.APPENDED if group is None else group.visibility

    async def _create(self, partitions: Sequence[int]) -> None:
        """Redis does not know the group on these: it was lost with Redis, or its creation broke off half way.

        PostgreSQL is asked, not the board: a group somebody has just deleted must not come back, or the next one of
        that name would begin in its place.
        """
        topic = await self._world.catalog.topic(self._topic)
        group = await self._world.catalog.group(self._topic, self._group)
        if topic is None or group is None:
            raise NotFound(f"there is no group {self._group!r} on topic {self._topic!r}")
        _log.warning("group created again", group=self._group, topic=self._topic, partitions=list(partitions))
        await place_again(self._world, topic, group, list(partitions))

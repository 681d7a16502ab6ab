"""Topics and groups by name: from the board when it knows them, from PostgreSQL when it does not."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import Conflict, InvalidRequest, NotFound, OpenStreamError
from openstream_runtime.domain.names import check_group, check_topic
from openstream_runtime.domain.topics import MAX_PARTITIONS, Group, Topic, TopicSettings

_log = structlog.get_logger(__name__)


class Topics:
    """Finds, makes and marks topics. NotFound, Conflict and InvalidRequest are for the client; Unavailable passes."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def find(self, name: str) -> Topic:
        topic = self._world.board.topics.get(check_topic(name))
        if topic is None and (topic := await self._world.catalog.topic(name)) is not None:
            self._world.board.add_topic(topic)
        if topic is None or topic.deleting:
            raise NotFound(f"there is no topic {name!r}", topic=name)
        return topic

    async def find_or_create(self, name: str, partitions: int | None) -> Topic:
        """For a producer: the first use of a name makes the topic, and its count stands from then on."""
        topic = self._world.board.topics.get(check_topic(name))
        if topic is None:
            topic, _ = await self._create(name, partitions, TopicSettings())
        self._check_count(topic, partitions)
        return topic

    async def put(self, name: str, partitions: int | None, settings: TopicSettings) -> tuple[Topic, bool]:
        topic, new = await self._create(check_topic(name), partitions, settings)
        if new:
            return topic, True
        self._check_count(topic, partitions)
        if topic.settings != settings:
            altered = await self._world.catalog.alter_topic(name, settings)
            if altered is None or altered.deleting:
                raise NotFound(f"there is no topic {name!r}", topic=name)
            topic = altered
            await self._announce(topic)
        return topic, False

    async def delete(self, name: str) -> Topic:
        topic = await self._world.catalog.begin_delete(check_topic(name))
        if topic is None:
            raise NotFound(f"there is no topic {name!r}", topic=name)
        await self._announce(topic)
        return topic

    async def group(self, topic: Topic, name: str) -> Group:
        group = self._world.board.groups.get((topic.name, check_group(name)))
        if group is None or group.topic_id != topic.id:
            group = await self._world.catalog.group(topic.name, name)
            if group is None or group.topic_id != topic.id:
                raise NotFound(f"there is no group {name!r} on topic {topic.name!r}", topic=topic.name, group=name)
            self._world.board.add_group(group)
        return group

    async def announce(self) -> None:
        """Have every node read the catalog now; without it they do within a second."""
        try:
            await self._world.tail.ring("topics")
        except OpenStreamError as error:
            _log.debug("the change is seen at the next refresh", error=str(error))

    async def _create(self, name: str, partitions: int | None, settings: TopicSettings) -> tuple[Topic, bool]:
        count = self._world.limits.partitions_default if partitions is None else partitions
        if not 1 <= count <= MAX_PARTITIONS:
            raise InvalidRequest(f"a topic has 1 to {MAX_PARTITIONS} partitions, not {count}", topic=name)
        topic, new = await self._world.catalog.create_topic(name, count, settings)
        if topic.deleting:
            raise Conflict(f"topic {name!r} is being deleted; its name is free again in a moment", topic=name)
        if new:
            _log.info("topic created", topic=name, partitions=count)
            await self._announce(topic)
        else:
            self._world.board.add_topic(topic)
        return topic, new

    async def _announce(self, topic: Topic) -> None:
        self._world.board.add_topic(topic)
        await self.announce()

    def _check_count(self, topic: Topic, partitions: int | None) -> None:
        if topic.deleting:
            raise Conflict(f"topic {topic.name!r} is being deleted", topic=topic.name)
        if partitions is not None and partitions != topic.partitions:
            # Lowering would lose events, raising would move keys and break their order.
            raise Conflict(
                f"topic {topic.name!r} has {topic.partitions} partitions, not {partitions}",
                topic=topic.name,
                partitions=topic.partitions,
            )


def numbers_of(topic: Topic, wanted: Sequence[int] | None) -> list[int]:
    """Each wanted partition once, every one for None; InvalidRequest for one there is not."""
    if wanted is None:
        return list(range(topic.partitions))
    for number in wanted:
        if not 0 <= number < topic.partitions:
            raise InvalidRequest(
                f"topic {topic.name!r} has partitions 0 to {topic.partitions - 1}, not {number}", topic=topic.name
            )
    if not wanted:
        raise InvalidRequest("`partitions` is empty: leave it out to mean all of them", topic=topic.name)
    return list(dict.fromkeys(wanted))

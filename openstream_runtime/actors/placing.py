"""Placing: putting a group somewhere, in Redis and in PostgreSQL's memory of it."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from openstream_runtime.actors.verifying import verify_all
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError, Unavailable
from openstream_runtime.domain.topics import Group, Topic
from openstream_runtime.ports.groups import Placed
from openstream_runtime.ports.store import GroupMark

_log = structlog.get_logger(__name__)


async def place(world: World, topic: Topic, group: str, positions: Mapping[int, str], *, anew: bool) -> Placed:
    """Put a group at these positions: in place of whatever Redis knows of it, or only where Redis does not know it.

    Partitions nobody has verified since Redis lost them are verified first: before that nobody knows where they end.
    """
    put = world.groups.set_position if anew else world.groups.create
    placed = await put(topic.name, group, positions)
    if placed.unverified:
        await verify_all(world, topic, placed.unverified)
        rest = await put(topic.name, group, {number: positions[number] for number in placed.unverified})
        if rest.unverified:
            raise Unavailable("partitions are being checked against PostgreSQL", backend="redis", retry_after_ms=1000)
        placed = Placed({**placed.positions, **rest.positions}, placed.dropped + rest.dropped)
    try:
        await world.positions.save(
            [GroupMark(topic.id, group, number, position) for number, position in placed.positions.items()]
        )
    except OpenStreamError as error:  # it is saved again within a second or so
        _log.info("the group's new position is in Redis only, for now", group=group, error=str(error))
    return placed


async def place_again(world: World, topic: Topic, group: Group, partitions: list[int]) -> Placed:
    """Put a group that Redis has lost where PostgreSQL knows it was: some events may come again, none is left out."""
    known = await world.positions.of(topic.id, group.name)
    begin = first_position(group)
    positions = {number: str(known[number]) if number in known else begin for number in partitions}
    return await place(world, topic, group.name, positions, anew=False)


def first_position(group: Group) -> str:
    """Where a group begins on a partition nobody knows it on: never after an event it has not seen."""
    return f"{group.created_ms}-0" if group.start_id == "$" else group.start_id

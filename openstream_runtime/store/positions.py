"""Where groups are, on PostgreSQL: written as they go, read when Redis has lost it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from openstream_runtime.domain.positions import Position
from openstream_runtime.ports.store import GroupMark
from openstream_runtime.store.pool import Connection, Pool
from openstream_runtime.store.queries import query

_SAVE, _OF = query("save_positions"), query("positions")


class PostgresGroupPositions:
    """ports.GroupPositions."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def save(self, marks: Sequence[GroupMark]) -> None:
        if not marks:
            return
        # In key order, so that two who write the same rows never wait for each other in a circle.
        ordered = sorted({(mark.topic_id, mark.group, mark.partition): mark.position for mark in marks}.items())
        columns = [
            [topic for (topic, _, _), _ in ordered],
            [group for (_, group, _), _ in ordered],
            [partition for (_, _, partition), _ in ordered],
            [position.ms for _, position in ordered],
            [position.seq for _, position in ordered],
        ]

        async def save(connection: Connection) -> None:
            await connection.execute(_SAVE, columns)

        await self._pool.run(save)

    async def of(self, topic_id: int, group: str) -> Mapping[int, Position]:
        async def fetch(connection: Connection) -> dict[int, Position]:
            return {
                partition: Position(ms, seq)
                async for partition, ms, seq in await connection.execute(_OF, [topic_id, group])
            }

        return await self._pool.run(fetch)

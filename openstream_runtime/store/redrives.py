"""Which dead letters went back, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from openstream_runtime.domain.positions import Position
from openstream_runtime.store.pool import Connection, Pool
from openstream_runtime.store.queries import query

_DONE, _RECORD = query("redriven"), query("record_redriven")


class PostgresRedrives:
    """redelivery_ports.Redrives."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def done(self, topic_id: int, partition: int, positions: Sequence[Position]) -> frozenset[Position]:
        values = [topic_id, partition, [one.ms for one in positions], [one.seq for one in positions]]

        async def fetch(connection: Connection) -> frozenset[Position]:
            rows = await connection.execute(_DONE, values)
            return frozenset([Position(ms, seq) async for ms, seq in rows])

        return await self._pool.run(fetch)

    async def record(self, topic_id: int, partition: int, positions: Sequence[Position]) -> None:
        values = [partition, [one.ms for one in positions], [one.seq for one in positions], topic_id]

        async def insert(connection: Connection) -> None:
            await connection.execute(_RECORD, values)

        await self._pool.run(insert)

"""Which dead letters went back, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from openstream_runtime.domain.positions import Position
from openstream_runtime.store.pool import Connection, Pool
from openstream_runtime.store.queries import query

_NOTE, _SETTLE, _DONE = query("note_redrive"), query("settle_redrive"), query("redriven")


class PostgresRedrives:
    """ports.redelivery.Redrives."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def done(self, topic_id: int, partition: int, positions: Sequence[Position]) -> frozenset[Position]:
        values = [topic_id, partition, [one.ms for one in positions], [one.seq for one in positions]]

        async def fetch(connection: Connection) -> frozenset[Position]:
            rows = await connection.execute(_DONE, values)
            return frozenset([Position(ms, seq) async for ms, seq in rows])

        return await self._pool.run(fetch)

    async def note(self, topic_id: int, partition: int, batch: Position, positions: Sequence[Position]) -> None:
        columns = [one.ms for one in positions], [one.seq for one in positions]
        await self._write(_NOTE, [partition, batch.ms, batch.seq, *columns, topic_id])

    async def settle(self, topic_id: int, partition: int, batch: Position) -> None:
        await self._write(_SETTLE, [topic_id, partition, batch.ms, batch.seq])

    async def _write(self, statement: bytes, values: Sequence[object]) -> None:
        async def write(connection: Connection) -> None:
            await connection.execute(statement, values)

        await self._pool.run(write)

"""The events table on PostgreSQL: fenced group commits of many partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psycopg

from openstream_runtime.domain.positions import Cursor, Position, TopicPartition
from openstream_runtime.ports import Committed, FencedOff, Holding, PersistBatch
from openstream_runtime.store import fence, rows
from openstream_runtime.store.errors import is_missing_day, is_refused_row
from openstream_runtime.store.fence import Key, Verdict
from openstream_runtime.store.partitions import DAY_MS, LAST_DAY, TimePartitions
from openstream_runtime.store.pool import Connection, Pool
from openstream_runtime.store.quarantine import Sieve, copy
from openstream_runtime.store.queries import query

_LOCK_CURSORS, _MOVE_CURSORS = query("lock_cursors"), query("move_cursors")
_TAKE, _CURSOR, _CURSORS, _PING = query("take"), query("cursor"), query("cursors"), query("ping")
_HOLDS = query("holds")

Outcome = Committed | FencedOff


class _RowsRefused(Exception):
    """A row among those of a fast write was refused; everything was rolled back."""


class PostgresEvents:
    """ports.EventStore."""

    def __init__(self, pool: Pool, partitions: TimePartitions) -> None:
        self._pool = pool
        self._partitions = partitions

    async def take(self, topic_id: int, partition: int, owner: str) -> Cursor | None:
        # Not `transact`: an epoch bumped by a call whose answer was lost belongs to nobody, and taking again is safe.
        return await self._pool.run(lambda connection: _one_cursor(connection, _TAKE, [owner, topic_id, partition]))

    async def cursor(self, topic_id: int, partition: int) -> Cursor | None:
        return await self._pool.run(lambda connection: _one_cursor(connection, _CURSOR, [topic_id, partition]))

    async def cursors(self) -> Mapping[TopicPartition, Cursor]:
        async def fetch(connection: Connection) -> dict[TopicPartition, Cursor]:
            return {
                TopicPartition(name, partition): Cursor(epoch, generation, Position(ms, seq))
                async for name, partition, epoch, generation, ms, seq in await connection.execute(_CURSORS)
            }

        return await self._pool.run(fetch)

    async def holds(self, asked: Sequence[tuple[Key, Sequence[Position]]]) -> list[Holding]:
        places = [(*key, position) for key, positions in asked for position in positions]
        values = [
            [topic_id for topic_id, _, _ in places],
            [partition for _, partition, _ in places],
            [position.ms for _, _, position in places],
            [position.seq for _, _, position in places],
        ]

        async def fetch(connection: Connection) -> list[tuple[Position | None, bool]]:
            found = await connection.execute(_HOLDS, values)
            return [(None if ms is None else Position(ms, seq), held) async for ms, seq, held in found]

        # One statement, so that rows and cursors are of one moment: what is behind its cursor then, stays away.
        rows = iter(await self._pool.run(fetch) if places else ())
        return [_holding([(position, *next(rows)) for position in positions]) for _, positions in asked]

    async def ping(self) -> None:
        async def ping(connection: Connection) -> None:
            await connection.execute(_PING)

        await self._pool.run(ping)

    async def write(self, batches: Sequence[PersistBatch]) -> list[Outcome]:
        """See the port. Raises ValueError for a batch whose events lie outside (after, upto]."""
        if not batches:
            return []
        fence.check(batches)
        # Positions are in order, so mostly one day tells all; a day forgotten here is made in the second attempt.
        await self._partitions.ensure(
            day
            for batch in batches
            if batch.events
            for day in {_day(batch.events[0].position), _day(batch.events[-1].position)}
        )
        limits = self._pool.limits
        try:
            return await self._pool.transact(lambda connection: _write(connection, batches), deadline=limits.write)
        except _RowsRefused:
            await self._partitions.names()
            await self._partitions.ensure(_day(event.position) for batch in batches for event in batch.events)
        return await self._pool.transact(lambda connection: _sift(connection, batches), deadline=limits.sift)


def _holding(found: Sequence[tuple[Position, Position | None, bool]]) -> Holding:
    held = frozenset(position for position, _, is_held in found if is_held)
    return Holding(held, found[0][1] if found else None)


def _day(position: Position) -> int:
    return min(max(position.ms, 0) // DAY_MS, LAST_DAY)


async def _one_cursor(connection: Connection, statement: bytes, values: list[object]) -> Cursor | None:
    row = await (await connection.execute(statement, values)).fetchone()
    return Cursor(row[0], row[1], Position(row[2], row[3])) if row else None


async def _write(connection: Connection, batches: Sequence[PersistBatch]) -> list[Outcome]:
    """The fast way: all rows in one COPY."""
    verdict = await _lock(connection, batches)
    parts = [(batch, batch.events) for batch, live in zip(batches, verdict.live, strict=True) if live and batch.events]
    if parts:
        try:
            await copy(connection, parts)
        except rows.UNENCODABLE as error:
            raise _RowsRefused from error
        except psycopg.Error as error:
            if is_refused_row(error) or is_missing_day(error):
                raise _RowsRefused from error
            raise
    await _move(connection, verdict)
    return [Committed() if live else FencedOff() for live in verdict.live]


async def _sift(connection: Connection, batches: Sequence[PersistBatch]) -> list[Outcome]:
    """The slow way: rows that are refused go to quarantine."""
    verdict = await _lock(connection, batches)
    sieve = Sieve(connection)
    await sieve.write({number: batch for number, batch in enumerate(batches) if verdict.live[number]})
    await _move(connection, verdict)
    return [
        Committed(quarantined=sieve.refused[number]) if live else FencedOff()
        for number, live in enumerate(verdict.live)
    ]


async def _lock(connection: Connection, batches: Sequence[PersistBatch]) -> Verdict:
    keys = sorted({(batch.topic_id, batch.partition) for batch in batches})
    found = await connection.execute(_LOCK_CURSORS, [[topic for topic, _ in keys], [number for _, number in keys]])
    cursors: dict[Key, Cursor] = {}
    async for topic_id, partition, epoch, generation, ms, seq, closed in found:
        if not closed:
            cursors[topic_id, partition] = Cursor(epoch, generation, Position(ms, seq))
    return fence.judge(batches, cursors)


async def _move(connection: Connection, verdict: Verdict) -> None:
    if not verdict.moves:
        return
    moves = list(verdict.moves.items())
    await connection.execute(
        _MOVE_CURSORS,
        [
            [topic_id for (topic_id, _), _ in moves],
            [partition for (_, partition), _ in moves],
            [move.upto.ms for _, move in moves],
            [move.upto.seq for _, move in moves],
            [move.events for _, move in moves],
        ],
    )

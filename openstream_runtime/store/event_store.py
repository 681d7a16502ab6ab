"""The events table on PostgreSQL: fenced group commits of many partitions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import psycopg

from openstream_runtime.domain.positions import Cursor, Position, TopicPartition
from openstream_runtime.ports.store import Committed, FencedOff, Holding, PersistBatch
from openstream_runtime.store import fence, rows
from openstream_runtime.store.errors import is_missing_day, is_refused_row, unavailable
from openstream_runtime.store.fence import Key, Verdict
from openstream_runtime.store.partitions import Place, TimePartitions, class_of, day_of
from openstream_runtime.store.pool import Connection, Pool
from openstream_runtime.store.quarantine import Sieve, copy
from openstream_runtime.store.queries import query

_LOCK_CURSORS, _MOVE_CURSORS = query("lock_cursors"), query("move_cursors")
_TAKE, _CURSOR, _CURSORS, _PING = query("take"), query("cursor"), query("cursors"), query("ping")
_HOLDS = query("holds")

Outcome = Committed | FencedOff
#: Once to find a place missing, once to write, and once more should the topic's history change in between.
_ATTEMPTS = 3


class _RowsRefused(Exception):
    """A row among those of a fast write was refused; everything was rolled back."""


class _NoPlace(Exception):
    """Time partitions that are not known to exist; nothing was written yet."""

    def __init__(self, places: set[Place]) -> None:
        super().__init__(places)
        self.places = places


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
        limits, places = self._pool.limits, self._partitions
        try:
            return await self._placed(lambda connection: _write(connection, batches, places), limits.write)
        except _RowsRefused:
            await places.refresh()
        return await self._placed(lambda connection: _sift(connection, batches, places), limits.sift)

    async def _placed(self, write: Callable[[Connection], Awaitable[list[Outcome]]], deadline: float) -> list[Outcome]:
        """Write; a day or a class that is not there yet is made, in a transaction of its own, and all begins again."""
        for _ in range(_ATTEMPTS):
            try:
                return await self._pool.transact(write, deadline=deadline)
            except _NoPlace as lack:
                await self._partitions.ensure(lack.places)
        raise unavailable("the histories of topics change faster than time partitions are made")


def _holding(found: Sequence[tuple[Position, Position | None, bool]]) -> Holding:
    held = frozenset(position for position, _, is_held in found if is_held)
    return Holding(held, found[0][1] if found else None)


async def _one_cursor(connection: Connection, statement: bytes, values: list[object]) -> Cursor | None:
    row = await (await connection.execute(statement, values)).fetchone()
    return Cursor(row[0], row[1], Position(row[2], row[3])) if row else None


async def _write(connection: Connection, batches: Sequence[PersistBatch], known: TimePartitions) -> list[Outcome]:
    """The fast way: all rows in one COPY."""
    verdict, keeps = await _lock(connection, batches)
    parts = [(batch, batch.events) for batch, live in zip(batches, verdict.live, strict=True) if live and batch.events]
    if parts:
        # Positions are in order, so mostly one day tells all; a day forgotten here is made in the second attempt.
        _check(known, [(batch, events[end].position) for batch, events in parts for end in (0, -1)], keeps)
        try:
            await copy(connection, parts, keeps)
        except rows.UNENCODABLE as error:
            raise _RowsRefused from error
        except psycopg.Error as error:
            if is_refused_row(error) or is_missing_day(error):
                raise _RowsRefused from error
            raise
    await _move(connection, verdict)
    return [Committed() if live else FencedOff() for live in verdict.live]


async def _sift(connection: Connection, batches: Sequence[PersistBatch], known: TimePartitions) -> list[Outcome]:
    """The slow way: rows that are refused go to quarantine."""
    verdict, keeps = await _lock(connection, batches)
    live = {number: batch for number, batch in enumerate(batches) if verdict.live[number]}
    _check(known, [(batch, event.position) for batch in live.values() for event in batch.events], keeps)
    sieve = Sieve(connection, keeps)
    await sieve.write(live)
    await _move(connection, verdict)
    return [
        Committed(quarantined=sieve.refused[number]) if is_live else FencedOff()
        for number, is_live in enumerate(verdict.live)
    ]


async def _lock(connection: Connection, batches: Sequence[PersistBatch]) -> tuple[Verdict, Mapping[int, int]]:
    """Lock the cursors; what may be written, and the class of each topic's history."""
    keys = sorted({(batch.topic_id, batch.partition) for batch in batches})
    found = await connection.execute(_LOCK_CURSORS, [[topic for topic, _ in keys], [number for _, number in keys]])
    cursors: dict[Key, Cursor] = {}
    keeps: dict[int, int] = {}
    async for topic_id, partition, epoch, generation, ms, seq, closed, history_ms in found:
        keeps[topic_id] = class_of(history_ms)
        if not closed:
            cursors[topic_id, partition] = Cursor(epoch, generation, Position(ms, seq))
    return fence.judge(batches, cursors), keeps


def _check(known: TimePartitions, wanted: Iterable[tuple[PersistBatch, Position]], keeps: Mapping[int, int]) -> None:
    places = {Place(day_of(position.ms), keeps[batch.topic_id]) for batch, position in wanted}
    if missing := known.missing(places):
        raise _NoPlace(missing)


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
            [move.first_ms for _, move in moves],
        ],
    )

"""The slow way to write rows: find those that PostgreSQL refuses, put them into quarantine, keep the rest.

Taken only after the fast way failed. One refused row must not block its partition, and a row whose id is taken by
another event must never be dropped silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import psycopg
import structlog

from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.positions import Position
from openstream_runtime.ports.store import PersistBatch
from openstream_runtime.store import rows
from openstream_runtime.store.errors import is_missing_day, is_refused_row, sentence
from openstream_runtime.store.pool import Connection
from openstream_runtime.store.queries import query

_COPY, _STORED, _QUARANTINE = query("copy_events"), query("stored_between"), query("quarantine")
_log = structlog.get_logger(__name__)


class Row(NamedTuple):
    """An event, and which batch of the write it belongs to."""

    number: int
    batch: PersistBatch
    event: StoredEvent


class Sieve:
    """Writes the rows of one transaction; afterwards `refused` says how many of each batch were not kept.

    `keeps`: the class of each topic's history.
    """

    def __init__(self, connection: Connection, keeps: Mapping[int, int]) -> None:
        self._connection = connection
        self._keeps = keeps
        self.refused: Counter[int] = Counter()

    async def write(self, live: Mapping[int, PersistBatch]) -> None:
        good: list[Row] = []
        for number, batch in live.items():
            # Beyond the cursor there is nothing, unless somebody wrote around the fence or restored an old backup.
            taken = await self._stored(batch, batch.after, batch.upto)
            for event in batch.events:
                row = Row(number, batch, event)
                known = taken.get(event.position)
                if known is not None:
                    await self._collide(row, known)
                elif (why := rows.defect(event)) is not None:
                    await self._quarantine(row, "refused", why)
                else:
                    taken[event.position] = event
                    good.append(row)
        await self._copy(good)

    async def _copy(self, part: Sequence[Row]) -> None:
        """Copy what can be copied, halving until the refused rows stand alone: about log2(n) attempts for one."""
        if not part:
            return
        await self._connection.execute("SAVEPOINT sieve")
        try:
            parts = [(batch, [row.event for row in group]) for batch, group in _by_batch(part)]
            await copy(self._connection, parts, self._keeps)
        except psycopg.Error as error:
            if not is_refused_row(error) or is_missing_day(error):
                raise
            await self._connection.execute("ROLLBACK TO SAVEPOINT sieve")
            refusal = error
        else:
            await self._connection.execute("RELEASE SAVEPOINT sieve")
            return
        if len(part) > 1:
            middle = len(part) // 2
            await self._copy(part[:middle])
            await self._copy(part[middle:])
            return
        (row,) = part
        if isinstance(refusal, psycopg.errors.UniqueViolation):
            # Written around the fence since we looked: nobody who keeps to it can, we hold the cursor's row.
            stored = await self._stored(row.batch, row.batch.after, row.event.position)
            if (known := stored.get(row.event.position)) is not None:
                await self._collide(row, known)
                return
        await self._quarantine(row, "refused", sentence(refusal))

    async def _stored(self, batch: PersistBatch, after: Position, upto: Position) -> dict[Position, StoredEvent]:
        bounds = {"after_ms": after.ms, "after_seq": after.seq, "upto_ms": upto.ms, "upto_seq": upto.seq}
        names = {"topic_id": batch.topic_id, "partition": batch.partition, "generation": batch.generation}
        found = await self._connection.execute(_STORED, names | bounds)
        stored: dict[Position, StoredEvent] = {}
        async for ms, seq, event_type, key, payload, headers, timestamp_ms in found:
            position = Position(ms, seq)
            stored[position] = StoredEvent(position, event_type, key, payload, timestamp_ms, headers)
        return stored

    async def _collide(self, row: Row, known: StoredEvent) -> None:
        if row.event == known:
            return  # written before, and the same: nothing to do
        await self._quarantine(row, "collision", "another event is stored under this position")
        _log.critical("a position names two different events; the later one is in quarantine", **_where(row))

    async def _quarantine(self, row: Row, reason: str, error: str) -> None:
        batch, event = row.batch, row.event
        self.refused[row.number] += 1
        await self._connection.execute(
            _QUARANTINE,
            [
                *(batch.topic_id, batch.partition, batch.generation, event.position.ms, event.position.seq),
                rows.raw_text(event.event_type),
                None if event.partition_key is None else rows.raw_text(event.partition_key),
                *(event.payload, event.headers, event.timestamp_ms, reason, error),
            ],
        )
        if reason == "refused":
            _log.error("an event is in quarantine", why=error, **_where(row))


def _where(row: Row) -> dict[str, object]:
    batch = row.batch
    return {
        "topic_id": batch.topic_id,
        "partition": batch.partition,
        "generation": batch.generation,
        "position": str(row.event.position),
    }


def _by_batch(part: Sequence[Row]) -> list[tuple[PersistBatch, list[Row]]]:
    groups = (list(group) for _, group in groupby(part, key=lambda row: row.number))
    return [(group[0].batch, group) for group in groups]


async def copy(
    connection: Connection, parts: Sequence[tuple[PersistBatch, Sequence[StoredEvent]]], keeps: Mapping[int, int]
) -> None:
    """All rows in one COPY. Raises psycopg.Error, or one of rows.UNENCODABLE; the transaction is then broken."""
    async with connection.cursor() as cursor, cursor.copy(_COPY) as out:
        await out.write(rows.HEADER)
        for batch, events in parts:
            keep = keeps[batch.topic_id]
            for block in rows.blocks(batch.topic_id, batch.partition, batch.generation, keep, events):
                await out.write(block)
        await out.write(rows.TRAILER)

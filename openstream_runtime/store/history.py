"""The history on PostgreSQL: pages of a partition's log, each a short statement of its own.

Keyset pagination: a page begins at a position, found by the index, so the millionth page costs what the first one did.
Between two pages nothing is held, neither a connection nor a cursor nor a snapshot, so a slow reader costs nothing and
VACUUM is never held up. Reads of one generation, the partition's present one: positions are unique inside it. No older
one exists yet; when they do, the order over all is (generation, ms, seq).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import Span
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.ports import HistoryPage
from openstream_runtime.store.pool import Connection, Pool
from openstream_runtime.store.queries import query

_PAGE, _PAGE_OF_KEY = query("history_page"), query("history_page_of_key")
_FLOOR, _FLOORS = query("floor"), query("floors")
_AT, _COUNT = query("history_at"), query("history_count")
#: Rows looked at for one page when most of them may be of another type.
SCAN = 5_000
#: Pages read at the same time: of the pool's eight connections most stay with those who write.
AT_ONCE = 3


class PostgresHistory:
    """ports.History."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._turns = anyio.Semaphore(AT_ONCE)

    async def page(self, topic_id: int, partition: int, span: Span, *, count: int, max_bytes: int) -> HistoryPage:
        scan = count if span.event_type is None else max(count, SCAN)
        values = {
            "topic_id": topic_id,
            "partition": partition,
            "first_ms": span.first.ms,
            "first_seq": span.first.seq,
            "last_ms": span.last.ms,
            "last_seq": span.last.seq,
            "event_type": span.event_type,
            "count": count,
            "max_bytes": max_bytes,
            "scan": scan,
        }
        statement = _PAGE
        if span.key is not None:
            statement, values["key"] = _PAGE_OF_KEY, span.key
        if "\0" in (span.key or "") or "\0" in (span.event_type or ""):
            return HistoryPage([], span.last, ZERO)  # no stored text holds one, and none may be asked for

        async def fetch(connection: Connection) -> tuple[list[tuple[Any, ...]], Position]:
            # Not prepared: a plan made for these very values knows the days it needs and how few rows are wanted.
            found = await connection.execute(statement, values, prepare=False, binary=True)
            rows = await found.fetchall()
            # Only now: what was dropped before the rows were read is below this floor.
            floor = await (await connection.execute(_FLOOR, [topic_id, partition])).fetchone()
            return rows, ZERO if floor is None else Position(*floor)

        async with self._turns:
            rows, floor = await self._pool.run(fetch)
        events = [StoredEvent(Position(row[0], row[1]), *row[2:7]) for row in rows if row[7]]
        return HistoryPage(events, _reach(rows, span, count=count, max_bytes=max_bytes, scan=scan), floor)

    async def at(self, topic_id: int, partition: int, positions: Sequence[Position]) -> Mapping[Position, StoredEvent]:
        if not positions:
            return {}
        values = {
            "topic_id": topic_id,
            "partition": partition,
            "ms": [position.ms for position in positions],
            "seq": [position.seq for position in positions],
            "first_ms": min(positions).ms,
            "last_ms": max(positions).ms,
        }

        async def fetch(connection: Connection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(_AT, values, prepare=False, binary=True)).fetchall()

        async with self._turns:
            rows = await self._pool.run(fetch)
        return {Position(row[0], row[1]): StoredEvent(Position(row[0], row[1]), *row[2:7]) for row in rows}

    async def count(self, topic_id: int, partition: int, after: Position, upto: Position) -> int:
        values = {
            "topic_id": topic_id,
            "partition": partition,
            "after_ms": after.ms,
            "after_seq": after.seq,
            "upto_ms": upto.ms,
            "upto_seq": upto.seq,
        }

        async def fetch(connection: Connection) -> int:
            row = await (await connection.execute(_COUNT, values, prepare=False)).fetchone()
            return int(row[0]) if row else 0

        async with self._turns:
            return await self._pool.run(fetch)

    async def floors(self, topic_id: int) -> Mapping[int, Position]:
        async def fetch(connection: Connection) -> dict[int, Position]:
            return {
                partition: Position(ms, seq)
                async for partition, ms, seq in await connection.execute(_FLOORS, [topic_id])
            }

        return await self._pool.run(fetch)


def _reach(rows: list[tuple[Any, ...]], span: Span, *, count: int, max_bytes: int, scan: int) -> Position:
    """How far a page reaches: to its last row when something cut it there, else to the end of the span."""
    if not rows:
        return span.last
    ms, seq, *_, number, size = rows[-1]
    matching = sum(1 for row in rows if row[7])
    cut = number == scan or matching == count or size >= max_bytes
    return Position(ms, seq) if cut else span.last

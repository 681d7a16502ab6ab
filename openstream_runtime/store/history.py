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
from openstream_runtime.domain.history import Span, last_at
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.ports.store import HistoryPage
from openstream_runtime.store.partitions import DAY_MS, LAST_DAY, day_in
from openstream_runtime.store.pool import Connection, Pool
from openstream_runtime.store.queries import query

_PAGE, _PAGE_OF_KEY = query("history_page"), query("history_page_of_key")
_WHEREABOUTS, _FLOOR, _FLOORS = query("whereabouts"), query("floor"), query("floors")
_AT, _COUNT = query("history_at"), query("history_count")
#: Rows looked at for one page when most of them may be of another type.
SCAN = 5_000
#: Days one statement covers. A page that is not full yet looks further, four times as far, and so often at most.
DAYS, MOST_DAYS, LOOKS = 2, 64, 5
#: Pages read at the same time: of the pool's eight connections most stay with those who write.
AT_ONCE = 3


class PostgresHistory:
    """ports.History."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._turns = anyio.Semaphore(AT_ONCE)

    async def page(self, topic_id: int, partition: int, span: Span, *, count: int, max_bytes: int) -> HistoryPage:
        if "\0" in (span.key or "") or "\0" in (span.event_type or ""):
            return HistoryPage([], span.last, ZERO)  # no stored text holds one, and none may be asked for
        values = {"topic_id": topic_id, "partition": partition, "event_type": span.event_type, "key": span.key}
        statement = _PAGE if span.key is None else _PAGE_OF_KEY

        async def fetch(connection: Connection) -> HistoryPage:
            events: list[StoredEvent] = []
            first, days, room = span.first, DAYS, max_bytes
            for _ in range(LOOKS):
                first, last = await _window(connection, topic_id, partition, first, span.last, days)
                bounds = {"first_ms": first.ms, "first_seq": first.seq, "last_ms": last.ms, "last_seq": last.seq}
                left = count - len(events)
                scan = left if span.event_type is None else max(left, SCAN)
                limits = {"count": left, "max_bytes": room, "scan": scan}
                # Not prepared: a plan made for these very values knows the days it needs and how few rows are wanted.
                found = await connection.execute(statement, values | bounds | limits, prepare=False, binary=True)
                rows = await found.fetchall()
                events += [StoredEvent(Position(row[0], row[1]), *row[2:7]) for row in rows if row[7]]
                if rows:
                    ms, seq, *_, number, size = rows[-1]
                    room -= int(size)
                    if number == scan or len(events) == count or room <= 0:
                        last = Position(ms, seq)
                        break
                if last >= span.last:
                    break
                first, days = last.next(), min(days * 4, MOST_DAYS)
            # Only now: what was dropped before the rows were read is below this floor.
            floor = await (await connection.execute(_FLOOR, [topic_id, partition])).fetchone()
            return HistoryPage(events, last, ZERO if floor is None else Position(*floor))

        async with self._turns:
            return await self._pool.run(fetch)

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


async def _window(
    connection: Connection, topic_id: int, partition: int, first: Position, last: Position, days: int
) -> tuple[Position, Position]:
    """The bounds of one statement: not below the floor, and over so many days at most of those there are.

    A plan locks and opens all it names, before it reads a row: over years of days that alone would take long.
    """
    values = {"topic_id": topic_id, "partition": partition, "ms": first.ms, "seq": first.seq, "days": days}
    found = await connection.execute(_WHEREABOUTS, values)
    row = await found.fetchone()
    if row is None:
        return first, last
    first = Position(row[0], row[1])
    days_there = [day for name in row[2] if (day := day_in(name)) is not None]
    if len(row[2]) < days or not days_there or days_there[-1] >= LAST_DAY:
        return first, last
    return first, min(last, last_at((days_there[-1] + 1) * DAY_MS - 1))

"""Time partitions of the events table: one for each day of `ms`, made ahead of time and on demand.

A day is made in a short transaction of its own: the table is created apart and then attached, which readers and
writers of the other days do not notice (SHARE UPDATE EXCLUSIVE). Table names are made of integers only: the number of
days since 1970, padded so that they sort.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import structlog
from psycopg import sql

from openstream_runtime.domain.errors import OutcomeUnknown
from openstream_runtime.store.errors import unavailable
from openstream_runtime.store.pool import Connection, Pool
from openstream_runtime.store.queries import query

DAY_MS = 86_400_000
LAST_DAY = (2**63 - 1) // DAY_MS
#: Today and so many days more exist ahead of time, so that midnight costs nobody a wait.
DAYS_AHEAD = 2

_TIME_PARTITIONS, _LOCK_DAY, _TODAY = query("time_partitions"), query("lock_day"), query("today")
_NAME = re.compile(r"event_log_d([0-9]{12})", re.ASCII)
#: First key of the advisory lock under which a day is made; the day is the second.
_LOCK = 0x6F73_7464
_log = structlog.get_logger(__name__)


def name_of(day: int) -> str:
    return f"event_log_d{day:012d}"


def identifier(name: str) -> sql.Identifier:
    """The qualified name of a time partition; ValueError for what is not one of ours."""
    if _NAME.fullmatch(name) is None:
        raise ValueError("not a time partition")
    return sql.Identifier("openstream", name)


class TimePartitions:
    """Which days are known to exist. Several nodes may make the same day at once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: set[int] = set()

    async def names(self) -> list[str]:
        """Every time partition of ours that is attached, oldest first; and remember them."""
        rows = await self._pool.run(lambda connection: _fetch(connection, _TIME_PARTITIONS))
        ours = [match for (name,) in rows if (match := _NAME.fullmatch(str(name)))]
        self._known = {int(match[1]) for match in ours}
        return [match[0] for match in ours]

    async def ensure(self, days: Iterable[int]) -> None:
        """Make the days that are not known yet. Raises Unavailable."""
        for day in sorted(set(days) - self._known):
            await self._make(day)
            self._known.add(day)

    async def ahead(self) -> None:
        """Make today, by PostgreSQL's clock, and the days after it."""
        ((today,),) = await self._pool.run(lambda connection: _fetch(connection, _TODAY))
        await self.ensure(range(int(today), int(today) + DAYS_AHEAD + 1))

    async def _make(self, day: int) -> None:
        name = name_of(day)

        async def make(connection: Connection) -> bool:
            # One node makes it, the others wait here (at most lock_timeout) and then find it made.
            await connection.execute(_LOCK_DAY, [_LOCK, day % 2**31])
            if (name,) in await _fetch(connection, _TIME_PARTITIONS):
                return False
            table = identifier(name)
            # IF NOT EXISTS: an operator may have detached the day; a late event then brings it back.
            await connection.execute(
                sql.SQL("CREATE TABLE IF NOT EXISTS {} (LIKE openstream.event_log INCLUDING ALL)").format(table)
            )
            bound = sql.SQL("MAXVALUE") if day >= LAST_DAY else sql.Literal((day + 1) * DAY_MS)
            await connection.execute(
                sql.SQL("ALTER TABLE openstream.event_log ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
                    table, sql.Literal(day * DAY_MS), bound
                )
            )
            return True

        try:
            made = await self._pool.transact(make)
        except OutcomeUnknown as error:
            # Of what the caller wants to write, nothing was: for it this is definite. The next attempt will see.
            raise unavailable() from error
        if made:
            _log.info("made a time partition", table=name)


async def _fetch(connection: Connection, statement: bytes) -> list[tuple[Any, ...]]:
    return await (await connection.execute(statement)).fetchall()

"""Time partitions of the events table: one for each day of `ms`, in it one for each class of history that is written.

Made ahead of time and on demand, in a short transaction: a table is created apart and then attached, which readers and
writers of other days do not notice (SHARE UPDATE EXCLUSIVE). Names are made of integers only, padded so that they sort:
days since 1970, and the class, which is the topic's history in whole days.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from psycopg import sql

from openstream_runtime.domain.errors import OutcomeUnknown
from openstream_runtime.store.errors import unavailable
from openstream_runtime.store.pool import Connection, Pool
from openstream_runtime.store.queries import query

DAY_MS = 86_400_000
LAST_DAY = (2**63 - 1) // DAY_MS
#: The class of what is kept for ever.
FOR_EVER = 0
#: What fits a smallint. A longer history shares this class, and all the same ends at its own floor.
LAST_CLASS = 2**15 - 1
#: Today and so many days more exist ahead of time, so that midnight costs nobody a wait.
DAYS_AHEAD = 2

_TIME_PARTITIONS, _IS_ATTACHED = query("time_partitions"), query("is_attached")
_LOCK_DAY, _NOW, _HISTORIES = query("lock_day"), query("server_ms"), query("histories")
_EVENTS = sql.Identifier("openstream", "event_log")
_NAME = re.compile(r"event_log_d([0-9]{12})(?:_k([0-9]{5}))?", re.ASCII)
#: First key of the advisory lock under which a day is made and dropped; the day is the second.
_LOCK = 0x6F73_7464
_log = structlog.get_logger(__name__)


class Place(NamedTuple):
    """Where rows lie: a day, and in it a class of history."""

    day: int
    keep: int

    @property
    def end_ms(self) -> int:
        return (self.day + 1) * DAY_MS


def class_of(history_ms: int | None) -> int:
    """A topic's history in whole days, rounded up."""
    if history_ms is None:
        return FOR_EVER
    return min(max(1, -(-history_ms // DAY_MS)), LAST_CLASS)


def day_of(ms: int) -> int:
    return min(max(ms, 0) // DAY_MS, LAST_DAY)


def day_name(day: int) -> str:
    return f"event_log_d{day:012d}"


def day_in(name: str) -> int | None:
    """The day a table of that name stands for; None for what is none of ours."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1])


def name_of(place: Place) -> str:
    return f"{day_name(place.day)}_k{place.keep:05d}"


def identifier(name: str) -> sql.Identifier:
    """The qualified name of a time partition; ValueError for what is not one of ours."""
    if _NAME.fullmatch(name) is None:
        raise ValueError("not a time partition")
    return sql.Identifier("openstream", name)


async def lock_day(connection: Connection, day: int) -> None:
    """One node makes or drops what belongs to a day, the others wait here, at most lock_timeout."""
    await connection.execute(_LOCK_DAY, [_LOCK, day % 2**31])


async def is_attached(connection: Connection, name: str, parent: str) -> bool:
    return bool(await fetch(connection, _IS_ATTACHED, [f"openstream.{name}", f"openstream.{parent}"]))


class TimePartitions:
    """Which places are known to exist. Several nodes may make the same one at once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: set[Place] = set()

    async def refresh(self) -> tuple[list[Place], list[int]]:
        """Every place of ours that is attached, oldest first, and remember them; and the days that hold none."""
        places: list[Place] = []
        empty: list[int] = []
        for day_table, table in await self._pool.run(lambda connection: fetch(connection, _TIME_PARTITIONS)):
            day = _NAME.fullmatch(day_table)
            if day is None or day[2] is not None:
                continue  # an operator's own
            match = None if table is None else _NAME.fullmatch(table)
            if match is not None and match[2] is not None:
                places.append(Place(int(match[1]), int(match[2])))
            elif table is None:
                empty.append(int(day[1]))
        self._known = set(places)
        return places, empty

    def missing(self, places: Iterable[Place]) -> set[Place]:
        """Those not known to exist."""
        return set(places) - self._known

    async def ensure(self, places: Iterable[Place]) -> None:
        """Make the places that are not known yet. Raises Unavailable."""
        for place in sorted(self.missing(places)):
            await self._make(place)
            self._known.add(place)

    async def ahead(self) -> None:
        """Make today, by PostgreSQL's clock, and the days after it, for every class some topic has now."""
        await self.refresh()  # somebody may have dropped one
        ((now_ms,),) = await self._pool.run(lambda connection: fetch(connection, _NOW))
        histories = await self._pool.run(lambda connection: fetch(connection, _HISTORIES))
        classes = {class_of(history_ms) for (history_ms,) in histories}
        await self.ensure(Place(day_of(now_ms) + n, keep) for n in range(DAYS_AHEAD + 1) for keep in classes)

    async def _make(self, place: Place) -> None:
        day, name = day_name(place.day), name_of(place)
        until = sql.SQL("MAXVALUE") if place.day >= LAST_DAY else sql.Literal(place.end_ms)
        of_the_day = sql.SQL("FROM ({}) TO ({})").format(sql.Literal(place.day * DAY_MS), until)
        of_the_class = sql.SQL("IN ({})").format(sql.Literal(place.keep))

        async def make(connection: Connection) -> bool:
            await lock_day(connection, place.day)
            if not await is_attached(connection, day, "event_log"):
                await _attach(connection, day, _EVENTS, of_the_day, sql.SQL("PARTITION BY LIST (keep)"))
            if await is_attached(connection, name, day):
                return False
            await _attach(connection, name, identifier(day), of_the_class, sql.SQL(""))
            return True

        try:
            made = await self._pool.transact(make)
        except OutcomeUnknown as error:
            # Of what the caller wants to write, nothing was: for it this is definite. The next attempt will see.
            raise unavailable() from error
        if made:
            _log.info("made a time partition", table=name)


async def _attach(
    connection: Connection, name: str, parent: sql.Identifier, bounds: sql.Composed, divided: sql.SQL
) -> None:
    table = identifier(name)
    # IF NOT EXISTS: an operator may have detached it; a late event then brings it back.
    await connection.execute(
        sql.SQL("CREATE TABLE IF NOT EXISTS {} (LIKE openstream.event_log INCLUDING ALL) {}").format(table, divided)
    )
    await connection.execute(sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES {}").format(parent, table, bounds))


async def fetch(
    connection: Connection, statement: bytes | sql.Composed, values: Sequence[object] | Mapping[str, object] = ()
) -> list[tuple[Any, ...]]:
    return await (await connection.execute(statement, values)).fetchall()

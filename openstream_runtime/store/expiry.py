"""What ends the history of a topic: floors are raised, then tables that all topics in them have outlived are dropped.

Never row by row. A table's rows decide, not its class: a topic may have had another history when they were written, and
one that was made longer meanwhile holds on. Locks are asked for with little patience and asked for again in the next
round, so that nobody who reads or writes waits long behind us.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from itertools import groupby
from operator import itemgetter

import structlog
from psycopg import sql

from openstream_runtime.domain.errors import Unavailable
from openstream_runtime.store.partitions import (
    DAY_MS,
    Place,
    TimePartitions,
    day_name,
    fetch,
    identifier,
    is_attached,
    lock_day,
    name_of,
)
from openstream_runtime.store.pool import Connection, Pool
from openstream_runtime.store.queries import query

_TRY_LOCK, _RAISE, _BUMP = query("try_lock_expiry"), query("raise_floors"), query("bump_version")
_NOW, _OUTLIVED, _DIVISIONS = query("server_ms"), query("outlived"), query("divisions")
_HOLDER = sql.SQL(
    "SELECT k.topic_id, k.partition FROM unnest(%s::integer[], %s::integer[]) AS k (topic_id, partition) "
    "CROSS JOIN LATERAL (SELECT 1 FROM {} e WHERE e.topic_id = k.topic_id AND e.partition = k.partition LIMIT 1) e "
    "LIMIT 1"
)
_TOPICS_IN = sql.SQL(
    "SELECT t.name FROM openstream.topics t "
    "CROSS JOIN LATERAL (SELECT 1 FROM {} e WHERE e.topic_id = t.id LIMIT 1) e ORDER BY t.name"
)
_LOCK = sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE")
_LOG = sql.Identifier("openstream", "event_log")
_SIZE, _HASTE = query("size"), query("haste")
#: The advisory lock nodes take turns by.
_TURN = 0x6F73_7465
_LOCK_NOT_AVAILABLE = "55P03"
_log = structlog.get_logger(__name__)

#: (topic id, partition)
Key = tuple[int, int]


class Expiry:
    """The rounds of one node. Nodes take turns by an advisory lock; a round beside another does no harm."""

    def __init__(self, pool: Pool, partitions: TimePartitions) -> None:
        self._pool = pool
        self._partitions = partitions
        #: For a table that stays, a partition that has not outlived its rows there: saves looking into the table again.
        self._holders: dict[Place, Key] = {}

    async def round(self, now_ms: int) -> int:
        """Raise the floors that are due, then drop what is outlived; how many tables. Raises Unavailable."""
        # The earlier of two clocks: one that is ahead must not cost anybody his history.
        ((server_ms,),) = await self._pool.run(lambda connection: fetch(connection, _NOW))
        now_ms = min(now_ms, server_ms)
        await self._pool.transact(lambda connection: _raise_floors(connection, now_ms))
        outlived = await self._pool.run(lambda connection: _outlived(connection, now_ms))
        places, empty_days = await self._partitions.refresh()
        self._holders = {place: self._holders[place] for place in places if place in self._holders}
        due = [place for place in places if place.end_ms <= now_ms and not self._is_held(place, outlived)]
        dropped = 0
        try:
            for place in due:
                if await self._pool.transact(self._look_into(place, now_ms)):
                    dropped += await self._pool.transact(self._drop(place, now_ms))
            # Whole days last: only they lock the table everybody works with.
            for day in sorted({*empty_days, *(place.day for place in due)}):
                if (day + 1) * DAY_MS <= now_ms:
                    await self._pool.transact(_drop_day(day))
        except Unavailable as busy:
            if busy.facts.get("sqlstate") != _LOCK_NOT_AVAILABLE:
                raise
            _log.debug("a table to drop is in use; it goes in a later round")
        return dropped

    def _is_held(self, place: Place, outlived: Mapping[Key, int]) -> bool:
        holder = self._holders.get(place)
        return holder is not None and outlived.get(holder, place.end_ms) < place.end_ms

    def _look_into(self, place: Place, now_ms: int) -> Callable[[Connection], Awaitable[bool]]:
        """Whether a table could go. Takes no lock that anybody would notice."""

        async def look(connection: Connection) -> bool:
            return await _begin(connection, place.day) and await self._is_outlived(connection, place, now_ms)

        return look

    def _drop(self, place: Place, now_ms: int) -> Callable[[Connection], Awaitable[bool]]:
        table = identifier(name_of(place))

        async def drop(connection: Connection) -> bool:
            if not await _begin(connection, place.day):
                return False
            # From the outside in, as readers and writers do.
            await connection.execute(_LOCK.format(identifier(day_name(place.day))))
            await connection.execute(_LOCK.format(table))
            # Once more: a late event may have come, a history may have been made longer.
            if not await self._is_outlived(connection, place, now_ms):
                return False
            topics = [name for (name,) in await fetch(connection, _TOPICS_IN.format(table))]
            ((size,),) = await fetch(connection, _SIZE, [f"openstream.{name_of(place)}"])
            await connection.execute(sql.SQL("DROP TABLE {}").format(table))
            _log.info("history dropped", table=name_of(place), topics=topics, bytes=size)
            return True

        return drop

    async def _is_outlived(self, connection: Connection, place: Place, now_ms: int) -> bool:
        """Whether every partition has outlived all it may have in a table. Remembers one that has not."""
        if not await is_attached(connection, name_of(place), day_name(place.day)):
            return False
        outlived = await _outlived(connection, now_ms)
        waiting = sorted(key for key, upto in outlived.items() if upto < place.end_ms)
        keys = [[topic for topic, _ in waiting], [number for _, number in waiting]]
        holder = await fetch(connection, _HOLDER.format(identifier(name_of(place))), keys)
        if holder:
            self._holders[place] = holder[0]
        return not holder


async def _raise_floors(connection: Connection, now_ms: int) -> None:
    if not await fetch(connection, _TRY_LOCK, [_TURN]):
        return
    raised = sorted(await fetch(connection, _RAISE, {"now_ms": now_ms}))
    if raised:
        await connection.execute(_BUMP)
    for topic, rows in groupby(raised, key=itemgetter(0)):
        floors = [ms for _, ms in rows]
        _log.info("history floor raised", topic=topic, partitions=len(floors), floor_ms=min(floors))


def _drop_day(day: int) -> Callable[[Connection], Awaitable[None]]:
    table = identifier(day_name(day))

    async def drop(connection: Connection) -> None:
        # Before the lock, too: it is not asked for in vain. Dropping a table would take along what it is divided into.
        if not await _begin(connection, day) or not await _is_empty(connection, day):
            return
        await connection.execute(_LOCK.format(_LOG))
        await connection.execute(_LOCK.format(table))
        if await _is_empty(connection, day):
            await connection.execute(sql.SQL("DROP TABLE {}").format(table))
            _log.info("day dropped", table=day_name(day))

    return drop


async def _begin(connection: Connection, day: int) -> bool:
    """False when another node is at it."""
    if not await fetch(connection, _TRY_LOCK, [_TURN]):
        return False
    await connection.execute(_HASTE)
    await lock_day(connection, day)
    return True


async def _is_empty(connection: Connection, day: int) -> bool:
    """It is there, and nothing is attached to it."""
    if not await is_attached(connection, day_name(day), "event_log"):
        return False
    return not await fetch(connection, _DIVISIONS, [f"openstream.{day_name(day)}"])


async def _outlived(connection: Connection, now_ms: int) -> dict[Key, int]:
    """For each partition the time below which it needs nothing any more."""
    rows = await fetch(connection, _OUTLIVED, {"now_ms": now_ms})
    return {(topic_id, partition): upto for topic_id, partition, upto in rows}

"""Topics and groups on PostgreSQL.

Every change bumps the catalog's version in its own transaction, as the last step, so that changes wait for each other
only for the length of a commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from psycopg import errors, sql

from openstream_runtime.domain.errors import Conflict, NotFound
from openstream_runtime.domain.topics import GROUP_DEFAULTS, Group, GroupSettings, Topic, TopicSettings, Visibility
from openstream_runtime.store.partitions import Place, TimePartitions, identifier, name_of
from openstream_runtime.store.pool import Connection, Pool
from openstream_runtime.store.queries import query

_VERSION, _BUMP = query("version"), query("bump_version")
_TOPICS, _TOPIC, _CREATE_TOPIC = query("topics"), query("topic"), query("create_topic")
_CREATE_PARTITIONS, _ALTER_TOPIC = query("create_partitions"), query("alter_topic")
_MARK_TOPIC, _CLOSE_PARTITIONS = query("mark_topic"), query("close_partitions")
_IS_DELETING, _LOCK_TOPIC = query("is_deleting"), query("lock_topic")
_PURGE_QUARANTINE = query("purge_quarantine")
_PURGE_REST = (query("purge_groups"), query("purge_partitions"), query("purge_topic"))
_GROUPS, _GROUP, _SHARE_TOPIC = query("groups"), query("group"), query("share_topic")
_CREATE_GROUP, _ALTER_GROUP, _DELETE_GROUP = query("create_group"), query("alter_group"), query("delete_group")


class PostgresCatalog:
    """ports.Catalog. A topic that is being deleted is still listed, with `deleting` set; its groups are not."""

    def __init__(self, pool: Pool, partitions: TimePartitions) -> None:
        self._pool = pool
        self._partitions = partitions

    async def version(self) -> int:
        ((version,),) = await self._pool.run(lambda connection: _fetch(connection, _VERSION))
        return int(version)

    # ------------------------------------------------------------------------------------------------ topics

    async def topics(self) -> list[Topic]:
        return [_as_topic(row) for row in await self._pool.run(lambda connection: _fetch(connection, _TOPICS))]

    async def topic(self, name: str) -> Topic | None:
        return await self._pool.run(lambda connection: _find(connection, name))

    async def create_topic(self, name: str, partitions: int, settings: TopicSettings) -> tuple[Topic, bool]:
        """See the port. One that is being deleted is given back too, with `deleting` set: the name is not free yet.

        Raises Conflict when the topic of that name went away in between.
        """

        async def create(connection: Connection) -> tuple[Topic | None, bool]:
            # Asked first: each conflicting insert would use up an id.
            if (known := await _find(connection, name)) is not None:
                return known, False
            # Waits for another node that is creating it at this moment.
            new = await _fetch(connection, _CREATE_TOPIC, [name, partitions, *_values(settings)])
            if new:
                await connection.execute(_CREATE_PARTITIONS, [new[0][0], partitions])
                await connection.execute(_BUMP)
            return await _find(connection, name), bool(new)

        topic, is_new = await self._pool.transact(create)
        if topic is None:
            raise Conflict("the topic was deleted while it was looked up; try again", topic=name)
        return topic, is_new

    async def alter_topic(self, name: str, settings: TopicSettings) -> Topic | None:
        """None also for one that is being deleted."""

        async def alter(connection: Connection) -> Topic | None:
            if await _fetch(connection, _ALTER_TOPIC, [*_values(settings), name, *_values(settings)]):
                await connection.execute(_BUMP)
            topic = await _find(connection, name)
            return None if topic is None or topic.deleting else topic

        return await self._pool.transact(alter)

    async def begin_delete(self, name: str) -> Topic | None:
        """See the port. Fences off every owner: after it no event of the topic is written any more."""

        async def mark(connection: Connection) -> Topic | None:
            marked = await _fetch(connection, _MARK_TOPIC, [name])
            if marked:
                await connection.execute(_CLOSE_PARTITIONS, [marked[0][0]])
                await connection.execute(_BUMP)
            return await _find(connection, name)

        return await self._pool.transact(mark)

    async def purge(self, topic: Topic, *, max_rows: int) -> bool:
        """See the port. Raises Conflict for a topic that is not marked."""
        state = await self._pool.run(lambda connection: _fetch(connection, _IS_DELETING, [topic.id]))
        if not state:
            return True
        if not state[0][0]:
            raise Conflict("the topic is not being deleted", topic=topic.name)
        left = max_rows
        # Day by day, each in a transaction of its own: no lock is held on hundreds of tables at once.
        places, _ = await self._partitions.refresh()
        for place in places:
            left -= await self._pool.run(_purge_events(topic.id, place, left), deadline=self._pool.limits.write)
            if left <= 0:
                return False
        left -= await self._pool.run(lambda connection: _count(connection, _PURGE_QUARANTINE, [topic.id, left]))
        if left <= 0:
            return False

        async def remove(connection: Connection) -> None:
            if await _fetch(connection, _LOCK_TOPIC, [topic.id]):
                for statement in _PURGE_REST:
                    await connection.execute(statement, [topic.id])
                await connection.execute(_BUMP)

        await self._pool.transact(remove)
        return True

    # ------------------------------------------------------------------------------------------------ groups

    async def groups(self) -> list[Group]:
        return [_as_group(row) for row in await self._pool.run(lambda connection: _fetch(connection, _GROUPS))]

    async def group(self, topic: str, name: str) -> Group | None:
        rows = await self._pool.run(lambda connection: _fetch(connection, _GROUP, [topic, name]))
        return _as_group(rows[0]) if rows else None

    async def create_group(
        self,
        topic: Topic,
        name: str,
        start_id: str,
        visibility: Visibility = Visibility.APPENDED,
        settings: GroupSettings = GROUP_DEFAULTS,
    ) -> tuple[Group, bool]:
        """The group and whether it is new; one that exists is given back as it is. NotFound: the topic is gone."""

        async def create(connection: Connection) -> tuple[Group, bool]:
            if not await _fetch(connection, _SHARE_TOPIC, [topic.id]):
                raise NotFound("there is no such topic", topic=topic.name)
            values = [topic.id, name, start_id, visibility, *_group_values(settings)]
            new = await _fetch(connection, _CREATE_GROUP, values)
            if new:
                await connection.execute(_BUMP)
            (row,) = await _fetch(connection, _GROUP, [topic.name, name])
            return _as_group(row), bool(new)

        return await self._pool.transact(create)

    async def alter_group(self, topic: Topic, name: str, settings: GroupSettings) -> Group | None:
        async def alter(connection: Connection) -> Group | None:
            if not await _count(connection, _ALTER_GROUP, [*_group_values(settings), topic.id, name]):
                return None
            await connection.execute(_BUMP)
            rows = await _fetch(connection, _GROUP, [topic.name, name])
            return _as_group(rows[0]) if rows else None

        return await self._pool.transact(alter)

    async def delete_group(self, topic: Topic, name: str) -> bool:
        async def delete(connection: Connection) -> bool:
            deleted = await _count(connection, _DELETE_GROUP, [topic.id, name]) > 0
            if deleted:
                await connection.execute(_BUMP)
            return deleted

        return await self._pool.transact(delete)


def _values(settings: TopicSettings) -> tuple[int | None, ...]:
    return settings.retention_ms, settings.retention_bytes, settings.history_ms, settings.max_stream_len


def _as_topic(row: tuple[Any, ...]) -> Topic:
    return Topic(row[0], row[1], row[2], TopicSettings(*row[3:7]), row[7], row[8], row[9])


def _as_group(row: tuple[Any, ...]) -> Group:
    topic_id, topic, name, start_id, created_ms, visibility, *settings = row
    return Group(topic_id, topic, name, start_id, created_ms, Visibility(visibility), GroupSettings(*settings))


def _group_values(settings: GroupSettings) -> tuple[object, ...]:
    return settings.max_deliveries, settings.claim_idle_ms, settings.dead_letter_topic, settings.paused


async def _find(connection: Connection, name: str) -> Topic | None:
    rows = await _fetch(connection, _TOPIC, [name])
    return _as_topic(rows[0]) if rows else None


async def _fetch(connection: Connection, statement: bytes, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    return await (await connection.execute(statement, values)).fetchall()


async def _count(connection: Connection, statement: bytes | sql.Composed, values: Sequence[object]) -> int:
    return (await connection.execute(statement, values)).rowcount


def _purge_events(topic_id: int, place: Place, limit: int) -> Callable[[Connection], Awaitable[int]]:
    table = identifier(name_of(place))
    # By physical place: within one table it names a row, and it needs no second look into the index.
    statement = sql.SQL(
        "DELETE FROM {} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {} WHERE topic_id = %s LIMIT %s)) AND topic_id = %s"
    ).format(table, table)

    async def purge(connection: Connection) -> int:
        try:
            return await _count(connection, statement, [topic_id, limit, topic_id])
        except errors.UndefinedTable:
            return 0  # dropped since we looked, with all that was in it

    return purge

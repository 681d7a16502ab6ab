"""Both stores behind one face, so that one suite can look inside either: what is stored, what is in quarantine."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString, Protocol

from psycopg import AsyncConnection, sql

from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.positions import Cursor, Position
from openstream_runtime.domain.topics import Topic, TopicSettings
from openstream_runtime.ports.redelivery import Redrives
from openstream_runtime.ports.replays import Replays
from openstream_runtime.ports.store import Catalog, EventStore, GroupPositions, History, PersistBatch
from openstream_runtime.store import Store, migrate, open_store
from support.fake_history import FakeGroupPositions, FakeHistory, drop_below, raise_floor
from support.fake_store import FakeStore


class StoreUnderTest(Protocol):
    """What the contract suite works on."""

    events: EventStore
    catalog: Catalog
    history: History
    positions: GroupPositions
    replays: Replays
    redrives: Redrives

    async def rows(self, topic_id: int, partition: int) -> list[tuple[int, StoredEvent]]: ...

    async def quarantined(self, topic_id: int, partition: int) -> list[tuple[Position, str]]:
        """(position, reason) in the order they came."""
        ...

    async def count(self, topic_id: int, partition: int) -> int: ...

    async def plant(self, topic_id: int, partition: int, generation: int, event: StoredEvent) -> None: ...

    async def raise_floor(self, topic_id: int, partition: int, floor: Position) -> None: ...

    async def drop_below(self, topic_id: int, partition: int, floor: Position) -> None:
        """Remove what stands below a floor."""
        ...


class FakeUnderTest:
    def __init__(self) -> None:
        self.store = FakeStore()
        self.events: EventStore = self.store.events
        self.catalog: Catalog = self.store.catalog
        self.history: History = FakeHistory(self.store)
        self.positions: GroupPositions = FakeGroupPositions(self.store)
        self.replays: Replays = self.store.replays
        self.redrives: Redrives = self.store.redrives

    async def rows(self, topic_id: int, partition: int) -> list[tuple[int, StoredEvent]]:
        return self.store.rows(topic_id, partition)

    async def quarantined(self, topic_id: int, partition: int) -> list[tuple[Position, str]]:
        return [(row.event.position, row.reason) for row in self.store.quarantined(topic_id, partition)]

    async def count(self, topic_id: int, partition: int) -> int:
        return self.store.count(topic_id, partition)

    async def plant(self, topic_id: int, partition: int, generation: int, event: StoredEvent) -> None:
        self.store.plant(topic_id, partition, generation, event)

    async def raise_floor(self, topic_id: int, partition: int, floor: Position) -> None:
        raise_floor(self.store, topic_id, partition, floor)

    async def drop_below(self, topic_id: int, partition: int, floor: Position) -> None:
        drop_below(self.store, topic_id, partition, floor)


class RealUnderTest:
    """Looks through a connection of its own, past the code under test."""

    def __init__(self, store: Store, database_url: str) -> None:
        self.events: EventStore = store.events
        self.catalog: Catalog = store.catalog
        self.history: History = store.history
        self.positions: GroupPositions = store.positions
        self.replays: Replays = store.replays
        self.redrives: Redrives = store.redrives
        self.database_url = database_url

    async def rows(self, topic_id: int, partition: int) -> list[tuple[int, StoredEvent]]:
        rows = await self.query(
            "SELECT generation, ms, seq, event_type, partition_key, payload, timestamp_ms, headers "
            "FROM openstream.event_log WHERE topic_id = %s AND partition = %s ORDER BY generation, ms, seq",
            topic_id,
            partition,
        )
        return [(row[0], StoredEvent(Position(row[1], row[2]), *row[3:])) for row in rows]

    async def quarantined(self, topic_id: int, partition: int) -> list[tuple[Position, str]]:
        rows = await self.query(
            "SELECT ms, seq, reason FROM openstream.quarantine WHERE topic_id = %s AND partition = %s ORDER BY id",
            topic_id,
            partition,
        )
        return [(Position(ms, seq), reason) for ms, seq, reason in rows]

    async def count(self, topic_id: int, partition: int) -> int:
        rows = await self.query(
            "SELECT n FROM openstream.partitions WHERE topic_id = %s AND partition = %s", topic_id, partition
        )
        return int(rows[0][0])

    async def plant(self, topic_id: int, partition: int, generation: int, event: StoredEvent) -> None:
        await day_made(self, event.position.ms)
        await self.query(
            "INSERT INTO openstream.event_log (topic_id, partition, generation, idx, keep, ms, seq, event_type, "
            "partition_key, payload, headers, timestamp_ms) VALUES (%s, %s, %s, 0, 0, %s, %s, %s, %s, %s, %s, %s) "
            "RETURNING 1",
            *(topic_id, partition, generation, event.position.ms, event.position.seq, event.event_type),
            *(event.partition_key, event.payload, event.headers, event.timestamp_ms),
        )

    async def raise_floor(self, topic_id: int, partition: int, floor: Position) -> None:
        await self.query(
            "UPDATE openstream.partitions SET floor_ms = %s, floor_seq = %s WHERE topic_id = %s AND partition = %s",
            *(floor.ms, floor.seq, topic_id, partition),
        )

    async def drop_below(self, topic_id: int, partition: int, floor: Position) -> None:
        await self.query(
            "DELETE FROM openstream.event_log WHERE topic_id = %s AND partition = %s AND (ms, seq) < (%s, %s)",
            *(topic_id, partition, floor.ms, floor.seq),
        )

    async def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        async with await AsyncConnection.connect(self.database_url, autocommit=True) as connection:
            cursor = await connection.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []


@asynccontextmanager
async def real_store(database_url: str, **options: Any) -> AsyncIterator[RealUnderTest]:
    await migrate(database_url)
    async with open_store(database_url, **options) as store:
        yield RealUnderTest(store, database_url)


@asynccontextmanager
async def own_database(database_url: str) -> AsyncIterator[str]:
    """The URL of a new, empty database on the same server, dropped afterwards."""
    name = f"test_{secrets.token_hex(6)}"
    await _administer(database_url, "CREATE DATABASE {}", name)
    try:
        yield database_url.rpartition("/")[0] + "/" + name
    finally:
        await _administer(database_url, "DROP DATABASE {} WITH (FORCE)", name)


async def _administer(database_url: str, statement: LiteralString, name: str) -> None:
    # A connection for each: in between the test may stop the server.
    async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


async def new_topic(store: StoreUnderTest, partitions: int = 1) -> Topic:
    topic, is_new = await store.catalog.create_topic(f"t-{secrets.token_hex(8)}", partitions, TopicSettings())
    assert is_new
    return topic


async def taken(store: StoreUnderTest, topic: Topic, partition: int = 0, owner: str = "me") -> Cursor:
    cursor = await store.events.take(topic.id, partition, owner)
    assert cursor is not None
    return cursor


async def day_made(store: StoreUnderTest, ms: int = 1) -> None:
    """Have the time partition of `ms` made, which takes a transaction, and a COMMIT, of its own."""
    topic = await new_topic(store)
    await store.events.write([batch(topic, await taken(store, topic), [event(ms)])])


def event(ms: int, seq: int = 0, **fields: Any) -> StoredEvent:
    values: dict[str, Any] = {
        "event_type": "order.created",
        "partition_key": "user-1",
        "payload": b'{"order_id": "o-1"}',
        "timestamp_ms": 1_730_000_000_000,
        "headers": None,
    }
    return StoredEvent(Position(ms, seq), **(values | fields))


def batch(
    topic: Topic, cursor: Cursor, events: Sequence[StoredEvent], *, partition: int = 0, upto: Position | None = None
) -> PersistBatch:
    """Everything after the cursor, up to the last event or `upto`."""
    end = upto or (events[-1].position if events else cursor.position)
    return PersistBatch(topic.id, partition, cursor.epoch, cursor.generation, cursor.position, end, events)

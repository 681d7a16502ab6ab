"""The store as a node opens it: events and catalog over one pool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from openstream_runtime.store.catalog import PostgresCatalog
from openstream_runtime.store.event_store import PostgresEvents
from openstream_runtime.store.expiry import Expiry
from openstream_runtime.store.history import PostgresHistory
from openstream_runtime.store.partitions import TimePartitions
from openstream_runtime.store.pool import Limits, Pool, open_pool
from openstream_runtime.store.positions import PostgresGroupPositions
from openstream_runtime.store.redrives import PostgresRedrives
from openstream_runtime.store.replays import PostgresReplays
from openstream_runtime.store.schema import check_schema


@dataclass(frozen=True, slots=True)
class Store:
    """What `open_store` yields."""

    events: PostgresEvents
    catalog: PostgresCatalog
    history: PostgresHistory
    positions: PostgresGroupPositions
    replays: PostgresReplays
    redrives: PostgresRedrives
    _pool: Pool
    _partitions: TimePartitions
    _expiry: Expiry

    async def maintain(self, now_ms: int) -> int:
        """Make the time partitions of the next days, and drop those that were outlived at `now_ms`; how many.

        Every minute or so; events do not wait for it. Raises Unavailable.
        """
        await self._partitions.ahead()
        return await self._expiry.round(now_ms)

    def stats(self) -> Mapping[str, int]:
        """The pool's counters. Never waits."""
        return self._pool.stats()


@asynccontextmanager
async def open_store(
    database_url: str,
    *,
    application_name: str = "openstream",
    max_connections: int = 8,
    max_waiting: int = 256,
    timeout: float = 10.0,
    limits: Limits | None = None,
) -> AsyncIterator[Store]:
    """The store on a database that `migrate` has prepared.

    Raises Unavailable when PostgreSQL does not answer within `timeout` seconds, SchemaMismatch, Misconfigured.
    """
    async with open_pool(
        database_url,
        limits=limits or Limits(),
        application_name=application_name,
        max_connections=max_connections,
        max_waiting=max_waiting,
        timeout=timeout,
    ) as pool:
        await pool.run(check_schema)
        partitions = TimePartitions(pool)
        await partitions.ahead()
        yield Store(
            PostgresEvents(pool, partitions),
            PostgresCatalog(pool, partitions),
            PostgresHistory(pool),
            PostgresGroupPositions(pool),
            PostgresReplays(pool),
            PostgresRedrives(pool),
            pool,
            partitions,
            Expiry(pool, partitions),
        )

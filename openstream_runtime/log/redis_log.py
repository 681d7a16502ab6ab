"""The log room's front door: everything Redis does for a node, behind the ports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from openstream_runtime.domain.producers import MEMORY, Memory
from openstream_runtime.log.groups import RedisGroups
from openstream_runtime.log.lane import Lane
from openstream_runtime.log.leases import RedisLeases
from openstream_runtime.log.members import RedisMembers
from openstream_runtime.log.producers import RedisProducers
from openstream_runtime.log.streams import RedisEvents
from openstream_runtime.log.tail import RedisTail


class RedisLog:
    """One node's view of Redis. Lanes keep kinds of traffic apart: long reads must not hold up a lease."""

    def __init__(
        self,
        url: str,
        *,
        connections: int = 16,
        timeout: float = 3.0,
        replica_timeout_ms: int = 1_000,
        memory: Memory = MEMORY,
    ) -> None:
        self.lanes = {
            "append": Lane(url, name="append", size=connections, timeout=timeout),
            "write": Lane(url, name="write", size=connections, timeout=timeout),
            "read": Lane(url, name="read", size=connections, timeout=timeout, tries=3),
            "tail": Lane(url, name="tail", size=2, timeout=timeout),
        }
        append, write, read, tail = self.lanes.values()
        self.events = RedisEvents(append, write, read, replica_timeout_ms=replica_timeout_ms, memory=memory)
        self.producers = RedisProducers(write, self.events.replicated, memory)
        self.groups = RedisGroups(write, read)
        self.leases = RedisLeases(write)
        self.members = RedisMembers(read)
        self.tail = RedisTail(tail, write)

    async def close(self) -> None:
        for lane in self.lanes.values():
            await lane.close()


@asynccontextmanager
async def open_log(
    redis_url: str,
    *,
    connections: int = 16,
    timeout: float = 3.0,
    replica_timeout_ms: int = 1_000,
    memory: Memory = MEMORY,
) -> AsyncIterator[RedisLog]:
    """The log at a redis://, rediss:// or unix:// URL. Connects on first use: a node may start before Redis does.

    `connections` at most in each lane, `timeout` seconds for an exchange, `replica_timeout_ms` for replicas to have
    what was appended, `memory` is how much is known of what came before. Raises ValueError for a URL that is none.
    """
    log = RedisLog(
        redis_url, connections=connections, timeout=timeout, replica_timeout_ms=replica_timeout_ms, memory=memory
    )
    try:
        yield log
    finally:
        await log.close()

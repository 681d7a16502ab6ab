"""The log room's front door: everything Redis does for a node, behind the ports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio.connection import Connection, SSLConnection

from openstream_runtime.domain.producers import MEMORY, Memory
from openstream_runtime.log.cluster import ClusterServers
from openstream_runtime.log.groups import RedisGroups
from openstream_runtime.log.lane import Lane
from openstream_runtime.log.leases import RedisLeases
from openstream_runtime.log.members import RedisMembers
from openstream_runtime.log.polling_tail import PollingTail
from openstream_runtime.log.pool import url_options
from openstream_runtime.log.producers import RedisProducers
from openstream_runtime.log.replicas import Replicas
from openstream_runtime.log.servers import OneServer, SentinelServers, Servers
from openstream_runtime.log.streams import RedisEvents
from openstream_runtime.log.tail import RedisTail
from openstream_runtime.ports.log import Tail
from openstream_runtime.redis_url import Kind, RedisUrl, read_url

#: For replicas to have what was appended on disk. With `appendfsync everysec`, as is usual, it takes up to a second.
REPLICA_TIMEOUT_MS = 2_500


class RedisLog:
    """One node's view of Redis. Lanes keep kinds of traffic apart: long reads must not hold up a lease."""

    def __init__(
        self,
        url: str,
        *,
        connections: int = 16,
        timeout: float = 3.0,
        replica_timeout_ms: int = REPLICA_TIMEOUT_MS,
        memory: Memory = MEMORY,
    ) -> None:
        at = read_url(url)
        self._servers = servers_of(at)

        def lane(name: str, size: int = connections, tries: int = 1) -> Lane:
            return Lane(self._servers, at.server, name=name, size=size, timeout=timeout, tries=tries)

        self.lanes = {
            "append": lane("append"),
            "write": lane("write"),
            "read": lane("read", tries=3),
            "tail": lane("tail", size=2),
        }
        append, write, read, tail = self.lanes.values()
        replicas = Replicas(write, replica_timeout_ms)
        self.events = RedisEvents(append, write, read, replicas, memory=memory)
        self.producers = RedisProducers(write, replicas, memory)
        self.groups = RedisGroups(write, read)
        self.leases = RedisLeases(write)
        self.members = RedisMembers(read)
        self.tail: Tail = PollingTail(read, write) if self._servers.sharded else RedisTail(tail, write)

    async def close(self) -> None:
        for lane in self.lanes.values():
            await lane.close()
        await self._servers.close()


def servers_of(url: RedisUrl) -> Servers:
    if url.kind is Kind.SERVER:
        return OneServer()
    options = url_options(url.server)
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if issubclass(options.get("connection_class", Connection), SSLConnection):
        tls["ssl"] = True
    if url.kind is Kind.SENTINEL:
        return SentinelServers(url, tls)
    login = {name: options[name] for name in ("username", "password") if name in options}
    return ClusterServers(url, tls | login)


@asynccontextmanager
async def open_log(
    redis_url: str,
    *,
    connections: int = 16,
    timeout: float = 3.0,
    replica_timeout_ms: int = REPLICA_TIMEOUT_MS,
    memory: Memory = MEMORY,
) -> AsyncIterator[RedisLog]:
    """The log at a URL as in `redis_url.py`. Connects on first use: a node may start before Redis does.

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

"""A cluster: which primary has which slots, as the nodes themselves tell.

redis-py's cluster client knows it as well, and sends what failed again by itself, also an append whose answer was lost.
So only the map is asked for here, and a key's slot is computed; every command goes the way of lane.py.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

from openstream_runtime.log.errors import CONNECTION_ERRORS, unavailable
from openstream_runtime.log.servers import ASK_ONE, Address, FoundServers
from openstream_runtime.redis_url import RedisUrl

SLOTS = 16_384


class ClusterServers(FoundServers):
    """The primaries of a cluster. Whoever told last is asked first; one that sleeps does not answer, and is passed."""

    sharded = True

    def __init__(self, url: RedisUrl, options: dict[str, Any]) -> None:
        """`options` of connections: login and TLS."""
        super().__init__()
        self._options = {
            **options,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": ASK_ONE,
            "socket_connect_timeout": ASK_ONE,
        }
        #: Nodes of all kinds that may tell, the one to ask next at the front.
        self._nodes: list[tuple[str, int]] = list(url.hosts)
        self._seeds = url.hosts
        self._owners: list[Address] = [None] * SLOTS

    async def _ask(self) -> frozenset[Address]:
        for node in list(self._nodes):
            try:
                ranges = await self._ask_one(*node)
            except CONNECTION_ERRORS:
                continue
            if not ranges:
                continue  # one that was taken out of the cluster
            owners: list[Address] = [None] * SLOTS
            nodes = [node]
            for first, last, primary, *replicas in ranges:
                # A node that does not know its own address means the one it was asked at.
                own, *others = [(_host(raw[0]) or node[0], int(raw[1])) for raw in (primary, *replicas)]
                owners[first : last + 1] = [own] * (last + 1 - first)
                nodes += [own, *others]
            self._owners = owners
            self._nodes = list(dict.fromkeys([*nodes, *self._seeds]))
            return frozenset(owner for owner in owners if owner is not None)
        raise RedisConnectionError("no node of the cluster tells who has which slots")

    async def _ask_one(self, host: str, port: int) -> list[Any]:
        async with Redis(host=host, port=port, **self._options) as client:
            answer: list[Any] = await client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            return answer

    def _place(self, key: bytes) -> Address:
        owner = self._owners[key_slot(key)] if key else next(iter(self._known), None)
        if owner is None:
            self.doubt()  # nobody has this slot now
            raise unavailable()
        return owner

    async def close(self) -> None:
        """Nothing stays open between two questions."""


def _host(raw: bytes | str | None) -> str:
    return raw.decode() if isinstance(raw, bytes) else raw or ""

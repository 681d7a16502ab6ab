"""Nodes among each other: leases on partitions, and who lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from openstream_runtime.domain.positions import TopicPartition


class Leases(Protocol):
    """Who may persist and trim a partition, for liveness. Safety is the epoch in PostgreSQL."""

    async def acquire(self, at: TopicPartition, token: str, ttl_ms: int) -> bool: ...

    async def renew(self, at: TopicPartition, token: str, ttl_ms: int) -> bool:
        """False when somebody else holds it, or nobody."""
        ...

    async def release(self, at: TopicPartition, token: str) -> None:
        """Give it up if it is ours. Best effort: it ends by itself."""
        ...


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A live node. `url` is where it serves HTTP; `started_ms` when it began."""

    id: str
    url: str
    started_ms: int
    version: str


class Members(Protocol):
    """Which nodes live, by heartbeats timed with Redis' own clock."""

    async def beat(self, node: NodeInfo, ttl_ms: int) -> list[NodeInfo]:
        """Say that this node lives for `ttl_ms` more; every node that lives, ordered by id."""
        ...

    async def leave(self, node_id: str) -> None: ...

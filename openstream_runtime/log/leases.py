"""Leases: one key a partition, its value the holder's token. For liveness only; the epoch in PostgreSQL fences."""

from __future__ import annotations

from contextlib import suppress

from openstream_runtime.domain.errors import OutcomeUnknown, Unavailable
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.log import keys, scripts
from openstream_runtime.log.lane import Lane


class RedisLeases:
    """Tokens are `<node>:<anything>`, unlike any used before: who asks again with the same token still holds it."""

    def __init__(self, writes: Lane) -> None:
        self._writes = writes

    async def acquire(self, at: TopicPartition, token: str, ttl_ms: int) -> bool:
        return bool(await self._writes.run(scripts.LEASE_ACQUIRE, [keys.lease(at)], [token, ttl_ms]))

    async def renew(self, at: TopicPartition, token: str, ttl_ms: int) -> bool:
        return bool(await self._writes.run(scripts.LEASE_RENEW, [keys.lease(at)], [token, ttl_ms]))

    async def release(self, at: TopicPartition, token: str) -> None:
        with suppress(Unavailable, OutcomeUnknown):  # it ends by itself
            await self._writes.run(scripts.LEASE_RELEASE, [keys.lease(at)], [token])

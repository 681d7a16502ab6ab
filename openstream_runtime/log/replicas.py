"""Replicas: whether they, and the primary's own disk, have what was written. The counts that come back are checked."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio.connection import AbstractConnection

from openstream_runtime.domain.errors import Unavailable
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.log import keys
from openstream_runtime.log.errors import REPLY_ERRORS
from openstream_runtime.log.lane import Lane, side_by_side
from openstream_runtime.log.pool import pack
from openstream_runtime.log.scripts import Command


class Replicas:
    """Waits at most `timeout_ms` for them."""

    def __init__(self, writes: Lane, timeout_ms: int) -> None:
        self._writes = writes
        self._timeout_ms = timeout_ms

    async def have(self, lane: Lane, connection: AbstractConnection, replicas: int) -> bool:
        """Whether the primary's disk and that many replicas have all this connection wrote."""
        timeout = lane.timeout + self._timeout_ms / 1000
        commands: list[Command] = [
            (b"WAITAOF", 1, replicas, self._timeout_ms),
            (b"WAIT", replicas, self._timeout_ms),
        ]
        for command in commands:
            replies, lost = await lane.exchange(connection, pack([command]), timeout=timeout)
            if lost is not None:
                return False
            reply = replies[0]
            if isinstance(reply, list):
                return bool(reply[0] >= 1 and reply[1] >= replicas)
            if isinstance(reply, int):
                return reply >= replicas
            # An old server, or one without an append-only file: then at least the replicas.
        return False

    async def have_all(self, partitions: Sequence[TopicPartition], replicas: int) -> bool:
        """Whether they have all that was ever written to these, by whomever."""
        verdicts: list[bool] = []

        async def of_one(indexes: Sequence[int]) -> None:
            meta = keys.meta(partitions[indexes[0]])
            try:
                async with self._writes.take(meta) as connection:
                    # A connection waits for what it has written itself: this write stands behind all others.
                    replies, lost = await self._writes.exchange(connection, pack([(b"HSET", meta, b"w", b"")]))
                    written = lost is None and not isinstance(replies[0], REPLY_ERRORS)
                    verdicts.append(written and await self.have(self._writes, connection, replicas))
            except Unavailable:
                verdicts.append(False)

        await side_by_side(of_one, await self._writes.split(list(map(keys.meta, partitions))))
        return all(verdicts)

"""Which dead letters went back, in memory: redelivery_ports.Redrives, held to the real one by tests/contracts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from openstream_runtime.domain.positions import Position

if TYPE_CHECKING:
    from support.fake_store import FakeStore


class FakeRedrives:
    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self.recorded: set[tuple[int, int, Position]] = set()

    async def done(self, topic_id: int, partition: int, positions: Sequence[Position]) -> frozenset[Position]:
        await self._store._call("redriven")
        return frozenset(one for one in positions if (topic_id, partition, one) in self.recorded)

    async def record(self, topic_id: int, partition: int, positions: Sequence[Position]) -> None:
        await self._store._call("record_redriven")
        if any(topic.id == topic_id for topic in self._store._topics.values()):
            for one in positions:
                self.recorded.add((topic_id, partition, one))

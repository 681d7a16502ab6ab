"""Which dead letters went back, in memory: ports.redelivery.Redrives, held to the real one by tests/contracts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from openstream_runtime.domain.positions import Position

if TYPE_CHECKING:
    from support.fake_store import FakeStore


class FakeRedrives:
    def __init__(self, store: FakeStore) -> None:
        self._store = store
        #: By dead-letter topic, partition and batch: its letters.
        self._batches: dict[tuple[int, int, Position], set[Position]] = {}
        self._settled: set[tuple[int, int, Position]] = set()

    async def note(self, topic_id: int, partition: int, batch: Position, positions: Sequence[Position]) -> None:
        await self._store._call("note_redrive")
        if any(topic.id == topic_id for topic in self._store._topics.values()):
            self._batches.setdefault((topic_id, partition, batch), set()).update(positions)

    async def settle(self, topic_id: int, partition: int, batch: Position) -> None:
        await self._store._call("settle_redrive")
        self._settled.add((topic_id, partition, batch))

    async def done(self, topic_id: int, partition: int, positions: Sequence[Position]) -> frozenset[Position]:
        await self._store._call("redriven")
        gone: set[Position] = set()
        for key in self._settled:
            if key[:2] == (topic_id, partition):
                gone |= self._batches.get(key, set())
        return frozenset(gone.intersection(positions))

"""The history in memory, over a FakeStore: ports.History, held to the real one by tests/contracts."""

from __future__ import annotations

from collections.abc import Mapping

from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import Span
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.ports import HistoryPage
from support.fake_store import FakeStore


class FakeHistory:
    """`scan`: rows looked at for one page when only one type is wanted."""

    def __init__(self, store: FakeStore, *, scan: int = 5_000) -> None:
        self._store = store
        self._scan = scan

    async def page(self, topic_id: int, partition: int, span: Span, *, count: int, max_bytes: int) -> HistoryPage:
        await self._store._call("history_page")
        key = (topic_id, partition)
        state = self._store._partitions.get(key)
        looked_at = [
            event
            for generation, event in self._store.rows(*key)
            if state is not None
            and not state.closed
            and generation == state.generation
            and span.first <= event.position <= span.last
            and (span.key is None or event.partition_key == span.key)
        ]
        scan = count if span.event_type is None else max(count, self._scan)
        events: list[StoredEvent] = []
        upto, size = span.last, 0
        for number, event in enumerate(looked_at, 1):
            if span.takes(event):
                events.append(event)
                size += _size(event)
            if number == scan or (span.takes(event) and (len(events) == count or size >= max_bytes)):
                upto = event.position
                break
        return HistoryPage(events, upto, self._store.floors.get(key, ZERO))

    async def floors(self, topic_id: int) -> Mapping[int, Position]:
        await self._store._call("floors")
        return {
            number: self._store.floors.get((topic, number), ZERO)
            for (topic, number), state in self._store._partitions.items()
            if topic == topic_id and not state.closed
        }


def drop_below(store: FakeStore, topic_id: int, partition: int, floor: Position) -> None:
    """Raise the floor of a partition and remove what stands below it."""
    key = (topic_id, partition)
    store.floors[key] = floor
    rows = store._rows.get(key, {})
    for place in [place for place in rows if place[1] < floor]:
        del rows[place]


def _size(event: StoredEvent) -> int:
    texts = event.event_type + (event.partition_key or "")
    return len(event.payload) + len(event.headers or b"") + len(texts.encode())

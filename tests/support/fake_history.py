"""The history in memory, over a FakeStore: ports.History, held to the real one by tests/contracts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import Span
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.ports.store import GroupMark, HistoryPage
from support.fake_store import FakeStore


class FakeHistory:
    """`scan`: rows looked at for one page when only one type is wanted."""

    def __init__(self, store: FakeStore, *, scan: int = 5_000) -> None:
        self._store = store
        self._scan = scan

    async def page(self, topic_id: int, partition: int, span: Span, *, count: int, max_bytes: int) -> HistoryPage:
        await self._store._call("history_page")
        key = (topic_id, partition)
        floor = self._store.floors.get(key, ZERO)
        looked_at = [
            event
            for event in self._log(topic_id, partition)
            if span.first <= event.position <= span.last and (span.key is None or event.partition_key == span.key)
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
        return HistoryPage(events, upto, floor)

    def _log(self, topic_id: int, partition: int) -> list[StoredEvent]:
        """The events of the present generation from the floor on, in order; none of a partition that is closed."""
        state = self._store._partitions.get((topic_id, partition))
        if state is None or state.closed:
            return []
        floor, rows = self._store.floors.get((topic_id, partition), ZERO), self._store.rows(topic_id, partition)
        return [event for generation, event in rows if generation == state.generation and event.position >= floor]

    async def at(self, topic_id: int, partition: int, positions: Sequence[Position]) -> Mapping[Position, StoredEvent]:
        await self._store._call("history_at")
        return {one.position: one for one in self._log(topic_id, partition) if one.position in positions}

    async def count(self, topic_id: int, partition: int, after: Position, upto: Position) -> int:
        await self._store._call("history_count")
        return sum(after < one.position <= upto for one in self._log(topic_id, partition))

    async def floors(self, topic_id: int) -> Mapping[int, Position]:
        await self._store._call("floors")
        return {
            number: self._store.floors.get((topic, number), ZERO)
            for (topic, number), state in self._store._partitions.items()
            if topic == topic_id and not state.closed
        }


def raise_floor(store: FakeStore, topic_id: int, partition: int, floor: Position) -> None:
    store.floors[topic_id, partition] = floor
    for name, topic in store._topics.items():
        if topic.id == topic_id:
            highest = max(store.floors.get((topic_id, number), ZERO).ms for number in range(topic.partitions))
            store._topics[name] = replace(topic, history_floor_ms=highest)


def drop_below(store: FakeStore, topic_id: int, partition: int, floor: Position) -> None:
    """Remove what stands below a floor."""
    rows = store._rows.get((topic_id, partition), {})
    for place in [place for place in rows if place[1] < floor]:
        del rows[place]


def outlive(store: FakeStore, topic_id: int, partition: int, floor: Position) -> None:
    """Raise the floor, then remove what stands below it: history has outlived it."""
    raise_floor(store, topic_id, partition, floor)
    drop_below(store, topic_id, partition, floor)


def _size(event: StoredEvent) -> int:
    texts = event.event_type + (event.partition_key or "")
    return len(event.payload) + len(event.headers or b"") + len(texts.encode())


class FakeGroupPositions:
    """ports.GroupPositions."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self.saved: dict[tuple[int, str, int], Position] = {}

    async def save(self, marks: Sequence[GroupMark]) -> None:
        await self._store._call("save_positions")
        for mark in marks:
            if (mark.topic_id, mark.group) in self._store._groups:
                self.saved[mark.topic_id, mark.group, mark.partition] = mark.position

    async def of(self, topic_id: int, group: str) -> Mapping[int, Position]:
        await self._store._call("positions")
        if (topic_id, group) not in self._store._groups:
            self.saved = {place: at for place, at in self.saved.items() if place[:2] != (topic_id, group)}
            return {}
        return {place[2]: position for place, position in self.saved.items() if place[:2] == (topic_id, group)}

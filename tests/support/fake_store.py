"""The store in memory: ports.EventStore and ports.Catalog with the semantics of the real one, and trouble on demand.

tests/contracts runs the same suite on it and on PostgreSQL. It works on asyncio and trio; every call is a checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import anyio
import anyio.lowlevel

from openstream_runtime.domain.errors import Conflict, NotFound, OutcomeUnknown, Unavailable
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.positions import ZERO, Cursor, Position, TopicPartition
from openstream_runtime.domain.topics import GROUP_DEFAULTS, Group, GroupSettings, Topic, TopicSettings, Visibility
from openstream_runtime.ports.store import Committed, FencedOff, Holding, PersistBatch
from support.fake_redrives import FakeRedrives
from support.fake_replays import FakeReplays

Key = tuple[int, int]
_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that is in quarantine; `reason` is `refused` or `collision`."""

    generation: int
    event: StoredEvent
    reason: str


@dataclass(slots=True)
class Trouble:
    """What shall go wrong. Everything is off at first; counters count down."""

    #: Every call raises Unavailable.
    unavailable: bool = False
    #: So many next calls raise Unavailable.
    unavailable_calls: int = 0
    #: So many next writes raise Unavailable; other calls go through.
    unavailable_writes: int = 0
    #: For each next write: OutcomeUnknown although it was committed (True), or because it was not (False).
    lost_commits: list[bool] = field(default_factory=list)
    #: Events refused beside those PostgreSQL refuses.
    poison: Callable[[StoredEvent], bool] = lambda _event: False
    #: Writes wait for it before they do anything; like the real ones they are not cancelled meanwhile.
    gate: anyio.Event | None = None

    def hold_writes(self) -> anyio.Event:
        """Make writes wait until the event is set."""
        self.gate = anyio.Event()
        return self.gate


@dataclass(slots=True)
class _Partition:
    epoch: int = 0
    generation: int = 0
    position: Position = ZERO
    n: int = 0
    owner: str | None = None
    closed: bool = False

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.epoch, self.generation, self.position)


class FakeStore:
    """`events` and `catalog` over the same memory. Several may not share one: it stands for the database itself."""

    def __init__(self, now_ms: Callable[[], int] = lambda: 1_700_000_000_000) -> None:
        self.trouble = Trouble()
        self.now_ms = now_ms
        self.calls: Counter[str] = Counter()
        self._version = 0
        self._last_id = 0
        self._topics: dict[str, Topic] = {}
        self._groups: dict[tuple[int, str], Group] = {}
        self._partitions: dict[Key, _Partition] = {}
        self._rows: dict[Key, dict[tuple[int, Position], StoredEvent]] = {}
        self._quarantine: dict[Key, list[Quarantined]] = {}
        #: Below them events may have been dropped; see support.fake_history.
        self.floors: dict[Key, Position] = {}
        self.events = FakeEvents(self)
        self.catalog = FakeCatalog(self)
        self.replays = FakeReplays(self)
        self.redrives = FakeRedrives(self)

    # ---- what a test looks at and does

    def rows(self, topic_id: int, partition: int) -> list[tuple[int, StoredEvent]]:
        """(generation, event) of every stored row, ordered."""
        rows = self._rows.get((topic_id, partition), {})
        return [(generation, rows[generation, position]) for generation, position in sorted(rows)]

    def quarantined(self, topic_id: int, partition: int) -> list[Quarantined]:
        return list(self._quarantine.get((topic_id, partition), ()))

    def count(self, topic_id: int, partition: int) -> int:
        """How many events the cursor has moved over."""
        return self._partitions[topic_id, partition].n

    def owner(self, topic_id: int, partition: int) -> str | None:
        return self._partitions[topic_id, partition].owner

    def usurp(self, topic_id: int, partition: int, owner: str = "somebody-else") -> Cursor:
        """Another node takes the partition: whoever held it is stale from now on."""
        state = self._partitions[topic_id, partition]
        state.epoch += 1
        state.owner = owner
        return state.cursor

    def plant(self, topic_id: int, partition: int, generation: int, event: StoredEvent) -> None:
        """Put a row there without moving the cursor, as an old backup or a foreign writer would."""
        self._rows.setdefault((topic_id, partition), {})[generation, event.position] = event

    async def maintain(self, now_ms: int) -> int:
        await self._call("maintain")
        return 0

    def stats(self) -> Mapping[str, int]:
        return {"pool_size": 1, "pool_available": 1, "requests_waiting": 0}

    # ---- shared by both halves

    async def _call(self, name: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.calls[name] += 1
        if self.trouble.unavailable_calls > 0:
            self.trouble.unavailable_calls -= 1
            raise _away()
        if self.trouble.unavailable:
            raise _away()


def _away() -> Unavailable:
    return Unavailable("PostgreSQL is away", backend="postgresql")


class FakeEvents:
    """ports.EventStore."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def take(self, topic_id: int, partition: int, owner: str) -> Cursor | None:
        await self._store._call("take")
        state = self._open(topic_id, partition)
        if state is None:
            return None
        state.epoch += 1
        state.owner = owner
        return state.cursor

    async def cursor(self, topic_id: int, partition: int) -> Cursor | None:
        await self._store._call("cursor")
        state = self._open(topic_id, partition)
        return None if state is None else state.cursor

    async def cursors(self) -> Mapping[TopicPartition, Cursor]:
        await self._store._call("cursors")
        names = {topic.id: topic.name for topic in self._store._topics.values()}
        return {
            TopicPartition(names[topic_id], partition): state.cursor
            for (topic_id, partition), state in self._store._partitions.items()
            if not state.closed
        }

    async def ping(self) -> None:
        await self._store._call("ping")

    async def holds(self, asked: Sequence[tuple[Key, Sequence[Position]]]) -> list[Holding]:
        await self._store._call("holds")
        return [self._holding(key, positions) for key, positions in asked]

    def _holding(self, key: Key, positions: Sequence[Position]) -> Holding:
        store, state = self._store, self._open(*key)
        there = {position for _, position in store._rows.get(key, {})}
        there |= {one.event.position for one in store._quarantine.get(key, ())}
        floor = store.floors.get(key, ZERO)
        held = frozenset(position for position in positions if position in there or position < floor)
        return Holding(held, state.position if state and positions else None)

    async def write(self, batches: Sequence[PersistBatch]) -> list[Committed | FencedOff]:
        if not batches:
            return []
        for batch in batches:
            _check(batch)
        trouble = self._store.trouble
        if trouble.gate is not None:
            with anyio.CancelScope(shield=True):
                await trouble.gate.wait()
        await self._store._call("write")
        if trouble.unavailable_writes > 0:
            trouble.unavailable_writes -= 1
            raise _away()
        lost = trouble.lost_commits.pop(0) if trouble.lost_commits else None
        if lost is False:
            raise OutcomeUnknown("PostgreSQL's answer to a commit was lost", backend="postgresql")
        outcomes = [self._write(batch) for batch in batches]
        if lost:
            raise OutcomeUnknown("PostgreSQL's answer to a commit was lost", backend="postgresql")
        return outcomes

    def _open(self, topic_id: int, partition: int) -> _Partition | None:
        state = self._store._partitions.get((topic_id, partition))
        return None if state is None or state.closed else state

    def _write(self, batch: PersistBatch) -> Committed | FencedOff:
        state = self._open(batch.topic_id, batch.partition)
        if state is None or state.cursor != (batch.epoch, batch.generation, batch.after):
            return FencedOff()
        key = (batch.topic_id, batch.partition)
        rows = self._store._rows.setdefault(key, {})
        refused: list[Quarantined] = []
        for event in batch.events:
            known = rows.get((batch.generation, event.position))
            if known is None and (_refused(event) or self._store.trouble.poison(event)):
                refused.append(Quarantined(batch.generation, event, "refused"))
            elif known is None:
                rows[batch.generation, event.position] = event
            elif known != event:
                refused.append(Quarantined(batch.generation, event, "collision"))
        self._store._quarantine.setdefault(key, []).extend(refused)
        state.position = batch.upto
        state.n += len(batch.events)
        return Committed(quarantined=len(refused))


def _check(batch: PersistBatch) -> None:
    if batch.upto < batch.after:
        raise ValueError("a batch ends before it begins")
    if batch.events and not batch.after < batch.events[0].position <= batch.events[-1].position <= batch.upto:
        raise ValueError("a batch holds events outside its range")


def _refused(event: StoredEvent) -> bool:
    """Whether PostgreSQL would refuse it: texts without NUL, bytes that are UTF-8, numbers that are bigint."""
    try:
        texts = [
            event.event_type.encode(),
            (event.partition_key or "").encode(),
            event.payload.decode().encode(),
            (event.headers or b"").decode().encode(),
        ]
    except UnicodeError:
        return True
    return any(b"\0" in text for text in texts) or not -_MAX - 1 <= event.timestamp_ms <= _MAX


class FakeCatalog:
    """ports.Catalog."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def version(self) -> int:
        await self._store._call("version")
        return self._store._version

    async def topics(self) -> list[Topic]:
        await self._store._call("topics")
        return [topic for _, topic in sorted(self._store._topics.items())]

    async def topic(self, name: str) -> Topic | None:
        await self._store._call("topic")
        return self._store._topics.get(name)

    async def create_topic(self, name: str, partitions: int, settings: TopicSettings) -> tuple[Topic, bool]:
        store = self._store
        await store._call("create_topic")
        if name in store._topics:
            return store._topics[name], False
        store._last_id += 1
        topic = Topic(store._last_id, name, partitions, settings, store.now_ms())
        store._topics[name] = topic
        store._partitions |= {(topic.id, number): _Partition() for number in range(partitions)}
        store._version += 1
        return topic, True

    async def alter_topic(self, name: str, settings: TopicSettings) -> Topic | None:
        store = self._store
        await store._call("alter_topic")
        topic = store._topics.get(name)
        if topic is None or topic.deleting:
            return None
        if topic.settings != settings:
            store._topics[name] = replace(topic, settings=settings)
            store._version += 1
        return store._topics[name]

    async def begin_delete(self, name: str) -> Topic | None:
        store = self._store
        await store._call("begin_delete")
        topic = store._topics.get(name)
        if topic is None or topic.deleting:
            return topic
        store._topics[name] = replace(topic, deleting=True)
        for state in self._partitions(topic).values():
            state.closed = True
            state.epoch += 1
            state.owner = None
        store._version += 1
        return store._topics[name]

    async def purge(self, topic: Topic, *, max_rows: int) -> bool:
        store = self._store
        await store._call("purge")
        known = self._by_id(topic.id)
        if known is None:
            return True
        if not known.deleting:
            raise Conflict("the topic is not being deleted", topic=topic.name)
        left = max_rows
        for key in self._partitions(topic):
            rows, quarantine = store._rows.get(key, {}), store._quarantine.get(key, [])
            for place in sorted(rows)[:left]:
                del rows[place]
                left -= 1
            removed = len(quarantine[:left])
            del quarantine[:removed]
            left -= removed
        if left <= 0:
            return False
        for key in self._partitions(topic):
            del store._partitions[key]
        store._groups = {key: group for key, group in store._groups.items() if group.topic_id != topic.id}
        del store._topics[known.name]
        store._version += 1
        return True

    async def groups(self) -> list[Group]:
        await self._store._call("groups")
        groups = [group for group in self._store._groups.values() if self._is_open(group.topic_id)]
        return sorted(groups, key=lambda group: (group.topic, group.name))

    async def group(self, topic: str, name: str) -> Group | None:
        await self._store._call("group")
        known = self._store._topics.get(topic)
        return None if known is None or known.deleting else self._store._groups.get((known.id, name))

    async def create_group(
        self,
        topic: Topic,
        name: str,
        start_id: str,
        visibility: Visibility = Visibility.APPENDED,
        settings: GroupSettings = GROUP_DEFAULTS,
    ) -> tuple[Group, bool]:
        store = self._store
        await store._call("create_group")
        if not self._is_open(topic.id):
            raise NotFound("there is no such topic", topic=topic.name)
        if (topic.id, name) in store._groups:
            return store._groups[topic.id, name], False
        group = Group(topic.id, topic.name, name, start_id, store.now_ms(), visibility, settings)
        store._groups[topic.id, name] = group
        store._version += 1
        return group, True

    async def alter_group(self, topic: Topic, name: str, settings: GroupSettings) -> Group | None:
        store = self._store
        await store._call("alter_group")
        group = store._groups.get((topic.id, name))
        if group is None or not self._is_open(topic.id):
            return None
        store._groups[topic.id, name] = replace(group, settings=settings)
        store._version += 1
        return store._groups[topic.id, name]

    async def delete_group(self, topic: Topic, name: str) -> bool:
        store = self._store
        await store._call("delete_group")
        if not self._is_open(topic.id) or store._groups.pop((topic.id, name), None) is None:
            return False
        store._version += 1
        return True

    def _by_id(self, topic_id: int) -> Topic | None:
        return next((topic for topic in self._store._topics.values() if topic.id == topic_id), None)

    def _is_open(self, topic_id: int) -> bool:
        topic = self._by_id(topic_id)
        return topic is not None and not topic.deleting

    def _partitions(self, topic: Topic) -> dict[Key, _Partition]:
        return {key: state for key, state in self._store._partitions.items() if key[0] == topic.id}

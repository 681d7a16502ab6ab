"""The log in memory, for tests of actors: the same ports as RedisLog, held to them by tests/contracts.

log = FakeLog()
log.redis.lose_answer("append", kept=True); log.redis.flush(); log.redis.unavailable = True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import anyio
from anyio.lowlevel import checkpoint

from openstream_runtime.domain.errors import LeaseLost, NotFound, OutcomeUnknown, Unavailable
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import END, before
from openstream_runtime.domain.names import RESERVED_CONSUMER_PREFIX
from openstream_runtime.domain.positions import ZERO, Cursor, Position, TopicPartition
from openstream_runtime.domain.producers import MEMORY, Memory
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.log import (
    AppendBatch,
    Appended,
    AppendOutcome,
    GroupStats,
    Refusal,
    Refused,
    StreamEdges,
    StreamStats,
    TailNews,
    Unknown,
)
from openstream_runtime.ports.nodes import NodeInfo
from support.fake_groups import FakeGroups
from support.fake_producers import FakeProducers, look, originals, remember
from support.fake_redis import FakeMeta, FakeRedis


class FakeLog:
    """One node's view. Give several the same `redis` for several nodes."""

    def __init__(self, redis: FakeRedis | None = None, memory: Memory = MEMORY) -> None:
        self.redis = redis or FakeRedis()
        self.events = FakeEvents(self.redis, memory)
        self.producers = FakeProducers(self.redis, memory)
        self.groups = FakeGroups(self.redis)
        self.leases = FakeLeases(self.redis)
        self.members = FakeMembers(self.redis)
        self.tail = FakeTail(self.redis)


class FakeEvents:
    def __init__(self, redis: FakeRedis, memory: Memory) -> None:
        self._redis = redis
        self._memory = memory

    @property
    def sharded(self) -> bool:
        return self._redis.sharded

    async def append(self, batches: Sequence[AppendBatch], *, replicas: int | None = None) -> list[AppendOutcome]:
        try:
            return await self._redis.write("append", lambda: [self._append(batch, replicas) for batch in batches])
        except Unavailable:
            return [Refused(Refusal.UNAVAILABLE)] * len(batches)
        except OutcomeUnknown:
            return [Unknown()] * len(batches)

    def _append(self, batch: AppendBatch, replicas: int | None) -> AppendOutcome:
        redis, at = self._redis, TopicPartition(batch.topic.name, batch.partition)
        marks = redis.marks.setdefault((at, batch.mark.replay), {}) if batch.mark else {}
        if batch.mark is not None:
            mark = END if END in marks.values() else marks.get(batch.mark.source, ZERO)
            if mark != batch.mark.after:
                return Refused(Refusal.MARK, mark)
        meta, stream = redis.meta.get(at), redis.streams.get(at)
        if stream is None or meta is None or (meta.topic_id, meta.run_id) != (batch.topic.id, redis.run_id):
            return Refused(Refusal.UNVERIFIED)
        replicated = replicas is None or redis.replicas >= replicas
        if batch.once is not None and (found := look(redis, at, batch.once, self._memory)) is not None:
            return replace(found, replicated=replicated) if isinstance(found, Appended) else found
        known = originals(redis, at, batch)
        if None in known or not known:
            if len(stream.entries) >= batch.max_stream_len:
                return Refused(Refusal.LENGTH)
            if meta.n - meta.pn >= batch.max_unpersisted:
                return Refused(Refusal.UNPERSISTED)
            if redis.out_of_memory:
                return Refused(Refusal.MEMORY)
        now, positions = redis.now_ms(), list[Position]()
        for event, there in zip(batch.events, known, strict=True):
            if there is None:
                positions.append(stream.add(event, now))
            else:
                positions.append(positions[there] if isinstance(there, int) else there)
        meta.n += known.count(None)
        if batch.mark is not None:
            marks[batch.mark.source] = batch.mark.upto
        duplicates = frozenset(index for index, there in enumerate(known) if there is not None)
        kept = Appended(positions, replicated, duplicates)
        remember(redis, at, batch, kept, self._memory)
        redis.tell()
        return kept

    async def is_replicated(self, partitions: Sequence[TopicPartition], replicas: int) -> bool:
        """False also where the answer is lost: nothing is known then."""
        if not self._redis.unavailable:
            self._redis.asked_of_replicas += [*partitions]
        return not self._redis.unavailable and self._redis.replicas >= replicas

    async def verify(self, topic: Topic, partition: int, cursor: Cursor, *, floor: Position = ZERO) -> str:
        def do() -> str:
            at = TopicPartition(topic.name, partition)
            lost = False
            old, low = self._redis.meta.get(at), ZERO
            if old is not None and old.topic_id > topic.id:
                raise NotFound("The topic was deleted and created again.", topic=topic.name)
            if old is not None and old.topic_id != topic.id:
                self._redis.forget(at)
                gone = self._redis.streams.pop(at, None)
                old, low = None, max(cursor.position, gone.last if gone else ZERO)
            was_there = at in self._redis.streams
            stream = self._redis.stream(at)
            in_gap = old is not None and old.gap[0] < cursor.position < old.gap[1]
            if max(stream.last, low) < cursor.position or in_gap:  # it came back empty, or behind
                stream.leave_to_store(cursor.position, counted=False)
                low, lost = max(cursor.position, floor), True
            elif old is None and cursor.position > ZERO:
                lost = True
                first = next(iter(stream.entries), None)
                trimmed = before(first) if first is not None and first <= cursor.position else cursor.position
                stream.leave_to_store(trimmed, counted=False)
            if old is not None and (old.run_id != self._redis.run_id or not was_there):
                low = max(low, floor)
            gap = old.gap if old is not None else (ZERO, ZERO)
            if stream.last < low:
                gap = (max(stream.last, cursor.position), low)
            elif in_gap:
                gap = (cursor.position, gap[1])
            stream.last = max(stream.last, low)
            if old is None or old.pid < cursor.position:
                waiting = len(stream.after(cursor.position))
                n = max(old.n if old else 0, waiting)
                verified_ms = old.verified_ms if old else 0
                old = FakeMeta(topic.id, old.run_id if old else 0, 0, n, n - waiting, cursor.position, verified_ms)
            old.gap = gap
            if lost or not was_there or old.run_id != self._redis.run_id:
                old.verified_ms = self._redis.now_ms()
            old.run_id, old.generation = self._redis.run_id, cursor.generation
            self._redis.meta[at] = old
            if lost:
                self._redis.remembered(at).lost_ms = self._redis.now_ms() + 1
            return str(self._redis.run_id)

        return await self._redis.write("verify", do)

    async def read_after(
        self,
        at: TopicPartition,
        after: Position,
        *,
        upto: Position | None = None,
        count: int,
        max_bytes: int = 8 << 20,
        server: str | None = None,
    ) -> list[StoredEvent]:
        def do() -> list[StoredEvent]:
            if server not in (None, str(self._redis.run_id)):
                raise Unavailable("another server answers", backend="redis")
            found, size = [], 0
            stream = self._redis.streams.get(at)
            for event in stream.after(after)[:count] if stream else ():
                if upto is not None and event.position > upto:
                    break
                found.append(event)
                size += len(event.payload) + len(event.headers or b"")
                if size >= max_bytes:
                    break
            return found

        return await self._redis.ask("read_after", do)

    async def edges(self, at: TopicPartition, *, with_bytes: bool = False) -> StreamEdges:
        def do() -> StreamEdges:
            stream = self._redis.streams.get(at)
            entries = stream.entries if stream else {}
            size = sum(len(event.payload) + len(event.headers or b"") + 64 for event in entries.values())
            return StreamEdges(
                len(entries),
                next(iter(entries), None),
                stream.last if stream else ZERO,
                self._redis.now_ms(),
                size if with_bytes else None,
                stream.trimmed if stream else ZERO,
            )

        return await self._redis.ask("edges", do)

    async def mark_persisted(
        self, at: TopicPartition, token: str, cursor: Position, *, count: int | None, trim_below: Position | None
    ) -> int:
        def do() -> int:
            if self._redis.holder(at) != token:
                raise LeaseLost(topic=at.topic, partition=at.partition)
            stream, meta = self._redis.streams.get(at), self._redis.meta.get(at)
            if meta is None or meta.run_id != self._redis.run_id:
                raise Unavailable("nobody has verified it on this server", backend="redis")
            if stream is not None:
                if meta.pid < cursor:
                    meta.pid = cursor
                    meta.pn = min(meta.n, meta.pn + (count or 0))
                if meta.pid >= stream.tail():
                    meta.pn = meta.n
                elif count is None:
                    meta.pn = meta.n - min(meta.n, len(stream.after(meta.pid)))
            return stream.trim(min(trim_below, cursor.next())) if stream and trim_below is not None else 0

        return await self._redis.write("mark_persisted", do)

    async def persisted(self, partitions: Sequence[TopicPartition]) -> list[Position]:
        meta = self._redis.meta
        return await self._redis.ask("persisted", lambda: [meta[at].pid if at in meta else ZERO for at in partitions])

    async def stats(self, partitions: Sequence[TopicPartition]) -> list[StreamStats]:
        return await self._redis.ask("stats", lambda: [self._stats(at) for at in partitions])

    def _stats(self, at: TopicPartition) -> StreamStats:
        stream, meta, token = self._redis.streams.get(at), self._redis.meta.get(at), self._redis.holder(at)
        groups = (
            [
                GroupStats(
                    name,
                    sum(not one.startswith(RESERVED_CONSUMER_PREFIX) for one in group.consumers),
                    len(group.pending),
                    stream.lag(group),
                    group.at,
                    None,
                )
                for name, group in sorted(stream.groups.items())
            ]
            if stream
            else []
        )
        return StreamStats(
            length=len(stream.entries) if stream else 0,
            last=stream.last if stream else ZERO,
            unpersisted=meta.n - meta.pn if meta else 0,
            persisted=meta.pid if meta else ZERO,
            owner=token.partition(":")[0] if token else None,
            groups=groups,
            persisted_count=meta.pn if meta else 0,
            verified_ms=meta.verified_ms if meta else 0,
        )

    async def memory(self) -> Mapping[str, int]:
        memory = {"used_memory": self._redis.used_memory, "maxmemory": self._redis.maxmemory}
        return await self._redis.ask("memory", lambda: memory)

    async def delete_topic(self, topic: Topic) -> None:
        def do() -> None:
            for at in topic.all_partitions():
                meta = self._redis.meta.get(at)
                if meta is None or meta.topic_id <= topic.id:
                    self._redis.forget(at)
                    for state in (self._redis.streams, self._redis.meta, self._redis.leases):
                        state.pop(at, None)

        await self._redis.write("delete_topic", do)

    async def end_marks(self, topic: Topic, replay: str) -> None:
        def do() -> None:
            self._redis.marks |= {(at, replay): {-1: END} for at in topic.all_partitions()}

        await self._redis.write("end_marks", do)

    async def ping(self) -> None:
        await self._redis.ask("ping", lambda: None)


class FakeLeases:
    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis

    async def acquire(self, at: TopicPartition, token: str, ttl_ms: int) -> bool:
        def do() -> bool:
            if self._redis.holder(at) not in (None, token):
                return False
            self._redis.leases[at] = (token, self._redis.now_ms() + ttl_ms)
            return True

        return await self._redis.write("acquire", do)

    async def renew(self, at: TopicPartition, token: str, ttl_ms: int) -> bool:
        def do() -> bool:
            if self._redis.holder(at) != token:
                return False
            self._redis.leases[at] = (token, self._redis.now_ms() + ttl_ms)
            return True

        return await self._redis.write("renew", do)

    async def release(self, at: TopicPartition, token: str) -> None:
        def do() -> None:
            if self._redis.holder(at) == token:
                del self._redis.leases[at]

        with suppress(Unavailable, OutcomeUnknown):
            await self._redis.write("release_lease", do)


class FakeMembers:
    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis

    async def beat(self, node: NodeInfo, ttl_ms: int) -> list[NodeInfo]:
        def do() -> list[NodeInfo]:
            now = self._redis.now_ms()
            self._redis.nodes[node.id] = (node, now + ttl_ms)
            for name in [name for name, (_, ends) in self._redis.nodes.items() if ends <= now]:
                del self._redis.nodes[name]
            return [self._redis.nodes[name][0] for name in sorted(self._redis.nodes)]

        return await self._redis.ask("beat", do)

    async def leave(self, node_id: str) -> None:
        await self._redis.ask("leave", lambda: self._redis.nodes.pop(node_id, None))


class FakeTail:
    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis
        self._heard: int | None = None
        self._interrupted: anyio.Event | None = None

    async def wait(self, positions: Mapping[TopicPartition, Position], timeout: float) -> TailNews:
        interrupted = self._interrupted = anyio.Event()
        try:
            await self._redis.ask("wait", lambda: None)
            if self._heard is None or self._heard > len(self._redis.bells):  # lost with the rest of Redis' data
                self._heard = len(self._redis.bells) if self._heard is None else 0
            with anyio.move_on_after(timeout):
                while not interrupted.is_set():
                    self._redis.check_available()
                    if (news := self._news(positions)) != TailNews():
                        return news
                    await self._first_of(interrupted, self._redis.changed)
            return TailNews()
        finally:
            self._interrupted = None

    def _news(self, positions: Mapping[TopicPartition, Position]) -> TailNews:
        moved = {
            at: stream.tail()
            for at, position in positions.items()
            if (stream := self._redis.streams.get(at)) is not None and stream.tail() > position
        }
        bells = list(dict.fromkeys(self._redis.bells[self._heard :]))
        self._heard = len(self._redis.bells)
        return TailNews(moved, bells) if bells else TailNews(moved)

    async def interrupt(self) -> None:
        running = self._interrupted
        await checkpoint()
        if running is not None:
            running.set()

    async def ring(self, bell: str) -> None:
        def do() -> None:
            self._redis.bells.append(bell)
            self._redis.tell()

        with suppress(Unavailable, OutcomeUnknown):
            await self._redis.write("ring", do)

    @staticmethod
    async def _first_of(*events: anyio.Event) -> None:
        async with anyio.create_task_group() as group:

            async def until(event: anyio.Event) -> None:
                await event.wait()
                group.cancel_scope.cancel()

            for event in events:
                group.start_soon(until, event)

"""GroupLog in memory: the semantics of Redis' consumer groups as the log room uses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from openstream_runtime.domain.events import Delivery
from openstream_runtime.domain.names import RELEASED
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.ports import ConsumerInfo, GroupPartition, GroupRead
from support.fake_redis import FakeGroup, FakeRedis, FakeStream, Pending


class FakeGroups:
    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis

    async def create(self, topic: str, group: str, positions: Mapping[int, str]) -> int:
        def do() -> int:
            new = [p for p in positions if self._redis.group(TopicPartition(topic, p), group) is None]
            for partition in new:
                self._begin(TopicPartition(topic, partition), group, positions[partition])
            return len(new)

        return await self._redis.write("create", do)

    async def set_position(self, topic: str, group: str, positions: Mapping[int, str]) -> int:
        def do() -> int:
            dropped = 0
            for partition, text in positions.items():
                at = TopicPartition(topic, partition)
                old = self._redis.group(at, group)
                dropped += len(old.pending) if old else 0
                self._begin(at, group, text)
            return dropped

        return await self._redis.write("set_position", do)

    def _begin(self, at: TopicPartition, group: str, text: str) -> None:
        stream = self._redis.stream(at)
        stream.groups[group] = FakeGroup(stream.last if text == "$" else Position.parse(text))

    async def delete(self, topic: str, group: str, partitions: Sequence[int]) -> int:
        def do() -> int:
            gone = [stream for _, stream in self._streams(topic, partitions) if stream.groups.pop(group, None)]
            return len(gone)

        return await self._redis.write("delete_group", do)

    async def read(
        self, topic: str, group: str, consumer: str, partitions: Sequence[int], *, count: int, max_bytes: int = 8 << 20
    ) -> GroupRead:
        def do() -> GroupRead:
            hand = _Hand(self._redis, consumer, count, max_bytes)
            missing = []
            for partition in partitions:
                if hand.full():
                    break
                at = TopicPartition(topic, partition)
                if (found := self._redis.group(at, group)) is None:
                    missing.append(partition)
                    continue
                stream = self._redis.streams[at]
                hand.take(partition, stream, found, found.held_by(RELEASED))
                found.consumers[consumer] = self._redis.now_ms()
                for event in stream.after(found.at):
                    if hand.full():
                        break
                    found.at = event.position
                    found.pending[event.position] = Pending(consumer, self._redis.now_ms(), 0)
                    hand.take(partition, stream, found, [event.position])
            tails = {}
            if not hand.deliveries:
                tails = {p: stream.tail() for p, stream in self._streams(topic, partitions) if p not in missing}
            return GroupRead(hand.deliveries, tails, sorted(missing))

        return await self._redis.write("read", do)

    async def ack(self, topic: str, group: str, items: Mapping[int, Sequence[Position]]) -> int:
        def do() -> int:
            acked = 0
            for partition, positions in items.items():
                if (found := self._redis.group(TopicPartition(topic, partition), group)) is not None:
                    acked += sum(found.pending.pop(position, None) is not None for position in positions)
            return acked

        return await self._redis.ask("ack", do)

    async def claim(
        self,
        topic: str,
        group: str,
        consumer: str,
        partitions: Sequence[int],
        *,
        min_idle_ms: int,
        count: int,
        max_bytes: int = 8 << 20,
    ) -> GroupRead:
        def do() -> GroupRead:
            hand = _Hand(self._redis, consumer, count, max_bytes)
            missing = []
            for partition in partitions:
                if hand.full():
                    break
                at = TopicPartition(topic, partition)
                if (found := self._redis.group(at, group)) is None:
                    missing.append(partition)
                    continue
                stream = self._redis.streams[at]
                released = found.held_by(RELEASED)
                idle = [position for position in self._idle(found, min_idle_ms) if position not in released]
                hand.take(partition, stream, found, released)
                hand.take(partition, stream, found, idle)
            return GroupRead(hand.deliveries, {}, sorted(missing))

        return await self._redis.write("claim", do)

    async def release(
        self, topic: str, group: str, consumer: str, items: Mapping[int, Sequence[Position]], *, undelivered: bool
    ) -> int:
        def do() -> int:
            released = 0
            for partition, positions in items.items():
                at = TopicPartition(topic, partition)
                if (found := self._redis.group(at, group)) is None:
                    continue
                for position in positions:
                    one = found.pending.get(position)
                    if one is not None and one.consumer == consumer:
                        released += self._release(self._redis.streams[at], found, position, int(undelivered))
            return released

        return await self._redis.write("release", do)

    async def release_idle(self, topic: str, group: str, partition: int, *, min_idle_ms: int, count: int) -> int:
        def do() -> int:
            at = TopicPartition(topic, partition)
            if (found := self._redis.group(at, group)) is None:
                return 0
            held = [p for p in self._idle(found, min_idle_ms) if found.pending[p].consumer != RELEASED]
            return sum(self._release(self._redis.streams[at], found, position, 0) for position in held[:count])

        return await self._redis.write("release_idle", do)

    async def remove_idle_consumers(self, topic: str, group: str, partition: int, *, min_idle_ms: int) -> int:
        def do() -> int:
            if (found := self._redis.group(TopicPartition(topic, partition), group)) is None:
                return 0
            oldest = self._redis.now_ms() - min_idle_ms
            idle = [name for name, seen in found.consumers.items() if seen <= oldest and not found.held_by(name)]
            gone = [name for name in idle if name != RELEASED]
            for name in gone:
                del found.consumers[name]
            return len(gone)

        return await self._redis.write("remove_idle_consumers", do)

    async def describe(self, topic: str, group: str, partitions: Sequence[int]) -> list[GroupPartition]:
        return await self._redis.ask("describe", lambda: [self._described(topic, group, p) for p in partitions])

    def _described(self, topic: str, group: str, partition: int) -> GroupPartition:
        at = TopicPartition(topic, partition)
        if (found := self._redis.group(at, group)) is None:
            return GroupPartition(partition, ZERO, 0, 0, 0, ())
        now = self._redis.now_ms()
        waiting = self._redis.streams[at].after(found.at)
        consumers = [
            ConsumerInfo(name, len(found.held_by(name)), now - seen)
            for name, seen in sorted(found.consumers.items())
            if name != RELEASED
        ]
        age = max(0, now - waiting[0].position.ms) if waiting else 0
        return GroupPartition(partition, found.at, len(found.pending), len(waiting), age, consumers)

    def _idle(self, group: FakeGroup, min_idle_ms: int) -> list[Position]:
        now = self._redis.now_ms()
        return sorted(position for position, one in group.pending.items() if now - one.since_ms >= min_idle_ms)

    def _release(self, stream: FakeStream, group: FakeGroup, position: Position, uncounted: int) -> int:
        if position not in stream.entries:
            del group.pending[position]
            return 0
        one = group.pending[position]
        one.consumer, one.since_ms, one.times = RELEASED, self._redis.now_ms(), max(0, one.times - uncounted)
        group.consumers[RELEASED] = one.since_ms
        return 1

    def _streams(self, topic: str, partitions: Sequence[int]) -> Iterator[tuple[int, FakeStream]]:
        for partition in partitions:
            if (stream := self._redis.streams.get(TopicPartition(topic, partition))) is not None:
                yield partition, stream


class _Hand:
    """Hands out entries until there are enough."""

    def __init__(self, redis: FakeRedis, consumer: str, count: int, max_bytes: int) -> None:
        self.deliveries: list[Delivery] = []
        self._redis, self._consumer, self._count, self._room = redis, consumer, count, max_bytes

    def full(self) -> bool:
        return len(self.deliveries) >= self._count or self._room <= 0

    def take(self, partition: int, stream: FakeStream, group: FakeGroup, positions: Sequence[Position]) -> None:
        for position in positions:
            if self.full():
                return
            event = stream.entries.get(position)
            if event is None:  # trimmed away: nobody can have it any more
                del group.pending[position]
                continue
            one = group.pending[position]
            one.consumer, one.since_ms, one.times = self._consumer, self._redis.now_ms(), one.times + 1
            group.consumers[self._consumer] = one.since_ms
            self._room -= len(event.payload) + len(event.headers or b"") + 64
            self.deliveries.append(Delivery(partition, event, one.times))

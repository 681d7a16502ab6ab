"""GroupLog in memory: the semantics of Redis' consumer groups as the log room uses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from openstream_runtime.domain.events import Delivery
from openstream_runtime.domain.history import before
from openstream_runtime.domain.names import RELEASED
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.ports.groups import Cold, ConsumerInfo, GroupLow, GroupPartition, GroupRead, Placed, Stub
from support.fake_redelivery import FakeRedelivery, condemn, end_delays, is_ours
from support.fake_redis import FakeGroup, FakeRedis, FakeStream, Pending


class FakeGroups(FakeRedelivery):
    async def create(self, topic: str, group: str, positions: Mapping[int, str]) -> Placed:
        return await self._redis.write("create", lambda: self._place(topic, group, positions, leave=True))

    async def set_position(self, topic: str, group: str, positions: Mapping[int, str]) -> Placed:
        return await self._redis.write("set_position", lambda: self._place(topic, group, positions, leave=False))

    def _place(self, topic: str, group: str, positions: Mapping[int, str], *, leave: bool) -> Placed:
        placed: dict[int, Position] = {}
        unverified, dropped = [], 0
        for partition, text in positions.items():
            at = TopicPartition(topic, partition)
            stream = self._redis.streams.get(at)
            if stream is None or at not in self._redis.meta:
                unverified.append(partition)
                continue
            old = stream.groups.get(group)
            if old is not None and leave:
                continue
            dropped += len(old.pending) if old else 0
            position = stream.last if text == "$" else Position.parse(text)
            stream.groups[group] = FakeGroup(position, cold=position < stream.trimmed)
            stream.groups[group].last_dead = old.last_dead if old else ZERO
            placed[partition] = position
        return Placed(placed, dropped, tuple(unverified))

    async def delete(self, topic: str, group: str, partitions: Sequence[int]) -> int:
        def do() -> int:
            gone = [stream for _, stream in self._streams(topic, partitions) if stream.groups.pop(group, None)]
            return len(gone)

        return await self._redis.write("delete_group", do)

    async def read(
        self,
        topic: str,
        group: str,
        consumer: str,
        partitions: Sequence[int],
        *,
        count: int,
        max_bytes: int = 8 << 20,
        persisted: bool = False,
        hot_only: bool = False,
        max_deliveries: int | None = None,
    ) -> GroupRead:
        def do() -> GroupRead:
            hand = _Hand(self._redis, consumer, count, max_bytes, max_deliveries)
            missing, cold, unpersisted = [], None, False
            for partition in partitions:
                if hand.full():
                    break
                at = TopicPartition(topic, partition)
                if (found := self._redis.group(at, group)) is None:
                    missing.append(partition)
                    continue
                stream, upto = self._redis.streams[at], self._redis.meta[at].pid
                hand.look_at(end_delays(self._redis, found))
                hand.take(partition, stream, found, found.held_by(RELEASED))
                found.consumers[consumer] = self._redis.now_ms()
                if found.cold:
                    if not hand.full() and not hot_only and not hand.taken:
                        cold = Cold(partition, found.at, stream.trimmed)
                        break
                    continue
                for event in stream.after(found.at):
                    if hand.full():
                        break
                    if persisted and event.position > upto:
                        unpersisted = True
                        break
                    found.at = event.position
                    found.pending[event.position] = Pending(consumer, self._redis.now_ms(), 0)
                    hand.take(partition, stream, found, [event.position])
            tails = {}
            if not hand.taken:
                tails = {p: stream.tail() for p, stream in self._streams(topic, partitions) if p not in missing}
            return GroupRead(hand.deliveries, tails, sorted(missing), hand.stubs, cold, unpersisted, hand.due_ms)

        return await self._redis.write("read", do)

    async def advance(
        self, topic: str, group: str, consumer: str, cold: Cold, positions: Sequence[Position], upto: Position
    ) -> bool:
        def do() -> bool:
            at = TopicPartition(topic, cold.partition)
            found = self._redis.group(at, group)
            if found is None or not found.cold or found.at != cold.after:
                return False
            now = self._redis.now_ms()
            found.consumers[consumer] = now
            found.pending |= {position: Pending(consumer, now, 1) for position in positions}
            found.at = upto
            found.cold = upto < self._redis.streams[at].trimmed
            if found.cold_count is not None:
                found.cold_count = max(0, found.cold_count - len(positions)) if found.cold else None
            return True

        return await self._redis.write("advance", do)

    async def lows(self, partitions: Sequence[TopicPartition]) -> list[Mapping[str, GroupLow]]:
        return await self._redis.ask("lows", lambda: [self._lows(at) for at in partitions])

    def _lows(self, at: TopicPartition) -> dict[str, GroupLow]:
        stream = self._redis.streams.get(at)
        lows = {}
        for name, group in stream.groups.items() if stream else ():
            low = before(min(group.pending)) if group.pending else group.at
            uncounted = group.cold and group.cold_count is None
            lows[name] = GroupLow(low, Cold(at.partition, group.at, stream.trimmed) if stream and uncounted else None)
        return lows

    async def counted(self, topic: str, group: str, cold: Cold, count: int) -> None:
        def do() -> None:
            at = TopicPartition(topic, cold.partition)
            found = self._redis.group(at, group)
            if found and found.cold and (found.at, self._redis.streams[at].trimmed) == (cold.after, cold.upto):
                found.cold_count = count

        await self._redis.write("counted", do)

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
        max_deliveries: int | None = None,
    ) -> GroupRead:
        def do() -> GroupRead:
            hand = _Hand(self._redis, consumer, count, max_bytes, max_deliveries)
            missing = []
            for partition in partitions:
                if hand.full():
                    break
                at = TopicPartition(topic, partition)
                if (found := self._redis.group(at, group)) is None:
                    missing.append(partition)
                    continue
                stream = self._redis.streams[at]
                hand.look_at(end_delays(self._redis, found))
                released = found.held_by(RELEASED)
                idle = [one for one in self._idle(found, min_idle_ms) if not is_ours(found.pending[one].consumer)]
                hand.take(partition, stream, found, released)
                hand.take(partition, stream, found, idle)
            return GroupRead(hand.deliveries, {}, sorted(missing), hand.stubs, due_ms=hand.due_ms)

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

    async def remove_idle_consumers(self, topic: str, group: str, partition: int, *, min_idle_ms: int) -> int:
        def do() -> int:
            if (found := self._redis.group(TopicPartition(topic, partition), group)) is None:
                return 0
            oldest = self._redis.now_ms() - min_idle_ms
            idle = [name for name, seen in found.consumers.items() if seen <= oldest and not found.held_by(name)]
            gone = [name for name in idle if not is_ours(name)]
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
        stream = self._redis.streams[at]
        waiting = stream.after(found.at)
        consumers = [
            ConsumerInfo(name, len(found.held_by(name)), now - seen)
            for name, seen in sorted(found.consumers.items())
            if not is_ours(name)
        ]
        age = max(0, now - waiting[0].position.ms) if waiting else 0
        cold_upto = stream.trimmed if found.cold else None
        ahead = len(stream.entries) if found.cold else 0
        return GroupPartition(
            partition, found.at, len(found.pending), stream.lag(found), age, consumers, cold_upto, ahead
        )

    def _streams(self, topic: str, partitions: Sequence[int]) -> Iterator[tuple[int, FakeStream]]:
        for partition in partitions:
            if (stream := self._redis.streams.get(TopicPartition(topic, partition))) is not None:
                yield partition, stream


class _Hand:
    """Hands out entries until there are enough."""

    def __init__(self, redis: FakeRedis, consumer: str, count: int, max_bytes: int, max_deliveries: int | None) -> None:
        self.deliveries: list[Delivery] = []
        self.stubs: list[Stub] = []
        self.due_ms: int | None = None
        self._redis, self._consumer, self._count, self._room = redis, consumer, count, max_bytes
        self._most = max_deliveries

    @property
    def taken(self) -> int:
        return len(self.deliveries) + len(self.stubs)

    def full(self) -> bool:
        return self.taken >= self._count or self._room <= 0

    def look_at(self, due_ms: int | None) -> None:
        known = [one for one in (self.due_ms, due_ms) if one is not None]
        self.due_ms = min(known, default=None)

    def take(self, partition: int, stream: FakeStream, group: FakeGroup, positions: Sequence[Position]) -> None:
        for position in positions:
            if self.full():
                return
            event = stream.entries.get(position)
            if event is None and position > stream.trimmed:  # a stranger's trim: nobody can have it any more
                del group.pending[position]
                continue
            one = group.pending[position]
            if self._most and one.times >= self._most:
                condemn(self._redis, group, position, "timed_out")
                continue
            one.consumer, one.since_ms, one.times = self._consumer, self._redis.now_ms(), one.times + 1
            group.consumers[self._consumer] = one.since_ms
            if event is None:
                self._room -= 64
                self.stubs.append(Stub(partition, position, one.times))
            else:
                self._room -= len(event.payload) + len(event.headers or b"") + 64
                self.deliveries.append(Delivery(partition, event, one.times))

"""ports.redelivery.Redelivery in memory: a part of FakeGroups, held to the real one by tests/contracts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from openstream_runtime.domain.dead_letters import DeadEntry
from openstream_runtime.domain.names import DEAD, DELAYED, RELEASED, RESERVED_CONSUMER_PREFIX
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.ports.redelivery import GivenBack, ReleasedIdle
from support.fake_redis import FakeGroup, FakeRedis, FakeStream


def is_ours(consumer: str) -> bool:
    return consumer.startswith(RESERVED_CONSUMER_PREFIX)


def condemn(redis: FakeRedis, group: FakeGroup, position: Position, reason: str) -> None:
    """It is dead, and waits in the queue for the dead-letter topic."""
    one, now = group.pending[position], redis.now_ms()
    queued = max(Position(now, 0), group.last_dead.next())
    group.last_dead = queued
    group.dead[queued] = (position, one.times, one.consumer, reason)
    one.consumer, one.since_ms = DEAD, now
    group.consumers[DEAD] = now


def end_delays(redis: FakeRedis, group: FakeGroup) -> int | None:
    """Release what is due; in how many milliseconds the next is."""
    now, waits = redis.now_ms(), []
    for one in group.pending.values():
        if one.consumer == DELAYED and one.due_ms <= now:
            one.consumer, one.since_ms = RELEASED, now
            group.consumers[RELEASED] = now
        elif one.consumer == DELAYED:
            waits.append(one.due_ms - now)
    return min(waits, default=None)


class FakeRedelivery:
    """A part of FakeGroups."""

    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis

    async def nack(
        self,
        topic: str,
        group: str,
        items: Mapping[int, Sequence[Position]],
        *,
        consumer: str | None = None,
        delay_ms: int = 0,
        max_deliveries: int | None = None,
    ) -> GivenBack:
        def do() -> GivenBack:
            again = dead = 0
            for partition, positions in items.items():
                at = TopicPartition(topic, partition)
                if (found := self._redis.group(at, group)) is None:
                    continue
                for position in positions:
                    one = found.pending.get(position)
                    if one is None or is_ours(one.consumer) or consumer not in (None, one.consumer):
                        continue
                    if max_deliveries and one.times >= max_deliveries:
                        condemn(self._redis, found, position, "nacked")
                        dead += 1
                    elif self._release(self._redis.streams[at], found, position, 0):
                        if delay_ms > 0:
                            one.consumer, one.due_ms = DELAYED, self._redis.now_ms() + delay_ms
                            found.consumers[DELAYED] = self._redis.now_ms()
                        again += 1
            return GivenBack(again, dead)

        return await self._redis.write("nack", do)

    async def extend(
        self, topic: str, group: str, consumer: str, items: Mapping[int, Sequence[Position]]
    ) -> Mapping[int, Sequence[Position]]:
        def do() -> Mapping[int, Sequence[Position]]:
            lost: dict[int, list[Position]] = {}
            for partition, positions in items.items():
                found = self._redis.group(TopicPartition(topic, partition), group)
                for position in positions:
                    one = found.pending.get(position) if found else None
                    if one is None or one.consumer != consumer:
                        lost.setdefault(partition, []).append(position)
                    else:
                        one.since_ms = self._redis.now_ms()
            return lost

        return await self._redis.write("extend", do)

    async def release_idle(
        self, topic: str, group: str, partition: int, *, min_idle_ms: int, count: int, max_deliveries: int | None = None
    ) -> ReleasedIdle:
        def do() -> ReleasedIdle:
            at = TopicPartition(topic, partition)
            if (found := self._redis.group(at, group)) is None:
                return ReleasedIdle(0, 0, 0)
            held = [p for p in self._idle(found, min_idle_ms) if not is_ours(found.pending[p].consumer)][:count]
            dying = [p for p in held if max_deliveries and found.pending[p].times >= max_deliveries]
            for position in dying:
                condemn(self._redis, found, position, "timed_out")
            again = [self._release(self._redis.streams[at], found, p, 0) for p in held if p not in dying]
            return ReleasedIdle(sum(again), len(dying), len(found.dead))

        return await self._redis.write("release_idle", do)

    async def dead(self, topic: str, group: str, partition: int, *, count: int) -> Sequence[DeadEntry]:
        def do() -> Sequence[DeadEntry]:
            at = TopicPartition(topic, partition)
            found, stream = self._redis.group(at, group), self._redis.streams.get(at)
            if found is None or stream is None:
                return []
            entries = []
            for queued, (position, times, consumer, reason) in list(found.dead.items())[:count]:
                one = found.pending.get(position)
                held = one is not None and one.consumer == DEAD
                event = stream.entries.get(position) if held else None
                entries.append(DeadEntry(queued, position, times, consumer, reason, held, event))
            return entries

        return await self._redis.ask("dead", do)

    async def bury(self, topic: str, group: str, partition: int, entries: Sequence[DeadEntry]) -> int:
        def do() -> int:
            found, buried = self._redis.group(TopicPartition(topic, partition), group), 0
            for entry in entries if found else ():
                assert found is not None
                if found.dead.pop(entry.queued, None) is None:
                    continue
                buried += 1
                one = found.pending.get(entry.position)
                if one is not None and one.consumer == DEAD:
                    del found.pending[entry.position]
            return buried

        return await self._redis.ask("bury", do)

    def _idle(self, group: FakeGroup, min_idle_ms: int) -> list[Position]:
        now = self._redis.now_ms()
        return sorted(position for position, one in group.pending.items() if now - one.since_ms >= min_idle_ms)

    def _release(self, stream: FakeStream, group: FakeGroup, position: Position, uncounted: int) -> int:
        if position not in stream.entries and position > stream.trimmed:
            del group.pending[position]
            return 0
        one = group.pending[position]
        one.consumer, one.since_ms, one.times = RELEASED, self._redis.now_ms(), max(0, one.times - uncounted)
        group.consumers[RELEASED] = one.since_ms
        return 1

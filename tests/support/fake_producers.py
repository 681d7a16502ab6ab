"""What is kept once, in memory: the homes of producers, and the append that looks first whether it was there before."""

from __future__ import annotations

from collections.abc import Sequence

from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.producers import Admission, Memory, Once, Turn, home_of
from openstream_runtime.domain.topics import Topic
from openstream_runtime.log.producers import PAST_REQUESTS
from openstream_runtime.ports.log import AppendBatch, Appended, Refusal, Refused
from openstream_runtime.ports.producers import Finished, Kept
from support.fake_redis import FakeRedis
from support.remembered import FakeHome, FakeRequest, FakeShare


class FakeProducers:
    def __init__(self, redis: FakeRedis, memory: Memory) -> None:
        self._redis = redis
        self._memory = memory

    async def begin(self, turns: Sequence[tuple[Topic, Turn]]) -> list[Admission | Kept | Refused]:
        try:
            return await self._redis.write("begin", lambda: [self._begin(*one) for one in turns])
        except OpenStreamError:
            return [Refused(Refusal.UNAVAILABLE)] * len(turns)

    def _begin(self, topic: Topic, turn: Turn) -> Admission | Kept | Refused:
        redis, stamp = self._redis, turn.stamp
        at = TopicPartition(topic.name, home_of(stamp.producer, topic.partitions))
        meta = redis.meta.get(at)
        if meta is None or (meta.topic_id, meta.run_id) != (topic.id, redis.run_id):
            return Refused(Refusal.UNVERIFIED)
        known, now = redis.remembered(at), redis.now_ms()
        home = known.producers.get(f"h{stamp.producer}")
        assert home is None or isinstance(home, FakeHome)
        if home is not None and stamp.epoch < home.epoch:
            return Refused(Refusal.STALE_EPOCH, expected=home.epoch)
        if home is None and stamp.seq != 0:
            return Refused(Refusal.FORGOTTEN)
        if home is None or stamp.epoch > home.epoch:
            home = FakeHome(stamp.epoch, max(now, known.lost_ms), stamp.seq)
        if stamp.seq != home.next:
            for one in home.past:
                if one.seq == stamp.seq and stamp.seq < home.next:
                    if (one.count, one.digest) != (turn.count, turn.digest):
                        return Refused(Refusal.CONTENT)
                    return Kept(one.places)
            return Refused(Refusal.SEQUENCE, expected=home.next)
        if home.epoch_ms < known.lost_ms:
            return Refused(Refusal.FORGOTTEN)
        if home.open is not None and (home.open.count, home.open.digest) != (turn.count, turn.digest):
            return Refused(Refusal.CONTENT)
        if home.open is None:
            if redis.out_of_memory:
                return Refused(Refusal.MEMORY)
            home.open = FakeRequest(stamp.seq, turn.count, turn.digest, begun_ms=now)
            self._redis.remember_producer(at, f"h{stamp.producer}", home, self._memory)
        return Admission(home.epoch_ms, home.open.begun_ms)

    async def finish(self, done: Sequence[Finished], *, replicas: int | None = None) -> list[bool | None]:
        def do() -> list[bool | None]:
            replicated = replicas is None or self._redis.replicas >= replicas
            return [replicated if self._finish(one) else None for one in done]

        try:
            return await self._redis.write("finish", do)
        except OpenStreamError:
            return [None] * len(done)

    def _finish(self, done: Finished) -> bool:
        stamp = done.turn.stamp
        at = TopicPartition(done.topic.name, home_of(stamp.producer, done.topic.partitions))
        meta = self._redis.meta.get(at)
        home = self._redis.remembered(at).producers.get(f"h{stamp.producer}")
        if meta is None or meta.topic_id != done.topic.id or home is None or home.epoch < stamp.epoch:
            return False
        assert isinstance(home, FakeHome)
        if home.epoch == stamp.epoch and home.open is not None and home.open.seq == stamp.seq:
            home.next, one, home.open = stamp.seq + home.open.count, home.open, None
            one.places = {number: list(positions) for number, positions in done.shares.items()}
            home.past = [*home.past, one][-PAST_REQUESTS:]
        self._redis.remember_producer(at, f"h{stamp.producer}", home, self._memory)
        return home.epoch > stamp.epoch or home.next > stamp.seq


def look(redis: FakeRedis, at: TopicPartition, once: Once, memory: Memory) -> Appended | Refused | None:
    """What became of a share before; None: it may be appended."""
    known, stamp = redis.remembered(at), once.turn.stamp
    share = known.producers.get(f"s{stamp.producer}")
    assert share is None or isinstance(share, FakeShare)
    if share is not None and (share.epoch, share.seq) > (stamp.epoch, stamp.seq):
        return Refused(Refusal.STALE_EPOCH)
    if share is not None and (share.epoch, share.seq) == (stamp.epoch, stamp.seq):
        if share.digest != once.turn.digest:
            return Refused(Refusal.CONTENT)
        return Appended(share.positions, duplicates=frozenset(range(len(share.positions))))
    admission = once.admission
    forgotten = admission.epoch_ms < known.lost_ms or admission.begun_ms < known.since_ms
    if forgotten or redis.now_ms() - admission.begun_ms >= memory.producer_ms:
        return Refused(Refusal.FORGOTTEN)
    return None


def originals(redis: FakeRedis, at: TopicPartition, batch: AppendBatch) -> list[Position | int | None]:
    """For each event where it stands already, or its index earlier in the batch; None: it is new."""
    known, first = redis.remembered(at).event_ids, dict[str, Position | int]()
    found: list[Position | int | None] = []
    for index, event in enumerate(batch.events):
        there: Position | int | None = None
        if event.event_id is not None:
            there = first.get(event.event_id, known.get(event.event_id))
            first.setdefault(event.event_id, index if there is None else there)
        found.append(there)
    return found


def remember(redis: FakeRedis, at: TopicPartition, batch: AppendBatch, kept: Appended, memory: Memory) -> None:
    """What has been appended just now."""
    known, named = redis.remembered(at), False
    for index, (event, position) in enumerate(zip(batch.events, kept.positions, strict=True)):
        if event.event_id is not None and index not in kept.duplicates:
            known.event_ids.now[event.event_id] = position
            named = True
    if batch.once is not None:
        turn = batch.once.turn
        share = FakeShare(turn.stamp.epoch, turn.stamp.seq, turn.digest, list(kept.positions))
        redis.remember_producer(at, f"s{turn.stamp.producer}", share, memory)
    if named:
        known.event_ids.turn_over(redis.now_ms(), memory.event_id_ms, memory.event_ids)

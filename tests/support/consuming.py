"""A group and its reader on fakes: what tests of consuming share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from openstream_runtime.actors.group_reader import GiveBack, GroupReader, Read, ReaderMailbox, positions_of
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.groups import GroupRead
from supervisors import ChildSpec
from support.actors import Rig, supervised, tailer
from support.fake_redis import FakeGroup


@dataclass
class Bench:
    """A topic, a group on all of its partitions, and the group's reader."""

    rig: Rig
    topic: Topic
    box: ReaderMailbox
    group: str = "g"
    answers: dict[str, GroupRead] = field(default_factory=dict)
    answered_at: dict[str, float] = field(default_factory=dict)

    async def read(
        self,
        consumer: str = "c",
        *,
        count: int = 100,
        block: float = 0.0,
        partitions: Sequence[int] | None = None,
    ) -> GroupRead:
        """Read through the reader; when and what it answered is remembered by consumer."""
        numbers = list(range(self.topic.partitions)) if partitions is None else list(partitions)
        request = Read(consumer, count, numbers, self.rig.world.clock.monotonic() + block)
        try:
            found = await self.box.call(request, timeout=block + 60)
        except BaseException:
            if request.handed_out is not None:  # as the gateway does
                self.box.offer(GiveBack(consumer, positions_of(request.handed_out.deliveries)))
            raise
        assert isinstance(found, GroupRead)
        self.answers[consumer], self.answered_at[consumer] = found, anyio.current_time()
        return found

    def payloads(self, consumer: str) -> list[str]:
        return [delivery.event.payload.decode() for delivery in self.answers[consumer].deliveries]

    def state(self, partition: int = 0) -> FakeGroup:
        found = self.rig.redis.group(TopicPartition(self.topic.name, partition), self.group)
        assert found is not None
        return found

    @property
    def reads(self) -> int:
        return self.rig.redis.calls["read"]


@asynccontextmanager
async def consuming(rig: Rig, *, partitions: int = 1, start: str = "0-0", tail: bool = True) -> AsyncIterator[Bench]:
    """The reader of a group on a new topic, supervised, with a tailer."""
    topic = await rig.topic(partitions=partitions)
    await rig.verify(topic)
    group, _ = await rig.store.catalog.create_group(topic, "g", start)
    rig.world.board.add_group(group)
    await rig.world.groups.create(topic.name, "g", dict.fromkeys(range(partitions), start))
    box = ReaderMailbox(10_000)
    reader = ChildSpec(id="g", actor=lambda: GroupReader(rig.world, topic.name, "g", box), grace=3.0)
    specs = [tailer(rig), reader] if tail else [reader]
    async with supervised(*specs, events=rig.events):
        yield Bench(rig, topic, box)

"""GroupLog: consumer groups of Redis, one of the same name on every partition's stream.

Entries to be handed out again wait with the reserved consumer `~os:released`, their delivery count kept; every read
serves them first. Several partitions share a script call only because one primary holds them all (see scripts.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openstream_runtime.domain.events import Delivery
from openstream_runtime.domain.names import RELEASED
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.log import keys, scripts
from openstream_runtime.log.codec import decode_entry, format_position, parse_position
from openstream_runtime.log.errors import answer, answer_or
from openstream_runtime.log.lane import Lane
from openstream_runtime.log.scripts import Arg, Call, Command, Script
from openstream_runtime.ports import ConsumerInfo, GroupPartition, GroupRead

#: Ids of one XACK or one release.
_IDS = 1_000
#: Entries counted at most when Redis cannot tell a group's lag.
_LAG_COUNT = 10_000


class RedisGroups:
    """The groups. Whatever hands out events or moves them is sent once; looking and acking may be asked again."""

    def __init__(self, writes: Lane, reads: Lane) -> None:
        self._writes = writes
        self._reads = reads
        #: Pending entries found trimmed away before anybody acked them, since this node began.
        self.vanished = 0

    async def create(self, topic: str, group: str, positions: Mapping[int, str]) -> int:
        replies = await self._writes.calls(
            [(b"XGROUP", b"CREATE", _stream(topic, p), group, at, b"MKSTREAM") for p, at in positions.items()]
        )
        created = [answer_or(reply, None, lambda text: text.startswith("BUSYGROUP")) for reply in replies]
        return sum(one is not None for one in created)

    async def set_position(self, topic: str, group: str, positions: Mapping[int, str]) -> int:
        calls: list[Call] = [([_stream(topic, p)], [group, at]) for p, at in positions.items()]
        return sum(await self._writes.run_each(scripts.GROUP_SET_POSITION, calls))

    async def delete(self, topic: str, group: str, partitions: Sequence[int]) -> int:
        replies = await self._writes.calls([(b"XGROUP", b"DESTROY", _stream(topic, p), group) for p in partitions])
        return sum(answer_or(reply, 0, lambda text: "requires the key to exist" in text) for reply in replies)

    async def read(
        self, topic: str, group: str, consumer: str, partitions: Sequence[int], *, count: int, max_bytes: int = 8 << 20
    ) -> GroupRead:
        return await self._hand_out(scripts.GROUP_READ, topic, partitions, [group, consumer, count, max_bytes])

    async def ack(self, topic: str, group: str, items: Mapping[int, Sequence[Position]]) -> int:
        commands: list[Command] = [
            (b"XACK", _stream(topic, partition), group, *ids)
            for partition, positions in items.items()
            for ids in _chunks(positions)
        ]
        return sum(answer(reply) for reply in await self._reads.calls(commands))

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
        args: list[Arg] = [group, consumer, count, max_bytes, min_idle_ms]
        return await self._hand_out(scripts.GROUP_CLAIM, topic, partitions, args)

    async def release(
        self, topic: str, group: str, consumer: str, items: Mapping[int, Sequence[Position]], *, undelivered: bool
    ) -> int:
        calls: list[Call] = [
            ([_stream(topic, partition)], [group, consumer, RELEASED, int(undelivered), *ids])
            for partition, positions in items.items()
            for ids in _chunks(positions)
        ]
        return sum(await self._writes.run_each(scripts.GROUP_RELEASE, calls))

    async def release_idle(self, topic: str, group: str, partition: int, *, min_idle_ms: int, count: int) -> int:
        args: list[Arg] = [group, RELEASED, min_idle_ms, count]
        return int(await self._writes.run(scripts.GROUP_RELEASE_IDLE, [_stream(topic, partition)], args))

    async def remove_idle_consumers(self, topic: str, group: str, partition: int, *, min_idle_ms: int) -> int:
        args: list[Arg] = [group, RELEASED, min_idle_ms]
        return int(await self._writes.run(scripts.CONSUMERS_REMOVE, [_stream(topic, partition)], args))

    async def describe(self, topic: str, group: str, partitions: Sequence[int]) -> list[GroupPartition]:
        calls: list[Call] = [([_stream(topic, partition)], [group, _LAG_COUNT]) for partition in partitions]
        replies = await self._reads.run_each(scripts.GROUP_DESCRIBE, calls)
        return [_described(partition, reply) for partition, reply in zip(partitions, replies, strict=True)]

    async def _hand_out(self, script: Script, topic: str, partitions: Sequence[int], args: Sequence[Arg]) -> GroupRead:
        streams = [_stream(topic, partition) for partition in partitions]
        pages, missing, tails, vanished = await self._writes.run(script, streams, args)
        self.vanished += vanished
        deliveries: list[Delivery] = []
        for index, entries, counts in pages:
            partition = partitions[index - 1]
            if counts == 1:
                deliveries += [Delivery(partition, decode_entry(entry), 1) for entry in entries]
            else:
                deliveries += [
                    Delivery(partition, decode_entry(entry), times)
                    for entry, times in zip(entries, counts, strict=True)
                ]
        gone = {partitions[index - 1] for index in missing}
        return GroupRead(
            deliveries,
            {p: parse_position(raw) for p, raw in zip(partitions, tails, strict=False) if p not in gone},
            sorted(gone),
        )


def _stream(topic: str, partition: int) -> bytes:
    return keys.stream(TopicPartition(topic, partition))


def _chunks(positions: Sequence[Position]) -> list[list[bytes]]:
    ids = [format_position(position) for position in positions]
    return [ids[start : start + _IDS] for start in range(0, len(ids), _IDS)]


def _described(partition: int, reply: Any) -> GroupPartition:
    if reply is None:
        return GroupPartition(partition, ZERO, 0, 0, 0, ())
    at, pending, lag, lag_ms, consumers = reply
    return GroupPartition(
        partition,
        parse_position(at),
        pending,
        lag,
        lag_ms,
        [
            ConsumerInfo(name.decode(errors="replace"), held, idle)
            for name, held, idle in consumers
            if name != RELEASED.encode()
        ],
    )

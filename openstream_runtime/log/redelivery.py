"""Redelivery: what consumers give back, keep for longer, or never ack, and the queue of what a group gave up on.

Delayed entries wait with the reserved consumer `~os:delayed`, dead ones with `~os:dead`: so a trim moves them into the
side stream like everything that is pending, and neither ack nor reset needs to know of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openstream_runtime.domain.dead_letters import DeadEntry
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.log import keys, scripts
from openstream_runtime.log.codec import decode_entry, format_position, parse_position
from openstream_runtime.log.lane import Lane
from openstream_runtime.log.scripts import Arg, Call
from openstream_runtime.ports.redelivery import GivenBack, ReleasedIdle

#: Ids of one ack or one release.
_IDS = 1_000
#: Bytes of dead entries read at once, about.
_DEAD_BYTES = 1 << 20


class RedisRedelivery:
    """A part of RedisGroups."""

    def __init__(self, writes: Lane, reads: Lane) -> None:
        self._writes = writes
        self._reads = reads

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
        calls: list[Call] = [
            (keys_of(topic, partition, group), [group, consumer or "", delay_ms, max_deliveries or 0, *ids])
            for partition, positions in items.items()
            for ids in chunks(positions)
        ]
        replies = await self._writes.run_each(scripts.GROUP_NACK, calls)
        return GivenBack(sum(again for again, _ in replies), sum(dead for _, dead in replies))

    async def extend(
        self, topic: str, group: str, consumer: str, items: Mapping[int, Sequence[Position]]
    ) -> Mapping[int, Sequence[Position]]:
        pages = [(partition, ids) for partition, positions in items.items() for ids in chunks(positions)]
        calls: list[Call] = [(keys_of(topic, partition, group), [group, consumer, *ids]) for partition, ids in pages]
        lost: dict[int, list[Position]] = {}
        for (partition, _), reply in zip(pages, await self._writes.run_each(scripts.GROUP_EXTEND, calls), strict=True):
            if reply:
                lost.setdefault(partition, []).extend(map(parse_position, reply))
        return lost

    async def release_idle(
        self, topic: str, group: str, partition: int, *, min_idle_ms: int, count: int, max_deliveries: int | None = None
    ) -> ReleasedIdle:
        args: list[Arg] = [group, min_idle_ms, count, max_deliveries or 0]
        return ReleasedIdle(*await self._writes.run(scripts.GROUP_RELEASE_IDLE, keys_of(topic, partition, group), args))

    async def dead(self, topic: str, group: str, partition: int, *, count: int) -> Sequence[DeadEntry]:
        args: list[Arg] = [group, count, _DEAD_BYTES]
        return list(map(_dead, await self._reads.run(scripts.GROUP_DEAD, keys_of(topic, partition, group), args)))

    async def bury(self, topic: str, group: str, partition: int, entries: Sequence[DeadEntry]) -> int:
        args: list[Arg] = [group]
        for entry in entries:
            args += (format_position(entry.queued), format_position(entry.position))
        return int(await self._reads.run(scripts.GROUP_BURY, keys_of(topic, partition, group), args))


def keys_of(topic: str, partition: int, group: str) -> list[bytes]:
    at = TopicPartition(topic, partition)
    return [keys.stream(at), keys.meta(at), keys.side(at, group)]


def chunks(positions: Sequence[Position]) -> list[list[bytes]]:
    ids = [format_position(position) for position in positions]
    return [ids[start : start + _IDS] for start in range(0, len(ids), _IDS)]


def _dead(reply: Any) -> DeadEntry:
    queued, position, times, consumer, reason, held, entry = reply
    return DeadEntry(
        parse_position(queued),
        parse_position(position),
        times,
        consumer.decode(errors="replace"),
        reason.decode(),
        bool(held),
        decode_entry(entry) if entry else None,
    )

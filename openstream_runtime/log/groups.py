"""GroupLog: consumer groups of Redis, one of the same name on every partition's stream.

Entries to be handed out again wait with the reserved consumer `~os:released`, their delivery count kept; every read
serves them first. A group that lags behind the trim is cold: PostgreSQL has what it wants next, its position stands in
the partition's meta key, and what it holds in a side stream. Several partitions share a script call where one primary
holds them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from openstream_runtime.domain.errors import OpenStreamError, OutcomeUnknown, Unavailable
from openstream_runtime.domain.events import Delivery
from openstream_runtime.domain.names import RELEASED, RESERVED_CONSUMER_PREFIX
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.log import keys, scripts
from openstream_runtime.log.codec import decode_entry, format_position, parse_position
from openstream_runtime.log.lane import Lane
from openstream_runtime.log.redelivery import RedisRedelivery, chunks, keys_of
from openstream_runtime.log.scripts import Arg, Call, Script
from openstream_runtime.ports.groups import Cold, ConsumerInfo, GroupLow, GroupPartition, GroupRead, Placed, Stub

#: Entries counted at most when Redis cannot tell a group's lag.
_LAG_COUNT = 10_000


class RedisGroups(RedisRedelivery):
    """The groups. Whatever hands out events or moves them is sent once; looking and acking may be asked again."""

    def __init__(self, writes: Lane, reads: Lane) -> None:
        super().__init__(writes, reads)
        #: Pending entries found trimmed away by strangers before anybody acked them, since this node began.
        self.vanished = 0

    async def create(self, topic: str, group: str, positions: Mapping[int, str]) -> Placed:
        return await self._place(topic, group, positions, leave=True)

    async def set_position(self, topic: str, group: str, positions: Mapping[int, str]) -> Placed:
        return await self._place(topic, group, positions, leave=False)

    async def _place(self, topic: str, group: str, positions: Mapping[int, str], *, leave: bool) -> Placed:
        calls: list[Call] = [(keys_of(topic, p, group), [group, at, int(leave)]) for p, at in positions.items()]
        replies = dict(zip(positions, await self._writes.run_each(scripts.GROUP_SET_POSITION, calls), strict=True))
        done = {p: (dropped, parse_position(at)) for p, (dropped, at) in replies.items() if dropped >= 0}
        return Placed(
            {p: at for p, (_, at) in done.items()},
            sum(dropped for dropped, _ in done.values()),
            tuple(p for p, (dropped, _) in replies.items() if dropped == -1),
        )

    async def delete(self, topic: str, group: str, partitions: Sequence[int]) -> int:
        calls: list[Call] = [(keys_of(topic, p, group), [group]) for p in partitions]
        return sum(await self._writes.run_each(scripts.GROUP_DELETE, calls))

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
        args: list[Arg] = [group, consumer, count, max_bytes, max_deliveries or 0, int(persisted), int(hot_only)]
        return await self._hand_out(scripts.GROUP_READ, topic, partitions, args)

    async def advance(
        self, topic: str, group: str, consumer: str, cold: Cold, positions: Sequence[Position], upto: Position
    ) -> bool:
        args: list[Arg] = [group, consumer, format_position(cold.after), format_position(upto)]
        args += map(format_position, positions)
        return bool(await self._writes.run(scripts.GROUP_ADVANCE, keys_of(topic, cold.partition, group), args))

    async def ack(self, topic: str, group: str, items: Mapping[int, Sequence[Position]]) -> int:
        calls: list[Call] = [
            (keys_of(topic, partition, group), [group, *ids])
            for partition, positions in items.items()
            for ids in chunks(positions)
        ]
        return sum(await self._reads.run_each(scripts.GROUP_ACK, calls))

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
        args: list[Arg] = [group, consumer, count, max_bytes, max_deliveries or 0, min_idle_ms]
        return await self._hand_out(scripts.GROUP_CLAIM, topic, partitions, args)

    async def release(
        self, topic: str, group: str, consumer: str, items: Mapping[int, Sequence[Position]], *, undelivered: bool
    ) -> int:
        calls: list[Call] = [
            (keys_of(topic, partition, group), [group, consumer, RELEASED, int(undelivered), *ids])
            for partition, positions in items.items()
            for ids in chunks(positions)
        ]
        return sum(await self._writes.run_each(scripts.GROUP_RELEASE, calls))

    async def remove_idle_consumers(self, topic: str, group: str, partition: int, *, min_idle_ms: int) -> int:
        args: list[Arg] = [group, RESERVED_CONSUMER_PREFIX, min_idle_ms]
        return int(await self._writes.run(scripts.CONSUMERS_REMOVE, keys_of(topic, partition, group), args))

    async def describe(self, topic: str, group: str, partitions: Sequence[int]) -> list[GroupPartition]:
        calls: list[Call] = [(keys_of(topic, partition, group), [group, _LAG_COUNT]) for partition in partitions]
        replies = await self._reads.run_each(scripts.GROUP_DESCRIBE, calls)
        return [_described(partition, reply) for partition, reply in zip(partitions, replies, strict=True)]

    async def lows(self, partitions: Sequence[TopicPartition]) -> list[Mapping[str, GroupLow]]:
        calls: list[Call] = [([keys.stream(at), keys.meta(at), keys.sides(at)], []) for at in partitions]
        replies = await self._reads.run_each(scripts.GROUP_LOW, calls)
        return [_lows(at.partition, reply) for at, reply in zip(partitions, replies, strict=True)]

    async def counted(self, topic: str, group: str, cold: Cold, count: int) -> None:
        meta = keys.meta(TopicPartition(topic, cold.partition))
        args: list[Arg] = [group, format_position(cold.after), format_position(cold.upto), count]
        await self._writes.run(scripts.GROUP_COUNTED, [meta], args)

    async def _hand_out(self, script: Script, topic: str, partitions: Sequence[int], args: Sequence[Arg]) -> GroupRead:
        if not self._writes.sharded or len(partitions) == 1:
            return await self._hand_out_of(script, topic, partitions, args)
        # One partition after the other: a command reaches one slot.
        group, consumer, count, room, most, *rest = args
        wanted, left, found = int(count), int(room), list[GroupRead]()
        trouble: OpenStreamError | None = None
        for partition in partitions:
            handed_out = any(one.deliveries or one.stubs for one in found)
            if handed_out and script is scripts.GROUP_READ:
                rest[1] = 1  # a cold partition has its turn when it comes first
            try:
                one = await self._hand_out_of(script, topic, [partition], [group, consumer, wanted, left, most, *rest])
            except (Unavailable, OutcomeUnknown) as error:
                # What the others handed out must reach its consumer, and they go on while one is away.
                trouble = trouble or error
                continue
            found.append(one)
            wanted -= len(one.deliveries) + len(one.stubs)
            left -= sum(64 + len(delivery.event.payload) for delivery in one.deliveries)
            if one.cold or wanted <= 0 or left <= 0:
                break
        if trouble is not None and not any(one.deliveries or one.stubs or one.cold for one in found):
            raise trouble
        return _together(found)

    async def _hand_out_of(
        self, script: Script, topic: str, partitions: Sequence[int], args: Sequence[Arg]
    ) -> GroupRead:
        group = str(args[0])
        names = list(chain.from_iterable(keys_of(topic, partition, group) for partition in partitions))
        pages, missing, tails, vanished, cold, unpersisted, due = await self._writes.run(script, names, args)
        self.vanished += vanished
        deliveries: list[Delivery] = []
        stubs: list[Stub] = []
        for index, entries, counts, are_stubs in pages:
            partition = partitions[index - 1]
            times = [1] * len(entries) if counts == 1 else counts
            if are_stubs:
                stubs += [Stub(partition, parse_position(entry[0]), n) for entry, n in zip(entries, times, strict=True)]
            else:
                deliveries += [
                    Delivery(partition, decode_entry(entry), n) for entry, n in zip(entries, times, strict=True)
                ]
        gone = {partitions[index - 1] for index in missing}
        return GroupRead(
            deliveries,
            {p: parse_position(raw) for p, raw in zip(partitions, tails, strict=False) if p not in gone},
            sorted(gone),
            stubs,
            Cold(partitions[cold[0] - 1], parse_position(cold[1]), parse_position(cold[2])) if cold else None,
            bool(unpersisted),
            due if due >= 0 else None,
        )


def _together(reads: Sequence[GroupRead]) -> GroupRead:
    """What was found on one partition after the other, as one read."""
    deliveries = list(chain.from_iterable(one.deliveries for one in reads))
    stubs = list(chain.from_iterable(one.stubs for one in reads))
    due = [one.due_ms for one in reads if one.due_ms is not None]
    return GroupRead(
        deliveries,
        {} if deliveries or stubs else dict(chain.from_iterable(one.tails.items() for one in reads)),
        sorted(chain.from_iterable(one.missing for one in reads)),
        stubs,
        reads[-1].cold if reads else None,
        any(one.unpersisted for one in reads),
        min(due, default=None),
    )


def _lows(partition: int, reply: Any) -> dict[str, GroupLow]:
    return {
        name.decode(errors="replace"): GroupLow(
            parse_position(low), Cold(partition, parse_position(after), parse_position(upto)) if after else None
        )
        for name, low, after, upto in reply
    }


def _described(partition: int, reply: Any) -> GroupPartition:
    if reply is None:
        return GroupPartition(partition, ZERO, 0, 0, 0, ())
    at, pending, lag, lag_ms, consumers, cold_upto, ahead = reply
    known: dict[str, ConsumerInfo] = {}  # one may hold entries of the stream and of its side stream
    for name, held, idle in consumers:
        told = name.decode(errors="replace")
        if told.startswith(RESERVED_CONSUMER_PREFIX):
            continue
        other = known.get(told, ConsumerInfo(told, 0, idle))
        known[told] = ConsumerInfo(told, other.pending + held, min(other.idle_ms, idle))
    return GroupPartition(
        partition,
        parse_position(at),
        pending,
        lag,
        lag_ms,
        list(known.values()),
        parse_position(cold_upto) if cold_upto else None,
        ahead,
    )

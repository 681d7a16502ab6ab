"""EventLog on Redis Streams: append, read, trim, look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError

from openstream_runtime.domain.errors import LeaseLost, NotFound, Unavailable
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import END
from openstream_runtime.domain.names import RESERVED_CONSUMER_PREFIX
from openstream_runtime.domain.positions import ZERO, Cursor, Position, TopicPartition
from openstream_runtime.domain.producers import MEMORY, Memory
from openstream_runtime.domain.topics import Topic
from openstream_runtime.log import keys, scripts
from openstream_runtime.log.codec import decode_entry, encode_events, format_position, parse_position, parse_positions
from openstream_runtime.log.errors import REPLY_ERRORS, answer, refusal
from openstream_runtime.log.lane import Lane, side_by_side
from openstream_runtime.log.pool import info_field, pack
from openstream_runtime.log.producers import REFUSALS, append_once, kept_once
from openstream_runtime.log.replicas import Replicas
from openstream_runtime.log.scripts import Arg, Command
from openstream_runtime.ports.log import (
    AppendBatch,
    Appended,
    AppendOutcome,
    GroupStats,
    Refusal,
    Refused,
    StreamEdges,
    StreamStats,
    Unknown,
)

#: What append.lua answers when it keeps nothing.
_REFUSALS = {1: Refusal.UNVERIFIED, 2: Refusal.LENGTH, 3: Refusal.UNPERSISTED, **REFUSALS}
_event_id = attrgetter("event_id")
#: Entries of one page of a read: the first, and the largest. What `max_bytes` may be passed by is one page.
_FIRST_PAGE, _LARGEST_PAGE = 16, 256
#: Pending entries one call of the trim moves at most: about 2 ms of Redis' time.
_MOVED = 500
#: How long an ended replay is remembered: longer than any node sleeps and then goes on where it was.
_MARKS_ENDED_MS = 86_400_000


class RedisEvents:
    """The streams. Appends have a lane of their own, on which nothing is ever sent twice."""

    def __init__(
        self, appends: Lane, writes: Lane, reads: Lane, replicas: Replicas, *, memory: Memory = MEMORY
    ) -> None:
        self._appends = appends
        self._writes = writes
        self._reads = reads
        self._replicas = replicas
        self._memory = memory

    # ---- appending

    @property
    def sharded(self) -> bool:
        return self._appends.sharded

    async def append(self, batches: Sequence[AppendBatch], *, replicas: int | None = None) -> list[AppendOutcome]:
        if not batches:
            return []
        if not self.sharded:
            return await self._append_to(batches, replicas)
        outcomes: list[AppendOutcome] = [Refused(Refusal.UNAVAILABLE)] * len(batches)

        async def to_one(indexes: Sequence[int]) -> None:
            found = await self._append_to([batches[index] for index in indexes], replicas)
            for index, outcome in zip(indexes, found, strict=True):
                outcomes[index] = outcome

        await side_by_side(to_one, await self._appends.split([_stream(batch) for batch in batches]))
        return outcomes

    async def _append_to(self, batches: Sequence[AppendBatch], replicas: int | None) -> list[AppendOutcome]:
        """To the one server that has all of these."""
        try:
            async with self._appends.take(_stream(batches[0])) as connection:
                outcomes = await self._append_on(connection, batches)
                kept = any(isinstance(one, Appended) for one in outcomes)
                if replicas is not None and kept and not await self._replicas.have(self._appends, connection, replicas):
                    return [_not_replicated(one) for one in outcomes]
                return outcomes
        except Unavailable:  # no connection: nothing was sent
            return [Refused(Refusal.UNAVAILABLE)] * len(batches)

    async def _append_on(self, connection: AbstractConnection, batches: Sequence[AppendBatch]) -> list[AppendOutcome]:
        run_id = self._appends.run_id(connection)
        packed = pack([self._command(batch, run_id) for batch in batches])
        replies, lost = await self._appends.exchange(connection, packed)
        if lost is None and any(isinstance(reply, NoScriptError) for reply in replies):
            await self._append_forgotten(connection, batches, packed, replies)
        # Replies are matched by count: what has none was cut off, and may have been kept.
        replies += [None] * (len(batches) - len(replies))
        return [_outcome(reply, batch) for reply, batch in zip(replies, batches, strict=True)]

    def _command(self, batch: AppendBatch, run_id: str) -> Command:
        if batch.once is None and not any(map(_event_id, batch.events)):
            return _append_command(batch, run_id)
        return append_once(batch, run_id, self._memory)

    async def _append_forgotten(
        self,
        connection: AbstractConnection,
        batches: Sequence[AppendBatch],
        packed: Sequence[bytes],
        replies: list[Any],
    ) -> None:
        """Redis forgot the script (SCRIPT FLUSH): load it, and send again what it refused for that. Mends `replies`."""
        kept = {
            (batch.topic.name, batch.partition)
            for reply, batch in zip(replies, batches, strict=True)
            if not isinstance(reply, NoScriptError)
        }
        # Somebody else may have loaded the script between two of our batches. The earlier one must not go behind the
        # later one of its partition, so it stays refused.
        again = [
            index
            for index, (reply, batch) in enumerate(zip(replies, batches, strict=True))
            if isinstance(reply, NoScriptError) and (batch.topic.name, batch.partition) not in kept
        ]
        load = pack([scripts.APPEND.load(), scripts.APPEND_ONCE.load()])
        answers, _lost = await self._appends.exchange(connection, load + [packed[index] for index in again])
        answers += [None] * (len(load) + len(again) - len(answers))
        for index, reply in zip(again, answers[len(load) :], strict=True):
            replies[index] = reply

    async def is_replicated(self, partitions: Sequence[TopicPartition], replicas: int) -> bool:
        return await self._replicas.have_all(partitions, replicas)

    async def verify(self, topic: Topic, partition: int, cursor: Cursor, *, floor: Position = ZERO) -> str:
        at = TopicPartition(topic.name, partition)
        where = [keys.stream(at), keys.meta(at), keys.sides(at), *keys.producers(at), *keys.event_ids(at)]
        ends = [format_position(cursor.position), format_position(floor)]
        done, server = await self._writes.run_here(scripts.VERIFY, where, [topic.id, cursor.generation, *ends])
        if not done:
            raise NotFound("The topic was deleted and created again.", topic=topic.name)
        return server

    # ---- reading

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
        events: list[StoredEvent] = []
        end = b"+" if upto is None else format_position(upto)
        size, page = 0, min(count, _FIRST_PAGE)
        while page > 0:
            start = b"(" + format_position(events[-1].position if events else after)
            command: Command = (b"XRANGE", keys.stream(at), start, end, b"COUNT", page)
            [reply] = await self._reads.call([command], server=server)
            entries = answer(reply)
            size += sum(sum(map(len, fields)) for _, fields in entries)
            events += map(decode_entry, entries)
            if len(entries) < page or size >= max_bytes:
                break
            fitting = (max_bytes - size) * len(events) // max(1, size)
            page = min(count - len(events), _LARGEST_PAGE, page * 4, max(1, fitting))
        return events

    async def edges(self, at: TopicPartition, *, with_bytes: bool = False) -> StreamEdges:
        length, first, last, now_ms, size, trimmed = await self._reads.run(
            scripts.EDGES, [keys.stream(at), keys.meta(at)], [int(with_bytes)]
        )
        return StreamEdges(
            length,
            parse_position(first) if first else None,
            parse_position(last),
            now_ms,
            size if with_bytes else None,
            parse_position(trimmed),
        )

    # ---- what the owner publishes

    async def mark_persisted(
        self, at: TopicPartition, token: str, cursor: Position, *, count: int | None, trim_below: Position | None
    ) -> int:
        bound = format_position(ZERO if trim_below is None else min(trim_below, cursor.next()))
        where = _fixed(at)
        trimmed, more = 0, 1
        while more:  # what groups hold unacked moves in small steps: no call keeps Redis busy for long
            args: list[Arg] = [token, format_position(cursor), b"" if count is None else count, bound, _MOVED]
            (went, more), _ = await self._writes.run_here(scripts.MARK_PERSISTED, where, args)
            if went == -1:
                raise LeaseLost(topic=at.topic, partition=at.partition)
            if went == -2:
                raise Unavailable("The partition is not verified under this Redis.", backend="redis")
            trimmed, count = trimmed + int(went), 0
        return trimmed

    # ---- looking

    async def persisted(self, partitions: Sequence[TopicPartition]) -> list[Position]:
        replies = await self._reads.calls([(b"HGET", keys.meta(at), b"pid") for at in partitions])
        return [parse_position(found) if (found := answer(reply)) else ZERO for reply in replies]

    async def stats(self, partitions: Sequence[TopicPartition]) -> list[StreamStats]:
        calls = [(_fixed(at), [RESERVED_CONSUMER_PREFIX]) for at in partitions]
        return [_stats(reply) for reply in await self._reads.run_each(scripts.STATS, calls)]

    async def memory(self) -> Mapping[str, int]:
        found = []
        for reply in await self._reads.everywhere((b"INFO", b"memory")):
            info = answer(reply)
            found.append({name: int(info_field(info, name.encode()) or 0) for name in ("used_memory", "maxmemory")})
        # Of several the fullest: it is the first to refuse.
        return max(found, key=lambda one: (one["used_memory"] / (one["maxmemory"] or float("inf")), one["used_memory"]))

    async def delete_topic(self, topic: Topic) -> None:
        await self._writes.run_each(
            scripts.DELETE_PARTITION,
            [([*_fixed(at), *keys.producers(at), *keys.event_ids(at)], [topic.id]) for at in topic.all_partitions()],
        )

    async def end_marks(self, topic: Topic, replay: str) -> None:
        args: list[Arg] = [format_position(END), _MARKS_ENDED_MS]
        await self._writes.run_each(
            scripts.END_MARKS, [([keys.marks(at, replay)], args) for at in topic.all_partitions()]
        )

    async def ping(self) -> None:
        for reply in await self._reads.everywhere((b"PING",)):
            answer(reply)


def _fixed(at: TopicPartition) -> list[bytes]:
    """The keys of a partition that its owner works on."""
    return [keys.stream(at), keys.meta(at), keys.lease(at), keys.sides(at)]


def _stream(batch: AppendBatch) -> bytes:
    return keys.stream(TopicPartition(batch.topic.name, batch.partition))


def _append_command(batch: AppendBatch, run_id: str) -> Command:
    at = TopicPartition(batch.topic.name, batch.partition)
    mark = batch.mark
    args: list[Arg] = [b"EVALSHA", scripts.APPEND.sha, 2 if mark is None else 3, keys.stream(at), keys.meta(at)]
    if mark is not None:
        args.append(keys.marks(at, mark.replay))
    args += (batch.topic.id, run_id, batch.max_stream_len, batch.max_unpersisted)
    if mark is not None:
        args += (mark.source, format_position(mark.after), format_position(mark.upto))
    encode_events(args, batch.events)
    return tuple(args)


def _outcome(reply: Any, batch: AppendBatch) -> AppendOutcome:
    if isinstance(reply, list):
        if reply and isinstance(reply[-1], list):
            return kept_once(reply, len(batch.events))
        return Appended(parse_positions(reply, len(batch.events)))
    if isinstance(reply, int):
        return Refused(_REFUSALS[reply])
    if isinstance(reply, bytes):
        return Refused(Refusal.MARK, parse_position(reply))
    if isinstance(reply, REPLY_ERRORS):
        reason = refusal(reply)
        if reason is None:
            raise reply
        return Refused(reason)
    return Unknown()


def _not_replicated(outcome: AppendOutcome) -> AppendOutcome:
    return replace(outcome, replicated=False) if isinstance(outcome, Appended) else outcome


def _stats(reply: Any) -> StreamStats:
    length, last, n, pn, pid, token, verified, groups = reply
    return StreamStats(
        length=length,
        last=parse_position(last),
        unpersisted=max(0, int(n or 0) - int(pn or 0)),
        persisted=parse_position(pid) if pid else ZERO,
        persisted_count=int(pn or 0),
        owner=keys.owner(token.decode()) if token else None,
        verified_ms=int(verified or 0),
        groups=[
            GroupStats(name.decode(), consumers, pending, lag, parse_position(at), entries_read)
            for name, consumers, pending, lag, at, entries_read in groups
        ],
    )

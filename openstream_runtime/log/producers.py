"""What is kept once, on Redis: the homes of producers, and the append that looks first whether it was there before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError

from openstream_runtime.domain.errors import Unavailable
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.producers import Admission, Memory, Turn, home_of
from openstream_runtime.domain.topics import Topic
from openstream_runtime.log import keys, scripts
from openstream_runtime.log.codec import format_position, parse_positions
from openstream_runtime.log.errors import REPLY_ERRORS, refusal
from openstream_runtime.log.lane import CHUNK, Lane, side_by_side
from openstream_runtime.log.pool import pack
from openstream_runtime.log.replicas import Replicas
from openstream_runtime.log.scripts import Arg, Command, Script
from openstream_runtime.ports.log import AppendBatch, Appended, Refusal, Refused
from openstream_runtime.ports.producers import Finished, Kept

#: What the scripts answer, beside what append.lua does.
REFUSALS = {4: Refusal.STALE_EPOCH, 5: Refusal.CONTENT, 6: Refusal.FORGOTTEN, 7: Refusal.SEQUENCE}
_UNVERIFIED, _KEPT, _ADMITTED = 1, 8, 9
#: Of a producer the last requests whose places are known. A body of lines is a request for every thousand of them.
PAST_REQUESTS, PAST_BYTES = 64, 32 << 10


class RedisProducers:
    """The homes."""

    def __init__(self, lane: Lane, replicas: Replicas, memory: Memory) -> None:
        self._lane = lane
        self._replicas = replicas
        self._memory = memory

    async def begin(self, turns: Sequence[tuple[Topic, Turn]]) -> list[Admission | Kept | Refused]:
        found: list[Admission | Kept | Refused] = [Refused(Refusal.UNAVAILABLE)] * len(turns)

        async def of_one(indexes: Sequence[int]) -> None:
            for start in range(0, len(indexes), CHUNK):
                part = indexes[start : start + CHUNK]
                for index, one in zip(part, await self._begin([turns[index] for index in part]), strict=True):
                    found[index] = one

        await side_by_side(of_one, await self._lane.split([_home(*turn)[0] for turn in turns]))
        return found

    async def _begin(self, turns: Sequence[tuple[Topic, Turn]]) -> list[Admission | Kept | Refused]:
        try:
            async with self._lane.take(_home(*turns[0])[0]) as connection:
                # The run id must be that of the server which runs the script.
                run_id = self._lane.run_id(connection)
                commands = [
                    scripts.PRODUCER_BEGIN.call(_home(topic, turn), [topic.id, run_id, *self._turn(turn)])
                    for topic, turn in turns
                ]
                replies = await self._ask(connection, scripts.PRODUCER_BEGIN, commands)
        except Unavailable:
            replies = []
        # What has no answer may have been admitted, and nothing was kept.
        replies += [None] * (len(turns) - len(replies))
        return [_verdict(reply) for reply in replies]

    def _turn(self, turn: Turn) -> list[Arg]:
        stamp = turn.stamp
        who: list[Arg] = [stamp.producer, stamp.epoch, stamp.seq, turn.count, turn.digest]
        return [*who, self._memory.producer_ms, 2 * self._memory.producers]

    async def finish(self, done: Sequence[Finished], *, replicas: int | None = None) -> list[bool | None]:
        found: list[bool | None] = [None] * len(done)

        async def of_one(indexes: Sequence[int]) -> None:
            for start in range(0, len(indexes), CHUNK):
                part = indexes[start : start + CHUNK]
                for index, one in zip(part, await self._finish([done[index] for index in part], replicas), strict=True):
                    found[index] = one

        await side_by_side(of_one, await self._lane.split([_home(one.topic, one.turn)[0] for one in done]))
        return found

    async def _finish(self, done: Sequence[Finished], replicas: int | None) -> list[bool | None]:
        memory, replies, replicated = self._memory, list[Any](), True
        commands = []
        for one in done:
            stamp = one.turn.stamp
            who: list[Arg] = [one.topic.id, stamp.producer, stamp.epoch, stamp.seq, _encode_places(one.shares)]
            bounds: list[Arg] = [PAST_REQUESTS, PAST_BYTES, memory.producer_ms, 2 * memory.producers]
            commands.append(scripts.PRODUCER_FINISH.call(_home(one.topic, one.turn), who + bounds))
        try:
            async with self._lane.take(_home(done[0].topic, done[0].turn)[0]) as connection:
                replies = await self._ask(connection, scripts.PRODUCER_FINISH, commands)
                if replicas is not None and len(replies) == len(done):
                    # This connection has written last, so what they have of it comes with all shares.
                    replicated = await self._replicas.have(self._lane, connection, replicas)
        except Unavailable:
            pass  # no reply for anybody, then
        replies += [None] * (len(done) - len(replies))
        return [replicated if reply == 1 else None for reply in replies]

    async def _ask(self, connection: AbstractConnection, script: Script, commands: Sequence[Command]) -> list[Any]:
        """The replies there are. Asking twice does no harm, so all are sent again after Redis forgot the script."""
        replies, _ = await self._lane.exchange(connection, pack(commands))
        if any(isinstance(reply, NoScriptError) for reply in replies):
            again, _ = await self._lane.exchange(connection, pack([script.load(), *commands]))
            replies = again[1:]
        return replies


def _home(topic: Topic, turn: Turn) -> list[bytes]:
    at = TopicPartition(topic.name, home_of(turn.stamp.producer, topic.partitions))
    return [keys.meta(at), *keys.producers(at)]


def _verdict(reply: Any) -> Admission | Kept | Refused:
    if reply is None:
        return Refused(Refusal.UNAVAILABLE)
    if isinstance(reply, REPLY_ERRORS):
        reason = refusal(reply)
        if reason is None:
            raise reply
        return Refused(reason)
    what, *rest = reply
    if what == _ADMITTED:
        return Admission(*rest)
    if what == _KEPT:
        return Kept(_decode_places(rest[0]))
    if what == _UNVERIFIED:
        return Refused(Refusal.UNVERIFIED)
    return Refused(REFUSALS[what], expected=rest[0] if rest else None)


def _encode_places(shares: Mapping[int, Sequence[Position]]) -> bytes:
    """`<partition>=<count>:<id>,<id>;…`, of consecutive ids the first and the last."""
    return b";".join(b"%d=%d:%b" % (number, len(ids), b",".join(_ends(ids))) for number, ids in shares.items())


def _ends(positions: Sequence[Position]) -> list[bytes]:
    first, last = positions[0], positions[-1]
    consecutive = all(at == Position(first.ms, first.seq + index) for index, at in enumerate(positions))
    return [format_position(at) for at in ((first, last) if consecutive and len(positions) > 2 else positions)]


def _decode_places(raw: bytes) -> dict[int, list[Position]]:
    found = {}
    for share in raw.split(b";"):
        number, _, rest = share.partition(b"=")
        count, _, ids = rest.partition(b":")
        found[int(number)] = parse_positions(ids.split(b","), int(count))
    return found


def append_once(batch: AppendBatch, run_id: str, memory: Memory) -> Command:
    """The command of append_once.lua."""
    at = TopicPartition(batch.topic.name, batch.partition)
    where = [keys.stream(at), keys.meta(at), *keys.producers(at), *keys.event_ids(at)]
    args: list[Arg] = [batch.topic.id, run_id, batch.max_stream_len, batch.max_unpersisted]
    args += [memory.producer_ms, 2 * memory.producers, memory.event_id_ms, memory.event_ids]
    if batch.once is None:
        args += [b""] * 6
    else:
        turn, admission = batch.once.turn, batch.once.admission
        args += [turn.stamp.producer, turn.stamp.epoch, turn.stamp.seq, turn.digest]
        args += [admission.epoch_ms, admission.begun_ms]
    for event in batch.events:
        key, headers = event.partition_key, event.headers
        args += [event.event_type, event.payload, event.timestamp_ms, (key is not None) + 2 * (headers is not None)]
        args += [part for part in (key, headers) if part is not None]
        args.append(event.event_id or b"")
    return scripts.APPEND_ONCE.call(where, args)


def kept_once(reply: Sequence[Any], count: int) -> Appended:
    """What append_once.lua answers when everything is kept."""
    duplicates, ids = reply
    found = range(count) if duplicates == b"*" else map(int, duplicates.split(b",")) if duplicates else ()
    return Appended(parse_positions(ids, count), duplicates=frozenset(found))

"""Replay jobs on PostgreSQL: leased rows, every write of an owner fenced by the epoch it took the row under."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import msgspec

from openstream_runtime.domain.errors import Unavailable
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.replays import NewReplay, Part, Replay, ReplayState
from openstream_runtime.store.pool import Connection, Pool
from openstream_runtime.store.queries import query

_COUNT_SPAN = query("history_count")
_CREATE, _CREATE_PARTS, _FORGET = query("create_replay"), query("create_replay_parts"), query("forget_replays")
_REPLAY, _REPLAYS, _PARTS = query("replay"), query("replays"), query("replay_parts")
_CANCEL, _TAKE, _RELEASE = query("cancel_replay"), query("take_replay"), query("release_replay")
_END, _SETTLE = query("end_replay"), query("settle_replay")
_MOVE, _MOVE_PARTS, _SUM = query("move_replay"), query("move_replay_parts"), query("sum_replay")
#: Replays that have ended and are still shown.
KEPT = 1_000
#: Seconds for counting what there is to copy: the client waits for it.
COUNTING = 2.0


class PostgresReplays:
    """ports.replays.Replays."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def count(self, topic_id: int, parts: Sequence[Part]) -> int | None:
        total = 0
        deadline = anyio.current_time() + COUNTING
        for part in parts:
            left = deadline - anyio.current_time()
            if left <= 0:
                return None
            values = {
                "topic_id": topic_id,
                "partition": part.partition,
                "after_ms": part.start.ms,
                "after_seq": part.start.seq,
                "upto_ms": part.upto.ms,
                "upto_seq": part.upto.seq,
            }

            async def count(connection: Connection, values: dict[str, int] = values) -> int:
                # Not prepared: with the very bounds the planner leaves out the other days.
                row = await (await connection.execute(_COUNT_SPAN, values, prepare=False)).fetchone()
                return int(row[0]) if row else 0

            try:
                total += await self._pool.transact(count, deadline=left)  # in a transaction the server keeps the time
            except Unavailable:
                return None
        return total

    async def create(self, new: NewReplay) -> Replay:
        async def create(connection: Connection) -> Replay:
            await connection.execute(
                _CREATE,
                [
                    *(new.id, new.source_id, new.source, new.target_id, new.target, new.target_partitions),
                    *(new.first or (None, None)),
                    *(new.last or (None, None)),
                    *(new.rate_per_s, new.total),
                ],
            )
            await connection.execute(
                _CREATE_PARTS,
                [
                    new.id,
                    [part.partition for part in new.parts],
                    [part.start.ms for part in new.parts],
                    [part.start.seq for part in new.parts],
                    [part.upto.ms for part in new.parts],
                    [part.upto.seq for part in new.parts],
                ],
            )
            await connection.execute(_FORGET, [KEPT])
            return await _read_one(connection, new.id)

        return await self._pool.transact(create)

    async def find(self, replay_id: str) -> Replay | None:
        return await self._pool.run(lambda connection: _read(connection, replay_id))

    async def all(self) -> list[Replay]:
        async def fetch(connection: Connection) -> list[Replay]:
            return [_as_replay(row, []) for row in await (await connection.execute(_REPLAYS)).fetchall()]

        return await self._pool.run(fetch)

    async def cancel(self, replay_id: str) -> tuple[Replay, bool] | None:
        async def cancel(connection: Connection) -> tuple[Replay, bool] | None:
            now = await (await connection.execute(_CANCEL, [replay_id])).fetchone() is not None
            found = await _read(connection, replay_id)
            return (found, now) if found else None

        return await self._pool.transact(cancel)

    async def take(self, owner: str, lease_ms: int) -> Replay | None:
        async def take(connection: Connection) -> Replay | None:
            row = await (await connection.execute(_TAKE, [owner, lease_ms])).fetchone()
            return await _read_one(connection, row[0]) if row else None

        return await self._pool.transact(take)

    async def progress(
        self, replay_id: str, epoch: int, parts: Sequence[Part], *, rate: float, lease_ms: int
    ) -> ReplayState | None:
        async def move(connection: Connection) -> ReplayState | None:
            row = await (await connection.execute(_MOVE, [rate, lease_ms, replay_id, epoch])).fetchone()
            if row is None:
                return None
            if parts:
                await connection.execute(
                    _MOVE_PARTS,
                    [
                        [part.partition for part in parts],
                        [part.position.ms for part in parts],
                        [part.position.seq for part in parts],
                        [part.copied for part in parts],
                        [_marks(part) for part in parts],
                        replay_id,
                    ],
                )
                await connection.execute(_SUM, [replay_id])
            return ReplayState(row[0])

        return await self._pool.transact(move)

    async def end(self, replay_id: str, epoch: int, state: ReplayState, *, error: str | None) -> None:
        values = {"id": replay_id, "epoch": epoch, "state": str(state), "error": error}

        async def end(connection: Connection) -> None:
            await connection.execute(_END, values)

        await self._pool.transact(end)

    async def settle(self, replay_id: str, epoch: int) -> bool:
        async def settle(connection: Connection) -> bool:
            return await (await connection.execute(_SETTLE, [replay_id, epoch])).fetchone() is not None

        return await self._pool.transact(settle)

    async def release(self, replay_id: str, epoch: int) -> None:
        async def release(connection: Connection) -> None:
            await connection.execute(_RELEASE, [replay_id, epoch])

        await self._pool.run(release)


def _marks(part: Part) -> str:
    return msgspec.json.encode({str(target): str(at) for target, at in part.marks.items()}).decode()


async def _read(connection: Connection, replay_id: str) -> Replay | None:
    row = await (await connection.execute(_REPLAY, [replay_id])).fetchone()
    if row is None:
        return None
    parts = []
    async for number, *places, copied, marks in await connection.execute(_PARTS, [replay_id]):
        start, upto, done = Position(*places[:2]), Position(*places[2:4]), Position(*places[4:])
        parts.append(
            Part(number, start, upto, done, copied, {int(target): Position.parse(at) for target, at in marks.items()})
        )
    return _as_replay(row, parts)


async def _read_one(connection: Connection, replay_id: str) -> Replay:
    """One that this transaction has made or locked."""
    found = await _read(connection, replay_id)
    if found is None:
        raise LookupError(replay_id)
    return found


def _as_replay(row: tuple[Any, ...], parts: list[Part]) -> Replay:
    first, last = (None if ms is None else Position(ms, seq) for ms, seq in (row[6:8], row[8:10]))
    # fmt: off
    (name, source_id, source, target_id, target, target_partitions, _, _, _, _, rate_per_s, total, state, copied, rate,
     error, owner, epoch, created_ms, updated_ms, finished_ms) = row
    # fmt: on
    return Replay(
        id=name,
        source_id=source_id,
        source=source,
        target_id=target_id,
        target=target,
        target_partitions=target_partitions,
        first=first,
        last=last,
        rate_per_s=rate_per_s,
        total=total,
        parts=parts,
        state=ReplayState(state),
        copied=copied,
        rate=rate,
        error=error,
        owner=owner,
        epoch=epoch,
        created_ms=created_ms,
        updated_ms=updated_ms,
        finished_ms=finished_ms,
    )

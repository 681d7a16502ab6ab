"""Replay jobs in memory, over a FakeStore: ports.replays.Replays, held to the real one by tests/contracts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from openstream_runtime.domain.replays import NewReplay, Part, Replay, ReplayState

if TYPE_CHECKING:
    from support.fake_store import FakeStore


def as_made(new: NewReplay, now_ms: int) -> Replay:
    """A replay nobody has touched yet."""
    return Replay(
        id=new.id,
        source_id=new.source_id,
        source=new.source,
        target_id=new.target_id,
        target=new.target,
        target_partitions=new.target_partitions,
        first=new.first,
        last=new.last,
        rate_per_s=new.rate_per_s,
        total=new.total,
        parts=list(new.parts),
        state=ReplayState.RUNNING,
        copied=0,
        rate=0.0,
        error=None,
        owner=None,
        epoch=0,
        created_ms=now_ms,
        updated_ms=now_ms,
        finished_ms=None,
    )


@dataclass
class _Row:
    replay: Replay
    settled: bool = False
    lease_until: int | None = None


class FakeReplays:
    """Leases are timed by the store's own clock. `uncountable`: counting takes too long."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self._rows: dict[str, _Row] = {}
        self.uncountable = False
        #: Every progress that was written down: (replay, copied).
        self.written: list[tuple[str, int]] = []

    async def count(self, topic_id: int, parts: Sequence[Part]) -> int | None:
        await self._store._call("count_replay")
        if self.uncountable:
            return None
        return sum(
            part.start < event.position <= part.upto
            for part in parts
            for _, event in self._store.rows(topic_id, part.partition)
        )

    async def create(self, new: NewReplay) -> Replay:
        await self._store._call("create_replay")
        now = self._store.now_ms()
        made = as_made(new, now)
        self._rows[new.id] = _Row(made)
        return made

    async def find(self, replay_id: str) -> Replay | None:
        await self._store._call("find_replay")
        row = self._rows.get(replay_id)
        return None if row is None else row.replay

    async def all(self) -> list[Replay]:
        await self._store._call("replays")
        return [replace(row.replay, parts=[]) for row in reversed(self._rows.values())]

    async def cancel(self, replay_id: str) -> tuple[Replay, bool] | None:
        await self._store._call("cancel_replay")
        row = self._rows.get(replay_id)
        if row is None:
            return None
        runs = row.replay.state is ReplayState.RUNNING
        if runs:
            now = self._store.now_ms()
            row.replay = replace(row.replay, state=ReplayState.CANCELLED, rate=0.0, updated_ms=now, finished_ms=now)
        return row.replay, runs

    async def take(self, owner: str, lease_ms: int) -> Replay | None:
        await self._store._call("take_replay")
        now = self._store.now_ms()
        for row in self._rows.values():
            if not row.settled and (row.lease_until is None or row.lease_until <= now):
                row.lease_until = now + lease_ms
                row.replay = replace(row.replay, owner=owner, epoch=row.replay.epoch + 1)
                return row.replay
        return None

    async def progress(
        self, replay_id: str, epoch: int, parts: Sequence[Part], *, rate: float, lease_ms: int
    ) -> ReplayState | None:
        await self._store._call("replay_progress")
        row = self._mine(replay_id, epoch)
        if row is None:
            return None
        now = self._store.now_ms()
        row.lease_until = now + lease_ms
        moved = {part.partition: part for part in parts}
        kept = [
            replace(
                moved[part.partition],
                start=part.start,
                upto=part.upto,
                copied=max(part.copied, moved[part.partition].copied),
            )
            if part.partition in moved and moved[part.partition].position >= part.position
            else part
            for part in row.replay.parts
        ]
        runs = row.replay.state is ReplayState.RUNNING
        copied = sum(part.copied for part in kept)
        row.replay = replace(row.replay, parts=kept, copied=copied, rate=rate if runs else 0.0, updated_ms=now)
        self.written.append((replay_id, copied))
        return row.replay.state

    async def end(self, replay_id: str, epoch: int, state: ReplayState, *, error: str | None) -> None:
        await self._store._call("end_replay")
        row = self._mine(replay_id, epoch)
        if row is None or row.replay.state is not ReplayState.RUNNING:
            return
        was, now = row.replay, self._store.now_ms()
        total = was.copied if state is ReplayState.DONE else was.total
        row.replay = replace(was, state=state, error=error, total=total, rate=0.0, updated_ms=now, finished_ms=now)

    async def settle(self, replay_id: str, epoch: int) -> bool:
        await self._store._call("settle_replay")
        row = self._mine(replay_id, epoch)
        if row is None or row.replay.state is ReplayState.RUNNING:
            return False
        row.replay = replace(row.replay, rate=0.0, owner=None)
        row.settled, row.lease_until = True, None
        return True

    async def release(self, replay_id: str, epoch: int) -> None:
        await self._store._call("release_replay")
        row = self._mine(replay_id, epoch)
        if row is not None:
            row.lease_until = None
            row.replay = replace(row.replay, owner=None, rate=0.0)

    def _mine(self, replay_id: str, epoch: int) -> _Row | None:
        row = self._rows.get(replay_id)
        return row if row is not None and not row.settled and row.replay.epoch == epoch else None

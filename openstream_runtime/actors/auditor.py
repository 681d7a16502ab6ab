"""The auditor: finds out which events this node had appended were lost with a Redis, and says so.

After a failover, a restart or a flush a partition is verified anew. What was appended before that is in doubt until
PostgreSQL's cursor has passed it: from then on it is there, or it is lost for good. Nothing is said before.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from openstream_runtime.actors.pacing import Retry, jittered, pause
from openstream_runtime.actors.world import World
from openstream_runtime.domain.acknowledged import Run, Tail
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.positions import Position, TopicPartition
from supervisors import ChildSpec, Context

_log = structlog.get_logger(__name__)

PERIOD = 1.0  # seconds
POSITIONS = 2_000  # asked for in one statement
NAMED = 16  # runs of ids named in one line of the log; the first and the last always are


class Auditor:
    """One incarnation. What it looks after stands in the world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._acknowledged = world.acknowledged
        #: Of the sample that was looked at last: one is looked at once.
        self._taken_at = 0.0
        self._forgotten = 0

    @classmethod
    def spec(cls, world: World) -> ChildSpec:
        return ChildSpec(id="auditor", actor=lambda: cls(world), grace=world.limits.grace(0.01))

    def describe(self) -> dict[str, object]:
        return {"doubtful": sum(len(run) for tail in self._acknowledged.tails.values() for run in tail.doubtful)}

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        retry = Retry()
        while not ctx.stopping.is_set():
            self._look()
            try:
                for at, tail in list(self._acknowledged.tails.items()):
                    while runs := tail.decided(POSITIONS):
                        await self._audit(at, tail, runs)
            except OpenStreamError as error:
                if retry.failures == 0:
                    _log.warning("whether events were lost is looked at later", error=str(error))
                await pause(ctx, retry.delay())
                continue
            retry.succeeded()
            await pause(ctx, jittered(PERIOD))

    def _look(self) -> None:
        sample = self._world.board.sample
        if sample.taken_at == self._taken_at:
            return
        self._taken_at = sample.taken_at
        self._acknowledged.keep_only(set(self._world.board.live_partitions()))
        for at, tail in self._acknowledged.tails.items():
            stream, cursor = sample.streams.get(at), sample.cursors.get(at)
            if stream is not None and cursor is not None:
                tail.look(stream.verified_ms, cursor.position)
        if self._acknowledged.forgotten > 2 * self._forgotten:
            self._forgotten = self._acknowledged.forgotten
            _log.warning("too much waits for PostgreSQL to look after all of it", events=self._forgotten)

    async def _audit(self, at: TopicPartition, tail: Tail, runs: Sequence[Run]) -> None:
        positions = [position for run in runs for position in run.positions()]
        lost: list[Position] = []
        try:
            for start in range(0, len(positions), POSITIONS):
                part = positions[start : start + POSITIONS]
                [found] = await self._world.store.holds([((tail.topic_id, at.partition), part)])
                if found.cursor is None:
                    return  # the topic is gone, and all of it was meant to go
                lost += [position for position in part if position not in found.held]
        except BaseException:
            tail.doubtful.extendleft(reversed(runs))  # still to be found out
            raise
        if lost:
            self._world.meter.lost_tail(at.topic, at.partition, len(lost))
            _log.error(
                "appended events were lost with a Redis",
                partition=str(at),
                events=len(lost),
                first=str(lost[0]),
                last=str(lost[-1]),
                ids=_named(lost),
            )


def _named(positions: Sequence[Position]) -> list[str]:
    """Ids for people, consecutive ones as the first and the last; only so many."""
    runs: list[list[Position]] = []
    for position in positions:
        if runs and position == (runs[-1][-1].ms, runs[-1][-1].seq + 1):
            runs[-1][-1:] = [runs[-1][-1], position] if len(runs[-1]) == 1 else [position]
        else:
            runs.append([position])
    return ["..".join(map(str, run)) for run in runs[:NAMED]]

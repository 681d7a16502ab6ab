"""The confirmer: finds out what became of events somebody wants in PostgreSQL before he is answered.

What this node persists is settled by its own commits. For the rest it looks how far the owners are, in Redis, and lets
PostgreSQL prove it: a Redis that lost its tail is lifted above what it lost, so a cursor that passed proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import structlog

from openstream_runtime.actors.pacing import Retry, pause, until_told
from openstream_runtime.actors.receipts import Line, Receipts, Share
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.positions import Position
from openstream_runtime.ports.store import Holding
from supervisors import ChildSpec, Context

_log = structlog.get_logger(__name__)

SOONEST = 0.005  # seconds between two looks at a partition's cursor, while the wait is young
SLOWEST = 0.25  # and when PostgreSQL is far behind: about what its pace is published in
PART = 0.1  # in between, this part of how long the first in line has waited
LOOK_AGAIN = 1.0  # seconds: should a commit pass unseen, nobody waits longer than this for the truth
SHARES = 500  # asked for in one statement
END = Position(2**63 - 1, 2**63 - 1)  # of a partition that takes nothing any more


class Confirmer:
    """One incarnation. It holds nothing: who waits stands in the receipts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._receipts: Receipts = world.receipts

    @classmethod
    def spec(cls, world: World) -> ChildSpec:
        return ChildSpec(id="confirmer", actor=lambda: cls(world), grace=world.limits.grace(0.01))

    def describe(self) -> dict[str, object]:
        return {"waiting": len(self._receipts), "partitions": len(self._receipts.lines)}

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        clock, retry = self._world.clock, Retry(most=1.0)
        while not ctx.stopping.is_set():
            grown, now = self._receipts.grown.mark(), clock.monotonic()
            times = [(self._due(line, now), line) for line in self._receipts.lines.values()]
            due = [line for at, line in times if at <= now]
            if not due:
                await until_told(ctx, grown, min((at for at, _ in times), default=math.inf) - now)
                continue
            try:
                await self._look(due, now)
            except OpenStreamError as error:
                if retry.failures == 0:
                    _log.warning("who waits for PostgreSQL waits on", error=str(error), waiting=len(self._receipts))
                await pause(ctx, retry.delay())
            else:
                retry.succeeded()

    def _due(self, line: Line, now: float) -> float:
        if line.doubtful:
            return now
        if self._is_ours(line):
            return line.looked + LOOK_AGAIN
        return line.looked + min(SLOWEST, max(SOONEST, PART * (now - line.since)))

    def _is_ours(self, line: Line) -> bool:
        return line.at in self._world.board.held

    async def _look(self, lines: Sequence[Line], now: float) -> None:
        """Find out how far the owners of these partitions are, and settle who ends before that."""
        behind, silent = [], []
        for line in lines:
            line.looked = now
            if not line.doubtful and (self._is_ours(line) or now - max(line.since, line.asked) >= LOOK_AGAIN):
                line.asked = now
                silent.append(line)
            elif not line.doubtful:
                behind.append(line)
            line.doubtful = False
        try:
            if behind:
                cursors = await self._world.log.persisted([line.at for line in behind])
                for line, cursor in zip(behind, cursors, strict=True):
                    line.passed = max(line.passed, cursor)
            # A cursor may never be published: its owner died, Redis forgot it, the topic is gone.
            waiting = [(line, line.oldest) for line in silent if line.shares]
            for (line, _), found in zip(waiting, await self._ask([share for _, share in waiting]), strict=True):
                line.passed = END if found.cursor is None else max(line.passed, found.cursor)
            passed = [share for line in lines for share in line.shares if share.last <= line.passed]
            for start in range(0, len(passed), SHARES):
                await self._settle(passed[start : start + SHARES])
        except OpenStreamError:
            for line in lines:
                line.doubtful = True  # what was learned stays; the proof is still to come
            raise

    async def _settle(self, shares: Sequence[Share]) -> None:
        for share, found in zip(shares, await self._ask(shares), strict=True):
            if found.held.issuperset(share.ends):
                self._receipts.settle(share, share.positions)
            elif found.cursor is None or share.last <= found.cursor:
                # Lost, and for good: a persister writes only what stands after its cursor, and that fence only moves
                # on. A batch may have ended inside the share, so what came before the loss is looked up one by one.
                [whole] = await self._world.store.holds([(share.key, share.positions)])
                self._receipts.settle(share, whole.held)
                _log.error("appended events were lost", partition=str(share.at), first=str(share.positions[0]))

    async def _ask(self, shares: Sequence[Share]) -> list[Holding]:
        return await self._world.store.holds([(share.key, share.ends) for share in shares]) if shares else []

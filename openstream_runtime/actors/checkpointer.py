"""The checkpointer: tells PostgreSQL where groups are, so that a lost Redis costs a few repetitions and no event.

Each node writes for the partitions it owns, all of them in one statement, and only what has moved. It also counts what
lies before a group that was put far back, once: how far behind it is can then be told without counting again.
"""

from __future__ import annotations

import structlog

from openstream_runtime.actors.pacing import Retry, jittered, pause
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.ports.groups import Cold
from openstream_runtime.ports.store import GroupMark
from supervisors import ChildSpec, Context

_log = structlog.get_logger(__name__)

PERIOD = 1.0  # seconds: what a group acknowledged since then comes again when Redis is lost
SHARE = 0.05  # of the time: with so many groups that a round takes long, rounds come less often
LONGEST = 5.0  # seconds: one round that took long may have met a server that stood still
COUNT_AGAIN = 60.0  # seconds until a count that took too long is tried again


class Checkpointer:
    """One round a second."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._saved: dict[tuple[int, str, int], Position] = {}
        self._count_at: dict[tuple[TopicPartition, str], float] = {}

    @classmethod
    def spec(cls, world: World) -> ChildSpec:
        return ChildSpec(id="checkpointer", actor=lambda: cls(world), grace=world.limits.grace(0.01))

    def describe(self) -> dict[str, object]:
        return {"positions": len(self._saved)}

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        retry = Retry()
        while not ctx.stopping.is_set() and not self._world.board.draining:
            began = self._world.clock.monotonic()
            try:
                with ctx.interruptible():
                    await self.look()
            except OpenStreamError as error:
                if retry.failures == 0:
                    _log.info("positions of groups are not saved now", error=str(error))
                await pause(ctx, retry.delay())
                continue
            retry.succeeded()
            took = self._world.clock.monotonic() - began
            await pause(ctx, jittered(min(max(PERIOD, took / SHARE), LONGEST)))
        await ctx.stopping.wait()

    async def look(self) -> None:
        """Save what has moved on the partitions this node owns."""
        board = self._world.board
        held = [at for at in board.held if at.topic in board.topics]
        found = dict(zip(held, await self._world.groups.lows(held), strict=True))
        marks: dict[tuple[int, str, int], Position] = {}
        for at, lows in found.items():
            for group, low in lows.items():
                if (at.topic, group) in board.groups:
                    marks[board.topics[at.topic].id, group, at.partition] = low.position
        moved = {key: position for key, position in marks.items() if self._saved.get(key) != position}
        await self._world.positions.save([GroupMark(*key, position) for key, position in moved.items()])
        # What is not ours any more is forgotten: whoever owned it meanwhile may have written something else.
        self._saved = marks
        for at, lows in found.items():
            for group, low in lows.items():
                if low.uncounted is not None and (at.topic, group) in board.groups:
                    await self._count(at, group, low.uncounted)

    async def _count(self, at: TopicPartition, group: str, cold: Cold) -> None:
        now = self._world.clock.monotonic()
        if now < self._count_at.get((at, group), 0.0):
            return
        topic = self._world.board.topics[at.topic]
        try:
            number = await self._world.history.count(topic.id, at.partition, cold.after, cold.upto)
            await self._world.groups.counted(at.topic, group, cold, number)
        except OpenStreamError as error:
            self._count_at[at, group] = now + COUNT_AGAIN
            _log.info("the lag of a group is not known now", group=group, partition=str(at), error=str(error))
        else:
            self._count_at.pop((at, group), None)

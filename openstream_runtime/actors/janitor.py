"""The janitor: removes data of deleted topics and history that has ended, and ends the actors of what is gone.

A topic is first marked in PostgreSQL, so from then on nobody finds it; its streams and rows go afterwards, in small
steps, by one node at a time. A node that dies over it is followed by another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from openstream_runtime.actors.pacing import Retry, jittered, pause
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.partitioning import owner_of
from openstream_runtime.domain.topics import Topic
from supervisors import ChildSpec, Context

_log = structlog.get_logger(__name__)

PERIOD = 1.0  # seconds
CHUNK = 10_000  # rows removed in one transaction
MAINTAIN = 60.0  # seconds between looks for history that has ended, and for days that are to be made ahead of time

Chore = Callable[[], Awaitable[None]]
#: Keeps the store in shape, given the time in milliseconds; how many time partitions were dropped.
Upkeep = Callable[[int], Awaitable[int]]


class Janitor:
    """One round a second. `sweep` ends actors of topics and groups that are gone; `maintain` is the store's own."""

    def __init__(self, world: World, sweep: Chore, maintain: Upkeep) -> None:
        self._world = world
        self._sweep = sweep
        self._maintain = maintain
        #: Rounds a deleted topic has been seen: others need one refresh of the catalog to let go of it.
        self._seen: dict[int, int] = {}

    @classmethod
    def spec(cls, world: World, sweep: Chore, maintain: Upkeep) -> ChildSpec:
        return ChildSpec(id="janitor", actor=lambda: cls(world, sweep, maintain), grace=world.limits.grace(0.03))

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        retry = Retry()
        maintain_at = self._world.clock.monotonic() + MAINTAIN  # opening the store has done it once
        while not ctx.stopping.is_set():
            await pause(ctx, jittered(PERIOD))
            if self._ends(ctx):
                break  # what is left to clean up the others do
            try:
                await self._sweep()
                if self._world.clock.monotonic() >= maintain_at:
                    self._world.meter.history_dropped(await self._maintain(self._world.clock.now_ms()))
                    maintain_at = self._world.clock.monotonic() + jittered(MAINTAIN)
                for topic in list(self._world.board.topics.values()):
                    if topic.deleting and self._is_ours(topic) and not self._ends(ctx):
                        await self._remove(ctx, topic)
            except OpenStreamError as error:
                if retry.failures == 0:
                    _log.warning("cleaning up waits", error=str(error))
                await pause(ctx, retry.delay())
                continue
            retry.succeeded()
        await ctx.stopping.wait()

    def _ends(self, ctx: Context) -> bool:
        return ctx.stopping.is_set() or self._world.board.draining

    def _is_ours(self, topic: Topic) -> bool:
        board = self._world.board
        return owner_of(f"delete:{topic.name}", [node.id for node in board.nodes]) == board.node.id

    async def _remove(self, ctx: Context, topic: Topic) -> None:
        rounds = self._seen[topic.id] = self._seen.get(topic.id, 0) + 1
        if rounds < 4:
            return
        # Streams before rows: an append that came too late finds no meta key, asks for the cursor, and is refused.
        await self._world.log.delete_topic(topic)
        while not self._ends(ctx):
            if await self._world.catalog.purge(topic, max_rows=CHUNK):
                await self._world.log.delete_topic(topic)
                await self._world.tail.ring("topics")
                self._seen.pop(topic.id, None)
                _log.info("topic removed", topic=topic.name)
                return

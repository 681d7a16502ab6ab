"""The claim-reaper of a partition: what a consumer took and never acked becomes available to the next reader.

Also removes consumers that have been away for long and hold nothing. Two reapers on one partition do no harm: an entry
is only taken from whoever has held it too long.
"""

from __future__ import annotations

import structlog

from openstream_runtime.actors.pacing import Retry, jittered, pause
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Topic
from supervisors import ChildSpec, Context

_log = structlog.get_logger(__name__)

BATCH = 1000  # entries released by one script call, so that no call holds Redis up for long


class Reaper:
    """Looks after the groups of one partition."""

    def __init__(self, world: World, topic: Topic, at: TopicPartition) -> None:
        self._world = world
        self._topic = topic
        self._at = at

    @classmethod
    def spec(cls, world: World, topic: Topic, at: TopicPartition) -> ChildSpec:
        return ChildSpec(id="reaper", actor=lambda: cls(world, topic, at), grace=world.limits.grace(0.05))

    @property
    def period(self) -> float:
        """Seconds between rounds: an entry waits at most a quarter longer than its group's limit."""
        return min(15.0, max(0.25, self._world.limits.claim_idle_ms / 4000))

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        retry = Retry(most=15.0)
        sweep_at = 0.0
        consumer_idle_ms = self._world.limits.consumer_idle_ms
        while not ctx.stopping.is_set():
            await pause(ctx, jittered(self.period))
            if ctx.stopping.is_set():
                break
            sweeping = self._world.clock.monotonic() >= sweep_at
            try:
                for group in self._world.board.groups_of(self._topic):
                    await self._release(group.name)
                    if sweeping:
                        await self._world.groups.remove_idle_consumers(
                            self._at.topic, group.name, self._at.partition, min_idle_ms=consumer_idle_ms
                        )
            except OpenStreamError as error:
                if retry.failures == 0:
                    _log.info("the claim-reaper waits for Redis", partition=str(self._at), error=str(error))
                await pause(ctx, retry.delay())
                continue
            retry.succeeded()
            if sweeping:
                sweep_at = self._world.clock.monotonic() + jittered(max(1.0, consumer_idle_ms / 10_000))

    async def _release(self, group: str) -> None:
        released = BATCH
        while released == BATCH:
            released = await self._world.groups.release_idle(
                self._at.topic, group, self._at.partition, min_idle_ms=self._world.limits.claim_idle_ms, count=BATCH
            )
            if released:
                _log.info("released entries nobody acked", group=group, partition=str(self._at), events=released)
                self._world.meter.released(self._at.topic, group, released)
                await self._world.tail.ring(f"group:{self._at.topic}:{group}:{self._at.partition}")

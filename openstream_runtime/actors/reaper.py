"""The claim-reaper of a partition: what a consumer took and never acked becomes available to the next reader.

What was handed out as often as its group allows becomes a dead letter instead. Also removes consumers that have been
away for long and hold nothing. Two reapers on one partition do no harm: an entry is only taken from whoever has held it
too long, and a dead letter is written once (dead_letters.py).
"""

from __future__ import annotations

import structlog

from openstream_runtime.actors.board import Changed
from openstream_runtime.actors.dead_letters import DeadLetters
from openstream_runtime.actors.pacing import Retry, jittered, pause, until_told
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Group, Topic
from supervisors import ChildSpec, Context

_log = structlog.get_logger(__name__)

BATCH = 1000  # entries released by one script call, so that no call holds Redis up for long


def bell_of(at: TopicPartition) -> str:
    """Rung when something died, so that nobody waits for the next round."""
    return f"dead:{at.topic}:{at.partition}"


class Reaper:
    """Looks after the groups of one partition."""

    def __init__(self, world: World, topic: Topic, at: TopicPartition) -> None:
        self._world = world
        self._topic = topic
        self._at = at
        self._dead = DeadLetters(world, topic, at)

    @classmethod
    def spec(cls, world: World, topic: Topic, at: TopicPartition) -> ChildSpec:
        return ChildSpec(id="reaper", actor=lambda: cls(world, topic, at), grace=world.limits.grace(0.05))

    @property
    def period(self) -> float:
        """Seconds between rounds: an entry waits at most a quarter longer than its group's limit."""
        limits = [self._idle_ms(group) for group in self._world.board.groups_of(self._topic)]
        return min(15.0, max(0.25, min(limits, default=self._world.limits.claim_idle_ms) / 4000))

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        with self._world.watch.hearing(bell_of(self._at)) as deaths:
            await self._rounds(ctx, deaths)

    async def _rounds(self, ctx: Context, deaths: Changed) -> None:
        retry = Retry(most=15.0)
        sweep_at = 0.0
        consumer_idle_ms = self._world.limits.consumer_idle_ms
        rung = deaths.mark()
        while not ctx.stopping.is_set():
            await until_told(ctx, rung, jittered(self.period))
            rung = deaths.mark()
            if ctx.stopping.is_set():
                break
            sweeping = self._world.clock.monotonic() >= sweep_at
            trouble: OpenStreamError | None = None
            try:
                for group in self._world.board.groups_of(self._topic):
                    queued = await self._release(group)
                    if sweeping:
                        await self._world.groups.remove_idle_consumers(
                            self._at.topic, group.name, self._at.partition, min_idle_ms=consumer_idle_ms
                        )
                    try:
                        if queued:
                            await self._dead.move(group)
                    except OpenStreamError as error:  # of PostgreSQL, or of one topic: no reason to let others wait
                        trouble = error
                if trouble is not None:
                    raise trouble
            except OpenStreamError as error:
                if retry.failures == 0:
                    _log.info("the claim-reaper waits", partition=str(self._at), error=str(error))
                await pause(ctx, retry.delay())
                continue
            retry.succeeded()
            if sweeping:
                sweep_at = self._world.clock.monotonic() + jittered(max(1.0, consumer_idle_ms / 10_000))

    async def _release(self, group: Group) -> int:
        """Release what was held for too long; how many dead entries wait to be moved."""
        while True:
            found = await self._world.groups.release_idle(
                self._at.topic,
                group.name,
                self._at.partition,
                min_idle_ms=self._idle_ms(group),
                count=BATCH,
                max_deliveries=group.settings.max_deliveries,
            )
            if found.again:
                _log.info(
                    "released entries nobody acked", group=group.name, partition=str(self._at), events=found.again
                )
                self._world.meter.released(self._at.topic, group.name, found.again)
                await self._world.tail.ring(f"group:{self._at.topic}:{group.name}:{self._at.partition}")
            if found.again + found.dead < BATCH:
                return found.queued

    def _idle_ms(self, group: Group) -> int:
        return group.settings.claim_idle_ms or self._world.limits.claim_idle_ms

"""The metrics actor: looks around every few seconds and publishes what it saw.

Backpressure, the summary and the gauges all read this sample, so what they cost does not grow with who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import anyio
import structlog

from openstream_runtime.actors.board import Sample
from openstream_runtime.actors.pacing import Retry, jittered, pause
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.lag import LagClock
from openstream_runtime.domain.positions import Cursor, TopicPartition
from openstream_runtime.ports.log import StreamStats
from supervisors import ChildSpec, Context

_log = structlog.get_logger(__name__)

PERIOD = 2.0  # seconds
MEMORY = 0.25  # seconds between looks at Redis' memory: what comes in between, backpressure can only estimate
SHARE = 0.05  # of Redis' time: with so many partitions that a look takes long, looks come less often
LONGEST = 15.0  # seconds: one look that took long may have met a server that stood still
SMOOTHING = 0.3  # of a new rate in the published one
PULSE = 0.5  # seconds between looks at how late the event loop is


class Sampler:
    """First up and last down: it must see the rest."""

    def __init__(self, world: World, publish: Callable[[Sample], None]) -> None:
        self._log = world.log
        self._store = world.store
        self._board = world.board
        self._clock = world.clock
        self._meter = world.meter
        self._publish = publish
        self._lags = LagClock()
        #: Seconds that Redis took for the last look. What PostgreSQL takes is waiting, not work.
        self._took = 0.0

    @classmethod
    def spec(cls, world: World, publish: Callable[[Sample], None]) -> ChildSpec:
        return ChildSpec(id="metrics", actor=lambda: cls(world, publish), grace=world.limits.grace(0.01))

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._feel_the_pulse)
            tasks.start_soon(self._mind_the_memory)
            await self._look_around(ctx)
            tasks.cancel_scope.cancel()

    async def _feel_the_pulse(self) -> None:
        """How late a timer comes is how long something kept the event loop to itself."""
        while True:
            due = self._clock.monotonic() + PULSE
            await anyio.sleep(PULSE)
            self._meter.loop_lag(max(0.0, self._clock.monotonic() - due))

    async def _look_around(self, ctx: Context) -> None:
        retry = Retry()
        # Not while draining: a call to a backend that is away would hold up the stop.
        while not ctx.stopping.is_set() and not self._board.draining:
            try:
                with ctx.interruptible():
                    await self.look()
            except OpenStreamError as error:
                if retry.failures == 0:
                    _log.warning("no sample: the last one stands", error=str(error))
                await pause(ctx, retry.delay())
                continue
            retry.succeeded()
            await pause(ctx, jittered(min(max(PERIOD, self._took / SHARE), LONGEST)))
        await ctx.stopping.wait()

    async def _mind_the_memory(self) -> None:
        """Keep an eye on the one number that must not be old, however long a look at all the rest takes."""
        retry = Retry()
        while not self._board.draining:
            await anyio.sleep(MEMORY)
            try:
                await self._see_the_memory()
            except OpenStreamError:
                await anyio.sleep(retry.delay())  # the next look says what is wrong
            else:
                retry.succeeded()

    async def _see_the_memory(self) -> None:
        memory = await self._log.memory()
        self._board.sample = replace(
            self._board.sample, used_memory=memory["used_memory"], maxmemory=memory["maxmemory"]
        )

    async def look(self) -> None:
        """Take one sample and publish it."""
        partitions, began = self._board.live_partitions(), self._clock.monotonic()
        streams = dict(zip(partitions, await self._log.stats(partitions), strict=True))
        self._took = self._clock.monotonic() - began
        self._board.heights.keep_only(streams)
        for at, stats in streams.items():
            self._board.heights.saw(at, stats.last, began)
        now = self._clock.monotonic()
        try:
            cursors: Mapping[TopicPartition, Cursor] = await self._store.cursors()
        except OpenStreamError:
            cursors = self._board.sample.cursors  # PostgreSQL away: what Redis says is still worth publishing
        # Last of all: backpressure counts by itself only what it took in after this is published.
        await self._see_the_memory()
        self._lags.saw({at: stats.last for at, stats in streams.items()}, now, self._clock.now_ms())
        sample = Sample(
            taken_at=now,
            streams=streams,
            cursors=cursors,
            used_memory=self._board.sample.used_memory,
            maxmemory=self._board.sample.maxmemory,
            persist_rate={at: self._rate(at, stats.persisted_count, now) for at, stats in streams.items()},
            unpersisted_lag={at: self._unpersisted_lag(at, stats, now) for at, stats in streams.items()},
            group_lag={at: self._group_lag(at, stats, now) for at, stats in streams.items() if stats.groups},
        )
        self._board.sample = sample
        self._publish(sample)

    def _rate(self, at: TopicPartition, persisted: int, now: float) -> float:
        last = self._board.sample
        before = last.streams.get(at)
        elapsed = now - last.taken_at
        if before is None or elapsed <= 0:
            return 0.0
        rate = max(0, persisted - before.persisted_count) / elapsed
        return SMOOTHING * rate + (1 - SMOOTHING) * last.persist_rate.get(at, rate)

    def _unpersisted_lag(self, at: TopicPartition, stats: StreamStats, now: float) -> float:
        """By what the log was told is persisted: what stands in PostgreSQL is that partition's own trouble."""
        return self._lags.behind(at, stats.persisted, now) if stats.unpersisted else 0.0

    def _group_lag(self, at: TopicPartition, stats: StreamStats, now: float) -> dict[str, float]:
        return {
            group.name: 0.0 if group.lag == 0 else self._lags.behind(at, group.last_delivered, now)
            for group in stats.groups
        }

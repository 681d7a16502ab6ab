"""The replayer: copies for replays that nobody else copies for, a few at a time, each under a lease in PostgreSQL.

A replay fails by itself and takes neither its neighbours nor the node along. A node that drains gives its replays back
at once, one that dies is followed when its lease has ended; both ways nothing is copied twice (replay_copier.py).
"""

from __future__ import annotations

import anyio
import structlog
from anyio.abc import TaskGroup

from openstream_runtime.actors.board import Changed
from openstream_runtime.actors.pacing import Retry, jittered, until_told
from openstream_runtime.actors.replay_copier import ReplayCopier
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import Fenced, OpenStreamError, OutcomeUnknown, Unavailable
from openstream_runtime.domain.replays import Pace, Part, Replay, ReplayState
from supervisors import ChildSpec, Context

_log = structlog.get_logger(__name__)

BELL = "replays"
AT_ONCE = 4  # replays one node copies for at the same time
LOOK = 1.0  # seconds between looks for replays that need an owner; the bell makes it sooner
WRITE_DOWN = 0.75  # seconds between two commits of the progress, at most
GIVE_BACK = 1.0  # seconds for giving a lease back, grace or not: else others wait for it to end


class Replayer:
    """One for each node."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._bell = Changed()
        self._jobs: dict[str, ReplayJob] = {}
        world.watch.on_bell(BELL, lambda _: self._bell.tell())

    @classmethod
    def spec(cls, world: World) -> ChildSpec:
        return ChildSpec(id="replayer", actor=lambda: cls(world), grace=world.limits.grace(0.03))

    def describe(self) -> dict[str, object]:
        return {"replays": {name: job.describe() for name, job in self._jobs.items()}}

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        async with anyio.create_task_group() as jobs:
            jobs.start_soon(self._until_draining, jobs)
            with ctx.interruptible():
                await self._take_all(ctx, jobs)
            jobs.cancel_scope.cancel()
        await ctx.stopping.wait()

    async def _until_draining(self, jobs: TaskGroup) -> None:
        while True:
            changed = self._world.board.changed.mark()
            if self._world.board.draining:
                jobs.cancel_scope.cancel()
                return
            await changed.wait()

    async def _take_all(self, ctx: Context, jobs: TaskGroup) -> None:
        retry = Retry()
        while not ctx.stopping.is_set():
            rung, replay = self._bell.mark(), None
            if len(self._jobs) < AT_ONCE:
                try:
                    replay = await self._world.replays.take(self._world.board.node.id, self._world.limits.lease_ms)
                    retry.succeeded()
                except (Unavailable, OutcomeUnknown) as error:
                    if retry.failures == 0:
                        _log.warning("no replay can be taken", error=str(error))
                    await anyio.sleep(retry.delay())
                    continue
            if replay is None:
                await until_told(ctx, rung, jittered(LOOK))
            else:
                job = self._jobs[replay.id] = ReplayJob(self._world, replay, self._bell)
                jobs.start_soon(self._run, job)

    async def _run(self, job: ReplayJob) -> None:
        self._world.meter.replays_running(1)
        try:
            await job.run()
        finally:
            if self._jobs.get(job.replay.id) is job:
                del self._jobs[job.replay.id]
            self._world.meter.replays_running(-1)
            self._bell.tell()


class ReplayJob:
    """One replay under one epoch."""

    def __init__(self, world: World, replay: Replay, bell: Changed) -> None:
        self._world = world
        self.replay = replay
        self._bell = bell
        self._copier = ReplayCopier(world, replay)
        self._pace = Pace(self._copier.copied, world.clock.monotonic())
        self._written: dict[int, Part] = {part.partition: part for part in replay.parts}
        self._over = False

    def describe(self) -> dict[str, object]:
        return {
            "source": self.replay.source,
            "target": self.replay.target,
            "epoch": self.replay.epoch,
            "copied": self._copier.copied,
        }

    async def run(self) -> None:
        replay = self.replay
        _log.info("replay taken", replay=replay.id, epoch=replay.epoch, state=str(replay.state), copied=replay.copied)
        try:
            if replay.state is ReplayState.RUNNING:
                await self._copy_under_lease()
            await self._clean_up()
        except Fenced:
            self._over = True
            _log.warning("another owner has the replay", replay=replay.id, epoch=replay.epoch)
        finally:
            if not self._over:
                with anyio.move_on_after(GIVE_BACK, shield=True):
                    await self._give_back()

    async def _copy_under_lease(self) -> None:
        """Copy, and hold the lease meanwhile: the end of the one is the end of the other."""
        lost: Fenced | None = None
        async with anyio.create_task_group() as fate:

            async def keep() -> None:
                nonlocal lost
                lost = await self._keep()
                fate.cancel_scope.cancel()

            fate.start_soon(keep)
            try:
                state, error = await self._outcome()
                await self._copier.insist(self._write_down)
                await self._copier.insist(lambda: self._end(state, error))
            except Fenced as fenced:
                lost = fenced
            fate.cancel_scope.cancel()
        if lost is not None:
            raise lost

    async def _outcome(self) -> tuple[ReplayState, str | None]:
        try:
            await self._copier.copy()
        except Fenced:
            raise
        except OpenStreamError as error:
            _log.warning("replay failed", replay=self.replay.id, error=str(error))
            return ReplayState.FAILED, str(error)
        except Exception as bug:
            # It would come again on every node that follows, and take one after the other down.
            _log.exception("replay failed: a bug", replay=self.replay.id)
            return ReplayState.FAILED, f"an internal error ({type(bug).__name__}); a node's log has it"
        return ReplayState.DONE, None

    async def _keep(self) -> Fenced | None:
        """Write the progress down, which renews the lease, until it is lost (why) or the replay has ended (None)."""
        every = min(WRITE_DOWN, self._world.limits.lease_ms / 4000)
        retry = Retry(most=every)
        while True:
            rung = self._bell.mark()
            with anyio.move_on_after(jittered(every)):
                await rung.wait()
            try:
                if await self._write_down() is not ReplayState.RUNNING:
                    return None
                retry.succeeded()
            except Fenced as fenced:
                return fenced
            except (Unavailable, OutcomeUnknown) as error:
                if retry.failures == 0:
                    _log.warning("progress is not written down", replay=self.replay.id, error=str(error))
                await anyio.sleep(retry.delay())

    async def _write_down(self) -> ReplayState:
        parts = {source.partition: source.part for source in self._copier.sources}
        moved = [part for number, part in parts.items() if part != self._written[number]]
        self._pace.observe(self._copier.copied, self._world.clock.monotonic())
        state = await self._world.replays.progress(
            self.replay.id,
            self.replay.epoch,
            moved,
            rate=self._pace.rate,
            lease_ms=self._world.limits.lease_ms,
        )
        if state is None:
            raise Fenced("another owner has taken the replay")
        self._written |= {part.partition: part for part in moved}
        return state

    async def _end(self, state: ReplayState, error: str | None) -> None:
        await self._world.replays.end(self.replay.id, self.replay.epoch, state, error=error)

    async def _clean_up(self) -> None:
        """First nothing more can be appended, then nobody looks after it any more."""
        replay = self.replay
        await self._copier.insist(self._write_down)  # what was copied until it was cancelled
        await self._copier.insist(self._copier.end_marks)
        if not await self._copier.insist(lambda: self._world.replays.settle(replay.id, replay.epoch)):
            raise Fenced("another owner has taken the replay")
        self._over = True
        _log.info("replay ended", replay=replay.id, copied=self._copier.copied)

    async def _give_back(self) -> None:
        try:
            await self._write_down()
            await self._world.replays.release(self.replay.id, self.replay.epoch)
            await self._world.tail.ring(BELL)
        except OpenStreamError as error:
            _log.info("replay not given back; its lease ends by itself", replay=self.replay.id, error=str(error))

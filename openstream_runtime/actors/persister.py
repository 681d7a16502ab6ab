"""The persister of a partition: holds its lease, and copies it to PostgreSQL as long as it does.

The lease says who should; the epoch in PostgreSQL says who may. A persister that was stopped for longer than its lease
finds its epoch passed and writes nothing, and its trims are refused because the lease is no longer its own. Only what
is committed is ever trimmed.
"""

from __future__ import annotations

import secrets

import anyio
import structlog

from openstream_runtime.actors.copier import Copier
from openstream_runtime.actors.pacing import Retry, jittered, pause
from openstream_runtime.actors.store_writer import StoreMailbox
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import Fenced, LeaseLost, OpenStreamError
from openstream_runtime.domain.positions import Cursor, TopicPartition
from openstream_runtime.domain.topics import Topic
from supervisors import ChildSpec, Context, MailboxError

_log = structlog.get_logger(__name__)

RELEASE = 1.0  # seconds for giving the lease back, grace or not: else others wait for it to end


class Persister:
    """One incarnation of the owner of one partition."""

    def __init__(self, world: World, topic: Topic, at: TopicPartition, writer: StoreMailbox) -> None:
        self._world = world
        self._topic = topic
        self._at = at
        self._writer = writer
        #: Unique for each life: a restarted persister does not mistake its predecessor's lease for its own. What stands
        #: before the colon is the owner everybody sees.
        self._token = f"{world.board.node.id}:{secrets.token_hex(8)}"
        self._state = "waiting for the lease"
        self._copier: Copier | None = None

    @classmethod
    def spec(cls, world: World, topic: Topic, at: TopicPartition, writer: StoreMailbox) -> ChildSpec:
        return ChildSpec(id="persister", actor=lambda: cls(world, topic, at, writer), grace=world.limits.grace(0.15))

    def describe(self) -> dict[str, object]:
        cursor = self._copier.cursor if self._copier else None
        trimmed = self._copier.trimmed if self._copier else None
        return {
            "state": self._state,
            "epoch": cursor.epoch if cursor else None,
            "generation": cursor.generation if cursor else None,
            "persisted_id": str(cursor.position) if cursor else None,
            "trimmed_below": str(trimmed.below) if trimmed else None,
            "trim_bound_by": trimmed.bound_by if trimmed else None,
        }

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        retry = Retry(most=2.0)
        while await self._acquire(ctx):
            self._world.meter.lease("acquired")
            acquired = self._world.clock.monotonic()
            try:
                await self._own(ctx)
            except LeaseLost as lost:
                self._world.meter.lease("lost")
                _log.warning("lease lost", partition=str(self._at), reason=str(lost))
            except Fenced as fenced:
                self._world.meter.lease("fenced")
                _log.warning("fenced off", partition=str(self._at), reason=str(fenced))
            finally:
                self._world.board.held.pop(self._at, None)
                self._copier = None
                self._state = "waiting for the lease"
                with anyio.move_on_after(RELEASE, shield=True):
                    await self._release()
            if self._world.clock.monotonic() - acquired > self._world.limits.lease_ms / 1000:
                retry.succeeded()
            # The lease is free again and could be ours at once; what took the partition away may still be there: a
            # topic that is gone, an owner that goes on writing.
            await pause(ctx, retry.delay())

    # -- the lease

    async def _acquire(self, ctx: Context) -> bool:
        """Wait until the partition is ours; False when asked to stop."""
        lease_ms = self._world.limits.lease_ms
        retry = Retry(most=2.0)
        while not ctx.stopping.is_set():
            try:
                if await self._world.leases.acquire(self._at, self._token, lease_ms):
                    return True
                delay = jittered(min(0.25, lease_ms / 8000))
            except OpenStreamError:
                delay = retry.delay()
            await pause(ctx, delay)
        return False

    async def _release(self) -> None:
        try:
            await self._world.leases.release(self._at, self._token)
            self._world.meter.lease("released")
        except OpenStreamError as error:
            _log.info("lease not released; it ends by itself", partition=str(self._at), error=str(error))

    async def _own(self, ctx: Context) -> None:
        """Hold the lease and copy, side by side: the end of the one is the end of the other."""
        lost: OpenStreamError | None = None
        async with anyio.create_task_group() as fate:

            async def keep() -> None:
                nonlocal lost
                lost = await self._keep()
                fate.cancel_scope.cancel()

            fate.start_soon(keep)
            try:
                await self._copy(ctx)
            except (LeaseLost, Fenced) as error:
                lost = error
            fate.cancel_scope.cancel()
        if lost is not None:
            raise lost

    async def _keep(self) -> LeaseLost:
        """Renew four times a lifetime; why it was lost. An answer that does not come in time counts as lost."""
        lease_ms, clock = self._world.limits.lease_ms, self._world.clock
        patience = lease_ms * 0.8 / 1000
        renewed = clock.monotonic()
        while True:
            await anyio.sleep(jittered(lease_ms / 4000))
            asked, renewing, trouble = clock.monotonic(), None, "no answer in time"
            try:
                with anyio.move_on_after(max(0.0, renewed + patience - asked)):
                    renewing = await self._world.leases.renew(self._at, self._token, lease_ms)
            except OpenStreamError as error:
                trouble = str(error)
            if renewing:
                renewed = asked  # the lease began when we asked, not when the answer came
            elif renewing is False:
                return LeaseLost("somebody else holds it, or Redis forgot it")
            elif clock.monotonic() - renewed >= patience:
                return LeaseLost(f"it could not be renewed: {trouble}")

    # -- copying

    async def _copy(self, ctx: Context) -> None:
        retry = Retry(most=2.0)
        cursor: Cursor | None = None
        while not ctx.stopping.is_set():
            copier: Copier | None = None
            try:
                # The first time this takes the partition; after trouble it reads where the cursor really is.
                cursor = await (self._take() if cursor is None else self._reread(cursor))
                copier = self._copier = Copier(self._world, self._topic, self._at, self._writer, self._token, cursor)
                self._state = "holding"
                await copier.run(ctx)
            except (LeaseLost, Fenced):
                raise
            except (OpenStreamError, MailboxError) as error:
                # Redis or PostgreSQL is away, or a commit's answer was lost. Nothing is trimmed meanwhile.
                if copier is not None and copier.cursor != cursor:
                    retry.succeeded()
                if retry.failures == 0:
                    _log.warning("persisting waits", partition=str(self._at), error=str(error))
                self._state = "waiting for a backend"
                await pause(ctx, retry.delay())

    async def _take(self) -> Cursor:
        cursor = await self._world.store.take(self._topic.id, self._at.partition, self._world.board.node.id)
        if cursor is None:
            raise Fenced("the topic is gone")
        self._world.board.held[self._at] = cursor.epoch
        _log.info("partition taken", partition=str(self._at), epoch=cursor.epoch, persisted_id=str(cursor.position))
        return cursor

    async def _reread(self, cursor: Cursor) -> Cursor:
        now = await self._world.store.cursor(self._topic.id, self._at.partition)
        if now is None or now.epoch != cursor.epoch:
            raise Fenced("another owner has taken it" if now else "the topic is gone")
        return now

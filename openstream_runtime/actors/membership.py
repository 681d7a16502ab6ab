"""Membership: says that this node lives, and publishes which nodes do.

The heartbeat is timed by Redis' clock, so nodes with wrong clocks agree. A draining node leaves at once: the others
take its partitions over while it still finishes.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from openstream_runtime.actors.pacing import Retry, jittered, pause, until_told
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.ports.nodes import NodeInfo
from supervisors import ChildSpec, Context

_log = structlog.get_logger(__name__)


class Membership:
    """One heartbeat for the node."""

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self._members = world.members
        self._tail = world.tail
        self._board = world.board
        #: As long as a lease: a dead node's partitions are free when the others stop counting it.
        self._ttl_ms = world.limits.lease_ms
        #: When the last heartbeat was answered, and until when departures are not believed. Monotonic seconds.
        self._beaten: float | None = None
        self._believe_at = 0.0
        # Somebody came or left: look now and not at the next beat.
        world.watch.on_bell("nodes", lambda _: world.board.changed.tell())

    @classmethod
    def spec(cls, world: World) -> ChildSpec:
        return ChildSpec(id="membership", actor=lambda: cls(world), grace=world.limits.grace(0.05))

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        retry = Retry(most=self._ttl_ms / 4000)
        while not ctx.stopping.is_set() and not self._board.draining:
            changed = self._board.changed.mark()
            try:
                nodes: Sequence[NodeInfo] = await self._members.beat(self._board.node, self._ttl_ms)
            except OpenStreamError as error:
                # The last view stays: without Redis no lease moves either, so nothing is decided by it.
                self._board.redis.failed(error)
                if retry.failures == 0:
                    _log.warning("heartbeat failed", error=str(error))
                await pause(ctx, retry.delay())
                continue
            retry.succeeded()
            self._board.redis.answered()
            nodes = self._believed(nodes)
            joined = {node.id for node in nodes} - {node.id for node in self._board.nodes}
            left = {node.id for node in self._board.nodes} - {node.id for node in nodes}
            self._board.set_nodes(nodes)
            if joined or left:
                _log.info("members changed", joined=sorted(joined), left=sorted(left), live=len(nodes))
            if self._board.node.id in joined:
                await self._announce()
            # Five beats a lifetime: four may be lost before others take over.
            await until_told(ctx, changed, jittered(self._ttl_ms / 5000))
        await self._leave(ctx)

    def _believed(self, nodes: Sequence[NodeInfo]) -> Sequence[NodeInfo]:
        """The live nodes, without hasty conclusions.

        When Redis comes back after a while every heartbeat has ended, and the first node to beat would see only itself
        and take everything over. So for one lifetime of a heartbeat who was there counts as there.
        """
        now, ttl = self._clock.monotonic(), self._ttl_ms / 1000
        if self._beaten is not None and now - self._beaten > ttl / 2:
            self._believe_at = now + ttl
        self._beaten = now
        if now >= self._believe_at:
            return nodes
        alive = {node.id: node for node in [*self._board.nodes, *nodes]}
        return [alive[name] for name in sorted(alive)]

    async def _announce(self) -> None:
        try:
            await self._tail.ring("nodes")
        except OpenStreamError:
            _log.debug("nobody could be told that this node joined; they see it at their next heartbeat")

    async def _leave(self, ctx: Context) -> None:
        try:
            await self._members.leave(self._board.node.id)
            await self._tail.ring("nodes")
        except OpenStreamError as error:
            _log.warning("could not leave; the others take over when the heartbeat ends", error=str(error))
        self._board.set_nodes([node for node in self._board.nodes if node.id != self._board.node.id])
        await ctx.stopping.wait()

"""The catalog keeper: publishes topics and groups as PostgreSQL has them, a second behind at most.

PostgreSQL is the truth, so a lost Redis loses no topic. When it is away the last view stays in force: known topics go
on, unknown ones cannot be looked up.
"""

from __future__ import annotations

import structlog

from openstream_runtime.actors.board import Changed
from openstream_runtime.actors.pacing import Retry, jittered, pause, until_told
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from supervisors import ChildSpec, Context

_log = structlog.get_logger(__name__)

REFRESH = 1.0  # seconds; a bell on the tail makes it sooner


class CatalogKeeper:
    """Keeps the board's topics and groups fresh."""

    def __init__(self, world: World) -> None:
        self._catalog = world.catalog
        self._board = world.board
        self._bell = Changed()
        world.watch.on_bell("topics", lambda _: self._bell.tell())

    @classmethod
    def spec(cls, world: World) -> ChildSpec:
        return ChildSpec(id="catalog", actor=lambda: cls(world), grace=world.limits.grace(0.01))

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        retry = Retry()
        seen = -1
        # A draining node has no use for news, and a call to a PostgreSQL that is away would hold up its stop.
        while not ctx.stopping.is_set() and not self._board.draining:
            rung = self._bell.mark()
            try:
                version = await self._catalog.version()
                if version != seen:
                    since = self._board.view()
                    topics, groups = await self._catalog.topics(), await self._catalog.groups()
                    changed_meanwhile = self._board.set_catalog(topics, groups, since=since)
                    seen = -1 if changed_meanwhile else version
            except OpenStreamError as error:
                self._board.postgres.failed(error)
                if retry.failures == 0:
                    _log.warning("the catalog could not be read", error=str(error))
                await pause(ctx, retry.delay())
                continue
            retry.succeeded()
            self._board.postgres.answered()
            await until_told(ctx, rung, jittered(REFRESH))
        await ctx.stopping.wait()

"""A node without its servers and its port: the real tree and the real gateway on fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from openstream_runtime.actors.group_reader import Message
from openstream_runtime.actors.ingestor import Append
from openstream_runtime.actors.pool import Pool
from openstream_runtime.actors.store_writer import store_mailbox
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.gateway.gateway import Gateway
from openstream_runtime.gateway.groups import reader_pool
from openstream_runtime.gateway.produce import ingest_pool
from openstream_runtime.ports.groups import GroupRead
from openstream_runtime.ports.log import AppendOutcome
from openstream_runtime.tree import FRONT, build_tree
from supervisors import ChildSpec, Context, Restarting, Supervisor, run
from support.actors import Rig


class Front:
    """Stands for the HTTP server."""

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        await ctx.stopping.wait()


class TreeNode:
    """The tree of one node, its pools and its gateway."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.samples = 0
        self.ingestors: Pool[Append, dict[int, AppendOutcome]] = ingest_pool(rig.world)
        self.readers: Pool[Message, GroupRead | int] = reader_pool(rig.world)
        self.gateway = Gateway(
            rig.world,
            self.ingestors,
            self.readers,
            tree=lambda: self.tree.snapshot(),
            exposition=lambda accept: (accept, b""),
        )
        self.tree: Supervisor = build_tree(
            rig.world,
            self.ingestors,
            self.readers,
            store_mailbox(),
            publish=self._publish,
            sweep=self.gateway.sweep,
            maintain=rig.store.maintain,
            front=ChildSpec(id="http", actor=Front, grace=rig.world.limits.grace(FRONT) + 2),
        )
        self.stop = anyio.Event()

    def _publish(self, _: object) -> None:
        self.samples += 1

    async def live(self, **options: Any) -> None:
        await run(self.tree, name="node", stop=self.stop, observer=self.rig.events.append, **options)

    def held(self) -> set[TopicPartition]:
        return set(self.rig.world.board.held)

    def lives(self, path: str) -> int:
        return sum(isinstance(one, Restarting) and one.path == path for one in self.rig.events)


@asynccontextmanager
async def living(*nodes: TreeNode) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for node in nodes:
            await tasks.start(lambda node=node, *, task_status: node.live(task_status=task_status))
        yield
        for node in nodes:
            node.gateway.begin_draining()
            node.stop.set()

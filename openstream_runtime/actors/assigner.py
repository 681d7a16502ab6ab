"""The assigner: this node runs the partitions that rendezvous hashing over the live nodes gives it.

It only says who should own what; who does own it says the lease, and who may write says the epoch in PostgreSQL. So two
nodes with different views for a moment cost a moment, nothing more.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import structlog

from openstream_runtime.actors.board import Board
from openstream_runtime.actors.pacing import jittered, until_told
from openstream_runtime.domain.partitioning import owners_of
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Topic
from supervisors import ChildSpec, Context, Supervisor, SupervisorError

_log = structlog.get_logger(__name__)

RECONCILE = 5.0  # seconds between looks when nothing changed: a restarted supervisor has lost its children

PartitionSpec = Callable[[Topic, TopicPartition], ChildSpec]


class Assigner:
    """Reconciles what this node should run with what it runs."""

    def __init__(
        self, board: Board, partitions: Supervisor, make: PartitionSpec, running: dict[str, int] | None = None
    ) -> None:
        self._board = board
        self._partitions = partitions
        self._make = make
        #: The topic each running child was made for: a topic created again under its name gets new children. Survives
        #: a restart of the assigner, which must not cost a single lease.
        self._running = {} if running is None else running

    @classmethod
    def spec(cls, board: Board, partitions: Supervisor, make: PartitionSpec, *, grace: float) -> ChildSpec:
        running: dict[str, int] = {}
        return ChildSpec(id="assigner", actor=lambda: cls(board, partitions, make, running), grace=grace)

    def describe(self) -> dict[str, object]:
        return {"assigned": len(self._running)}

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        while not ctx.stopping.is_set():
            changed = self._board.changed.mark()
            with ctx.interruptible():
                await self._reconcile()
            await until_told(ctx, changed, jittered(RECONCILE))

    def _wanted(self) -> dict[str, tuple[Topic, TopicPartition]]:
        if self._board.draining:
            return {}
        me = self._board.node.id
        nodes = frozenset(node.id for node in self._board.nodes)
        return {
            str(at): (topic, at)
            for topic in self._board.topics.values()
            if not topic.deleting
            for at, owner in zip(topic.all_partitions(), owners_of(topic.name, topic.partitions, nodes), strict=False)
            if owner == me
        }

    async def _reconcile(self) -> None:
        wanted = self._wanted()
        present = set(self._partitions.children)
        for gone in set(self._running) - present:
            del self._running[gone]
        surplus = [one for one in present if one not in wanted or self._running.get(one) != wanted[one][0].id]
        async with anyio.create_task_group() as removals:  # side by side: their graces do not add up
            for one in surplus:
                removals.start_soon(self._remove, one)
        missing = [one for one in wanted if one not in self._running]
        for one in missing:
            topic, at = wanted[one]
            self._running[one] = topic.id  # first: whoever breaks in here, the child comes up all the same
            try:
                await self._partitions.add(self._make(topic, at))
            except SupervisorError as error:
                _log.warning("partition not started; the next round tries again", partition=one, error=str(error))
                self._running.pop(one, None)
        if surplus or missing:
            _log.info("partitions reassigned", added=len(missing), removed=len(surplus), running=len(self._running))

    async def _remove(self, child: str) -> None:
        try:
            await self._partitions.remove(child)
        except SupervisorError as error:
            _log.debug("a partition was gone before it was removed", partition=child, error=str(error))
        self._running.pop(child, None)

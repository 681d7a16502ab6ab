"""The whole supervision tree of a node. Start order is top to bottom, stop order bottom to top."""

from __future__ import annotations

from collections.abc import Callable

from openstream_runtime.actors.assigner import Assigner
from openstream_runtime.actors.auditor import Auditor
from openstream_runtime.actors.board import Sample
from openstream_runtime.actors.broadcaster import Broadcaster
from openstream_runtime.actors.catalog import CatalogKeeper
from openstream_runtime.actors.checkpointer import Checkpointer
from openstream_runtime.actors.confirmer import Confirmer
from openstream_runtime.actors.group_reader import Message
from openstream_runtime.actors.ingestor import Append
from openstream_runtime.actors.janitor import Chore, Janitor, Upkeep
from openstream_runtime.actors.membership import Membership
from openstream_runtime.actors.persister import Persister
from openstream_runtime.actors.pool import Pool
from openstream_runtime.actors.reaper import Reaper
from openstream_runtime.actors.replayer import Replayer
from openstream_runtime.actors.sampler import Sampler
from openstream_runtime.actors.store_writer import StoreMailbox, StoreWriter
from openstream_runtime.actors.tailer import Tailer
from openstream_runtime.actors.world import World
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.groups import GroupRead
from openstream_runtime.ports.log import AppendOutcome
from supervisors import Backoff, ChildSpec, Supervisor

# Budgets multiply up the tree: two restarts of a persister, two of its partition, three below the root are 36 lives.
# One that crashes at once takes the node down in about twenty seconds, one that lives for some seconds in a few minutes
# (the windows are wide enough for that), and one that crashes now and then never does. The upper levels begin with
# longer pauses: what troubles every partition for a moment must not end every node.
#: The front's share of the node's grace, for requests in flight; two seconds more until it is given up.
FRONT = 0.2
RESTARTS = 3
PARTITION_RESTARTS = 2
SLOWLY = Backoff(base=1.0)


def build_tree(
    world: World,
    ingestors: Pool[Append, dict[int, AppendOutcome]],
    readers: Pool[Message, GroupRead | int],
    writer: StoreMailbox,
    *,
    publish: Callable[[Sample], None],
    sweep: Chore,
    maintain: Upkeep,
    front: ChildSpec,
) -> Supervisor:
    """The root. `front` is the HTTP server: last up, first down."""
    limits = world.limits
    partitions = Supervisor(max_restarts=PARTITION_RESTARTS, within=120.0, backoff=SLOWLY, stop_together=True)

    def partitions_anew() -> Supervisor:
        world.board.changed.tell()  # restarted it has no children: the assigner gives them back at once
        return partitions

    def partition(topic: Topic, at: TopicPartition) -> ChildSpec:
        return partition_spec(world, topic, at, writer)

    return Supervisor(
        [
            Sampler.spec(world, publish),
            Membership.spec(world),
            CatalogKeeper.spec(world),
            Tailer.spec(world.tail, world.watch, grace=limits.grace(0.02)),
            StoreWriter.spec(world, writer),
            ChildSpec(id="partitions", actor=partitions_anew),
            Assigner.spec(world.board, partitions, partition, grace=limits.grace(0.04)),
            Janitor.spec(world, sweep, maintain),
            Checkpointer.spec(world),
            Replayer.spec(world),
            ingestors.spec(),
            Confirmer.spec(world),
            Auditor.spec(world),
            readers.spec(),
            Broadcaster.spec(world),
            front,
        ],
        max_restarts=RESTARTS,
        within=240.0,
        backoff=SLOWLY,
    )


def partition_spec(world: World, topic: Topic, at: TopicPartition, writer: StoreMailbox) -> ChildSpec:
    """`orders/3`: its persister and its reaper, which come and go together and fail apart."""
    children = [Persister.spec(world, topic, at, writer), Reaper.spec(world, topic, at)]
    return ChildSpec(
        id=str(at),
        actor=lambda: Supervisor(children, max_restarts=PARTITION_RESTARTS, within=60.0, stop_together=True),
    )

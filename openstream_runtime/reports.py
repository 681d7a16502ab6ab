"""What a node reports to its metrics: the cluster as its board has it, and its own state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from openstream_runtime.actors.board import Board, Sample
from openstream_runtime.actors.pool import Pool
from openstream_runtime.actors.store_writer import StoreMailbox
from openstream_runtime.actors.world import World
from openstream_runtime.telemetry.node_gauges import NodeState
from openstream_runtime.telemetry.sampled import ClusterSample


def cluster_sample(sample: Sample, board: Board) -> ClusterSample:
    """The sampler's last look, and who we are among those who looked."""
    return ClusterSample(
        stats=sample.streams,
        memory={"used_memory": sample.used_memory, "maxmemory": sample.maxmemory},
        nodes=[node.id for node in board.nodes],
        me=board.node.id,
        unpersisted_lag=sample.unpersisted_lag,
        group_lag=sample.group_lag,
    )


def state_of(
    world: World,
    ingestors: Pool[Any, Any],
    readers: Pool[Any, Any],
    writer: StoreMailbox,
    connections: Callable[[], Mapping[str, int]],
) -> Callable[[], NodeState]:
    """How to ask this node for its state. Never waits."""
    board = world.board

    def state() -> NodeState:
        mailboxes = {f"ingestion/{key}": (box.depth, box.bytes) for key, box in ingestors.mailboxes()}
        mailboxes |= {f"groups/{key}": (box.depth, box.bytes) for key, box in readers.mailboxes()}
        return NodeState(
            mailboxes=mailboxes | {"store-writer": (writer.depth, writer.bytes)},
            mailbox_limit=world.limits.mailbox_bytes,
            backends={"redis": board.redis.ok, "postgres": board.postgres.ok},
            held=len(board.held),
            draining=board.draining,
            pool=connections(),
        )

    return state

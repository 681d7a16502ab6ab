"""What people and programs see of the node: the summary, the cluster, readiness. All from what actors published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from openstream_runtime.actors.world import World
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.gateway.results import Check
from openstream_runtime.ports.log import StreamStats
from openstream_runtime.ports.nodes import NodeInfo
from supervisors import NodeSnapshot


def stream_key(at: TopicPartition) -> str:
    """The name people know a partition's stream by (SEED.md fixed it)."""
    return f"os:stream:{at.topic}:{at.partition}"


class Watching:
    """Renders the board. Never waits."""

    def __init__(self, world: World, tree: Callable[[], NodeSnapshot]) -> None:
        self._world = world
        self._tree = tree

    def summary(self, allows: Callable[[str], bool]) -> dict[str, Any]:
        board = self._world.board
        topics = [topic for name, topic in sorted(board.topics.items()) if allows(name) and not topic.deleting]
        sample = board.sample
        return {
            "topics": [self._topic(topic) for topic in topics],
            "redis": {
                "ok": board.redis.ok,
                "used_memory": sample.used_memory,
                "used_memory_human": human_bytes(sample.used_memory),
                "maxmemory": sample.maxmemory,
            },
            "postgres": {"ok": board.postgres.ok, "detail": board.postgres.detail},
            "nodes": self.nodes(),
            "sampled_age_ms": self.age_ms(),
        }

    def cluster(self) -> dict[str, Any]:
        board = self._world.board
        partitions = []
        for at in board.live_partitions():
            stats, cursor = board.sample.streams.get(at), board.sample.cursors.get(at)
            partitions.append(
                {
                    "topic": at.topic,
                    "partition": at.partition,
                    "owner": board.node.id if at in board.held else stats.owner if stats else None,
                    "epoch": board.held.get(at) or (cursor.epoch if cursor else None),
                    "generation": cursor.generation if cursor else None,
                }
            )
        return {
            "node": board.node.id,
            "draining": board.draining,
            "nodes": self.nodes(),
            "partitions": partitions,
            "tree": self._tree().to_dict(),
            "sampled_age_ms": self.age_ms(),
        }

    def readiness(self) -> list[Check]:
        board = self._world.board
        member = any(node.id == board.node.id for node in board.nodes)
        return [
            Check("redis", board.redis.ok, board.redis.detail),
            Check("postgres", board.postgres.ok, board.postgres.detail),
            Check("member", member, "" if member else "no heartbeat yet"),
            Check("not draining", not board.draining, "the node is draining" if board.draining else ""),
        ]

    def age_ms(self) -> int | None:
        """How old the sample is; None before the first."""
        taken_at = self._world.board.sample.taken_at
        return round(1000 * (self._world.clock.monotonic() - taken_at)) if taken_at else None

    def nodes(self) -> list[dict[str, Any]]:
        return [_node(node) for node in self._world.board.nodes]

    def _topic(self, topic: Topic) -> dict[str, Any]:
        return {
            "topic": topic.name,
            "partitions": topic.partitions,
            "partition_stats": [self._partition(at) for at in topic.all_partitions()],
        }

    def _partition(self, at: TopicPartition) -> dict[str, Any]:
        sample = self._world.board.sample
        stats, cursor = sample.streams.get(at), sample.cursors.get(at)
        return {
            "partition": at.partition,
            "stream": stream_key(at),
            "length": stats.length if stats else 0,
            "last_id": str(stats.last) if stats else "0-0",
            "persisted_id": str(cursor.position) if cursor else "0-0",
            "unpersisted": stats.unpersisted if stats else 0,
            "owner": stats.owner if stats else None,
            "unpersisted_ms": round(1000 * sample.unpersisted_lag.get(at, 0.0)),
            "groups": _groups(stats, sample.group_lag.get(at, {})) if stats else [],
        }


def _node(node: NodeInfo) -> dict[str, Any]:
    return {"id": node.id, "url": node.url, "started_ms": node.started_ms, "version": node.version}


def _groups(stats: StreamStats, lags: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "name": group.name,
            "consumers": group.consumers,
            "pending": group.pending,
            "lag": group.lag,
            "lag_ms": round(1000 * lags.get(group.name, 0.0)),
            "last-delivered-id": str(group.last_delivered),
            "entries_read": group.entries_read,
        }
        for group in stats.groups
    ]


def human_bytes(size: int) -> str:
    """`1.50M`, as Redis writes it."""
    amount = float(size)
    for unit in ("B", "K", "M", "G", "T"):
        if amount < 1024 or unit == "T":
            break
        amount /= 1024
    return f"{size}B" if unit == "B" else f"{amount:.2f}{unit}"

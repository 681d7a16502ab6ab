"""Live: the node in numbers that move, for whoever watches it. Computed once a sample, however many watch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio

from openstream_runtime.actors.board import Changed, Sample
from openstream_runtime.actors.world import World
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.pulse import Pulse, quantile
from openstream_runtime.domain.topics import Group, Topic
from openstream_runtime.gateway.flow import GroupFlow, TopicFlow, flows
from openstream_runtime.gateway.watching import Watching
from supervisors import NodeSnapshot

#: Samples remembered for the charts: a quarter of an hour, at one every two seconds.
REMEMBERED = 450
#: Samples over which the trend of a group's lag is told.
TREND = 30
#: What a point of the history holds, in this order.
POINT = ("at_ms", "in", "out", "persisted", "unpersisted", "lag", "p50_ms", "p99_ms", "rejected", "used_memory")


class Live:
    """Told of every sample; renders it when asked. Never waits."""

    def __init__(
        self, world: World, watching: Watching, tree: Callable[[], NodeSnapshot], pulse: Callable[[], Pulse]
    ) -> None:
        self._world = world
        self._watching = watching
        self._tree = tree
        self._take_pulse = pulse
        self._sample = Sample(taken_at=0.0)
        self._pulse = Pulse()
        self._flows: Mapping[str, TopicFlow] = {}
        #: p50 and p99 of appends in milliseconds, and refusals a second, of this node since the last sample.
        self._append: tuple[float | None, float | None] = (None, None)
        self._rejected_per_s = 0.0
        self._history: deque[list[float | int | None]] = deque(maxlen=REMEMBERED)
        #: (monotonic seconds, lag) of each group.
        self._lags: dict[tuple[str, str], deque[tuple[float, int]]] = {}
        #: Told of every sample, and of draining.
        self._news = Changed()
        self._restarts: tuple[Sample, list[dict[str, Any]]] | None = None

    def observe(self, sample: Sample) -> None:
        """The sampler looked around."""
        pulse = self._take_pulse()
        elapsed = sample.taken_at - self._sample.taken_at
        self._flows = flows(self._sample, sample)
        p50, p99 = (quantile(self._pulse.appends, pulse.appends, share) for share in (0.5, 0.99))
        self._append = (_ms(p50), _ms(p99))
        refused = sum(pulse.rejected.values()) - sum(self._pulse.rejected.values())
        self._rejected_per_s = round(refused / elapsed, 2) if self._sample.taken_at and elapsed > 0 else 0.0
        self._sample, self._pulse = sample, pulse
        self._remember()
        self._news.tell()

    def drain(self) -> None:
        """Whoever waits for news is not to wait for the next sample."""
        self._news.tell()

    def mark(self) -> anyio.Event:
        """Take it before the snapshot that the next one is to follow: no sample falls in between."""
        return self._news.mark()

    async def news(self, since: anyio.Event, seconds: float) -> bool:
        """Until there is a newer sample, or for so many seconds; False, and at once, when the node is draining."""
        if not self._world.board.draining:
            with anyio.move_on_after(seconds):
                await since.wait()
        return not self._world.board.draining

    def history(self) -> dict[str, Any]:
        """The last quarter of an hour of the whole cluster, as this node saw it."""
        return {"fields": POINT, "points": list(self._history)}

    def snapshot(self, allows: Callable[[str], bool], *, topic: str | None, everything: bool) -> dict[str, Any]:
        """The topics for which `allows(name)` holds; the partitions of `topic`, column by column; and, for whoever
        may see `everything`, which actors were started again."""
        board, limits = self._world.board, self._world.limits
        sample = board.sample
        topics = [one for name, one in sorted(board.topics.items()) if allows(name) and not one.deleting]
        snapshot: dict[str, Any] = {
            "node": board.node.id,
            "at_ms": self._world.clock.now_ms(),
            "sampled_age_ms": self._watching.age_ms(),
            "draining": board.draining,
            "ready": [
                {"name": check.name, "ok": check.ok, "detail": check.detail} for check in self._watching.readiness()
            ],
            "append": {"p50_ms": self._append[0], "p99_ms": self._append[1]},
            "rejected_per_s": self._rejected_per_s,
            "rejected": dict(self._pulse.rejected),
            "redis": {"ok": board.redis.ok, "used_memory": sample.used_memory, "maxmemory": sample.maxmemory},
            "postgres": {"ok": board.postgres.ok, "detail": board.postgres.detail},
            "nodes": self._watching.nodes(),
            "limits": {
                "max_stream_len": limits.max_stream_len,
                "max_unpersisted": limits.max_unpersisted,
                "redis_memory": limits.redis_memory,
                "mailbox_bytes": limits.mailbox_bytes,
                "retention_ms": limits.retention_ms,
                "claim_idle_ms": limits.claim_idle_ms,
            },
            "topics": [self._topic(one) for one in topics],
        }
        if everything:
            snapshot["restarts"] = self._started_again()
        shown = board.topics.get(topic) if topic is not None and allows(topic) else None
        if shown is not None and not shown.deleting:
            snapshot["detail"] = self._detail(shown)
        return snapshot

    def _topic(self, topic: Topic) -> dict[str, Any]:
        flow = self._flows.get(topic.name) or TopicFlow()
        groups = sorted(self._world.board.groups_of(topic), key=lambda group: group.name)
        return {
            "topic": topic.name,
            "partitions": topic.partitions,
            "length": flow.length,
            "unpersisted": flow.unpersisted,
            "longest": flow.longest,
            "most_unpersisted": flow.most_unpersisted,
            "max_stream_len": topic.settings.max_stream_len,
            "in_per_s": round(flow.in_per_s, 2),
            "persisted_per_s": round(flow.persisted_per_s, 2),
            "groups": [self._group(group, flow.groups.get(group.name) or GroupFlow()) for group in groups],
        }

    def _group(self, group: Group, flow: GroupFlow) -> dict[str, Any]:
        return {
            "name": group.name,
            "paused": group.settings.paused,
            "consumers": flow.consumers,
            "pending": flow.pending,
            "lag": flow.lag,
            "lag_unknown": flow.lag_unknown,
            "lag_ms": flow.lag_ms,
            "out_per_s": round(flow.out_per_s, 2),
            "lag_per_s": self._trend(group.topic, group.name),
            "lags": [lag for _, lag in self._lags.get((group.topic, group.name), ())],
        }

    def _trend(self, topic: str, group: str) -> float:
        """By how much the lag grew a second: the later half of what is remembered against the earlier one, so that
        the sawtooth of a consumer that reads in batches is no trend."""
        lags = list(self._lags.get((topic, group), ()))
        half = len(lags) // 2
        if half == 0:
            return 0.0
        (early, before), (late, after) = _mean(lags[:half]), _mean(lags[-half:])
        return round((after - before) / (late - early), 2) if late > early else 0.0

    def _detail(self, topic: Topic) -> dict[str, Any]:
        sample, flow = self._world.board.sample, self._flows.get(topic.name)
        all_of_it = topic.all_partitions()
        stats = [sample.streams.get(at) for at in all_of_it]
        return {
            "topic": topic.name,
            "length": [one.length if one else 0 for one in stats],
            "unpersisted": [one.unpersisted if one else 0 for one in stats],
            "last_id": [str(one.last) if one else "0-0" for one in stats],
            "persisted_id": [self._persisted(at) for at in all_of_it],
            "owner": [one.owner if one else None for one in stats],
            "in_per_s": [round(flow.by_partition.get(at.partition, 0.0), 2) if flow else 0.0 for at in all_of_it],
        }

    def _persisted(self, at: TopicPartition) -> str:
        cursor = self._world.board.sample.cursors.get(at)
        return str(cursor.position) if cursor else "0-0"

    def _remember(self) -> None:
        sample = self._sample
        groups = {
            (topic, name): group.lag for topic, flow in self._flows.items() for name, group in flow.groups.items()
        }
        self._lags = {key: self._lags.get(key) or deque(maxlen=TREND) for key in groups}
        for key, lag in groups.items():
            self._lags[key].append((sample.taken_at, lag))
        every = self._flows.values()
        out = sum(group.out_per_s for flow in every for group in flow.groups.values())
        self._history.append(
            [
                self._world.clock.now_ms(),
                round(sum(flow.in_per_s for flow in every), 1),
                round(out, 1),
                round(sum(flow.persisted_per_s for flow in every), 1),
                sum(flow.unpersisted for flow in every),
                sum(groups.values()),
                *self._append,
                self._rejected_per_s,
                sample.used_memory,
            ]
        )

    def _started_again(self) -> list[dict[str, Any]]:
        """Actors of this node that ended with an error or were started again; walked once a sample."""
        if self._restarts is None or self._restarts[0] is not self._sample:
            self._restarts = (self._sample, _restarted(self._tree(), ""))
        return self._restarts[1]


def _restarted(node: NodeSnapshot, above: str) -> list[dict[str, Any]]:
    path = f"{above}/{node.id}" if above else node.id
    found = []
    if node.restarts or node.last_error:
        found.append(
            {
                "path": path,
                "state": node.state.value,
                "restarts": node.restarts,
                "last_error": node.last_error,
                "started_at_ms": round(node.started_at * 1000) if node.started_at else None,
            }
        )
    for child in node.children:
        found += _restarted(child, path)
    return found


def _mean(lags: Sequence[tuple[float, int]]) -> tuple[float, float]:
    return sum(at for at, _ in lags) / len(lags), sum(lag for _, lag in lags) / len(lags)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)

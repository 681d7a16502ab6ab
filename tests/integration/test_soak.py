"""Half an hour of an ordinary day: nothing grows that should stand still. `MINUTES=5` for a shorter one."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
from anyio import to_thread

from openstream_ops.servers import EmbeddedServers
from support.cluster import Cluster
from support.history import History
from support.load import Plan, run_load
from support.nodes import Nodes
from support.partitions import redis_client
from support.verdict import verdict

MINUTES = float(os.environ.get("MINUTES", "30"))
pytestmark = [
    pytest.mark.anyio, pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(int(MINUTES * 60) + 300),
]  # fmt: skip

EVERY_S = 5.0
#: What is loaded, cached and compiled in the first third of the time is not looked at.
WARM = 1 / 3
MB = 1 << 20
#: Megabytes a minute.
SLOPE = 1.0
#: Connections come and go with what clients happen to do.
SWAY = 12


@dataclass(slots=True)
class Series:
    """Numbers over time (seconds)."""

    points: list[tuple[float, float]] = field(default_factory=list)

    def later(self) -> list[tuple[float, float]]:
        begin = self.points[0][0] + (self.points[-1][0] - self.points[0][0]) * WARM
        return [one for one in self.points if one[0] >= begin]

    def slope(self) -> float:
        """By least squares, a minute."""
        points = self.later()
        mid_x, mid_y = (sum(one[axis] for one in points) / len(points) for axis in (0, 1))
        return 60 * sum((x - mid_x) * (y - mid_y) for x, y in points) / sum((x - mid_x) ** 2 for x, _ in points)

    def halves(self) -> tuple[float, float]:
        """The highest of each half."""
        values = [value for _, value in self.later()]
        return max(values[: len(values) // 2]), max(values[len(values) // 2 :])


async def test_half_an_hour_leaves_nothing_behind(own_servers: EmbeddedServers, tmp_path: Path) -> None:
    history = History("soak")
    plan = Plan(
        events=10**9, producers=4, rate=300, batch=20, groups=("g", "h"), topic_settings={"retention_ms": 2_000},
        deadline_s=MINUTES * 60 + 120, while_during=True, progress_s=60, claim_every_s=5.0,
    )  # fmt: skip
    found: dict[str, Series] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, Series()).points.append((time.monotonic(), value))

    with Cluster(own_servers, tmp_path, nodes=2, environment={"OPENSTREAM_LOG_LEVEL": "warning"}) as cluster:
        nodes_ = [psutil.Process(cluster.pid(number)) for number in range(2)]

        def look() -> None:
            for number, process in enumerate(nodes_):
                note(f"memory of node {number}", process.memory_info().rss / MB)
                note(f"files of node {number}", process.num_fds())
                note(f"threads of node {number}", process.num_threads())
            with psycopg.connect(own_servers.database_url) as postgres, redis_client(own_servers.redis_url) as redis:
                row = postgres.execute("select count(*) from pg_stat_activity").fetchone()
                assert row is not None
                note("connections of PostgreSQL", row[0])
                note("connections of Redis", redis.info("clients")["connected_clients"])

        async def watch() -> None:
            ends = time.monotonic() + MINUTES * 60
            while time.monotonic() < ends:
                await to_thread.run_sync(look)
                await anyio.sleep(EVERY_S)

        async with Nodes(cluster.urls, cluster.token(ttl_s=86_400)) as nodes:
            assert await run_load(history, nodes, plan, watch)
        report = await to_thread.run_sync(lambda: verdict(own_servers, history, plan))
    for name, series in found.items():
        first, second = series.halves()
        print(f"{name}: {series.slope():+.3f} a minute; at most {first:.1f}, then {second:.1f}")
    assert not report.violations, str(report)
    for name, series in found.items():
        first, second = series.halves()
        if name.startswith("memory"):
            assert series.slope() < SLOPE, name
        else:
            assert second <= first + SWAY, name

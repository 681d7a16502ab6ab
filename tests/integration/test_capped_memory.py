"""Far more events than Redis may hold, with a group that reads all along and one that begins after the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import Cluster
from support.history import History, Outcome
from support.load import Consumer, Plan, prepare, run_load
from support.nodes import Nodes
from support.partitions import redis_client
from support.verdict import verdict

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1_800)]

MB = 1 << 20
ROOM = 4  # MB
FILL = 1_900  # bytes of a payload beside what says who sent it: events of about 2 KB
LAST_S = 1_500.0


@pytest.mark.parametrize(
    ("cap", "total"), [(24, 80), pytest.param(64, 2_048, marks=pytest.mark.chaos)], ids=["80 MB in 24", "2 GB in 64"]
)
async def test_two_groups_get_everything_once_and_redis_stays_below_its_cap(
    own_servers: EmbeddedServers, tmp_path: Path, cap: int, total: int
) -> None:
    history = History("capped")
    events = total * MB // 2_048
    plan = Plan(
        events=events, fill=FILL, groups=("early",), deadline_s=LAST_S, quiet_s=0.5,  progress_s=20,
    )  # fmt: skip
    # What is under way when the bound is reached still comes in: some megabytes, however small the cap.
    environment = {"OPENSTREAM_LOG_LEVEL": "info", "OPENSTREAM_MAX_REDIS_MEMORY": f"{(cap - ROOM) / cap:.2f}"}
    with redis_client(own_servers.redis_url) as admin:
        admin.config_set("maxmemory", cap * MB)
        highest = all_of_it = 0

        async def watch() -> None:
            nonlocal highest, all_of_it
            while True:
                info: Any = admin.info("memory")
                # What it keeps: requests and answers under way come and go, and so does what its append-only file still
                # has to be given.
                passing = int(info["mem_clients_normal"]) + int(info["mem_not_counted_for_evict"])
                highest = max(highest, int(info["used_memory"]) - passing)
                all_of_it = max(all_of_it, int(info["used_memory"]))
                await anyio.sleep(0.1)

        with Cluster(own_servers, tmp_path, nodes=2, environment=environment) as cluster:
            async with Nodes(cluster.urls, cluster.token()) as nodes, anyio.create_task_group() as watching:
                watching.start_soon(watch)
                assert await run_load(history, nodes, plan)
                late = Plan(groups=("late",))
                began = time.monotonic()
                await prepare(history, nodes, late, began + 30)
                await read_to_the_end(history, nodes)
                history.note(f"the late group had {events} events after {time.monotonic() - began:.1f} s")
                watching.cancel_scope.cancel()
            history.note(f"Redis kept {highest / MB:.1f} MB at most, {all_of_it / MB:.1f} MB with all under way")
            reasons = rejections(cluster)
        plan.groups = ("early", "late")
        report = await anyio.to_thread.run_sync(lambda: verdict(own_servers, history, plan, calm=True))
    assert not report.violations, str(report)
    assert highest <= cap * MB
    # Who was told to wait was told so because PostgreSQL was not fast enough, and for nothing else.
    assert reasons <= {"redis_memory", "unpersisted"}, reasons


async def read_to_the_end(history: History, nodes: Nodes) -> None:
    stop, deadline = anyio.Event(), time.monotonic() + LAST_S
    async with anyio.create_task_group() as reading:
        for number in range(4):
            reading.start_soon(Consumer(history, nodes, "late", f"l{number}").run, deadline, stop)
        wanted = set(history.with_outcome(Outcome.OK))
        while not wanted <= history.delivered_to("late"):
            assert time.monotonic() < deadline
            await anyio.sleep(0.5)
        stop.set()


def rejections(cluster: Cluster) -> set[str]:
    """Why requests were refused, on any node."""
    found = set()
    for number in range(2):
        text = Client(cluster.url(number)).get("/metrics").body.decode()
        for line in text.splitlines():
            if line.startswith("openstream_rejected_total{") and float(line.rpartition(" ")[2]) > 0:
                found.add(line.partition('reason="')[2].partition('"')[0])
    return found

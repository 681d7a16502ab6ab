"""The main job: 8 producers, 4 consumers of one group, 2 or 3 nodes. Nothing may be lost, doubled or reordered,
whatever happens in the middle. `make chaos-long` does it at full size, 200,000 events."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from openstream_ops.servers import EmbeddedServers
from support.cluster import Cluster
from support.history import History
from support.load import Plan, run_load
from support.nodes import Nodes
from support.partitions import count_stored, holders, lengths, wait_for
from support.verdict import verdict

at_both_sizes = pytest.mark.parametrize(
    "events", [pytest.param(40_000, id="40,000"), pytest.param(200_000, id="200,000", marks=pytest.mark.chaos)]
)
LEASE_S = 2.0
CLAIM_IDLE_MS = 3_000
ENVIRONMENT = {
    # Long enough for an entry to be claimed from a dead consumer's hands, short enough to see trimming at work.
    "OPENSTREAM_RETENTION_MS": "12000",
    "OPENSTREAM_LEASE_MS": str(int(LEASE_S * 1000)),
    "OPENSTREAM_CLAIM_IDLE_MS": str(CLAIM_IDLE_MS),
    "OPENSTREAM_LOG_LEVEL": "info",
}
#: Where nobody dies nothing may be taken from a consumer's hands, however slow the machine.
PATIENT = ENVIRONMENT | {"OPENSTREAM_CLAIM_IDLE_MS": "60000"}

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


def statuses(cluster: Cluster, number: int) -> dict[str, int]:
    """How a node's produce requests ended, by status."""
    _, body = cluster.request(number, "GET", "/metrics")
    prefix = 'openstream_ingest_requests_total{status="'
    lines = [line[len(prefix) :] for line in body.decode().splitlines() if line.startswith(prefix)]
    return {line[:3]: int(float(line.rpartition(" ")[2])) for line in lines}


@at_both_sizes
async def test_every_event_is_consumed_and_stored_once_in_order_and_redis_is_trimmed_behind_the_watermark(
    own_servers: EmbeddedServers, tmp_path: Path, events: int
) -> None:
    history, plan = History("calm"), Plan(events=events, deadline_s=200)
    with Cluster(own_servers, tmp_path, nodes=2, environment=PATIENT) as cluster:
        async with Nodes(cluster.urls, cluster.token()) as nodes:
            drained = await run_load(history, nodes, plan)
        report = verdict(own_servers, history, plan, calm=True)
        assert not report.violations, str(report)
        assert drained, str(report)
        assert set(statuses(cluster, 0)) | set(statuses(cluster, 1)) == {"200"}
        wait_for(
            lambda: sum(lengths(own_servers.redis_url, history.topic, plan.partitions)) == 0,
            "everything persisted and past its retention is trimmed",
            60,
        )
        assert count_stored(own_servers.database_url, history.topic) == events


@at_both_sizes
async def test_postgresql_may_be_away_for_a_while_and_nobody_notices(
    own_servers: EmbeddedServers, tmp_path: Path, events: int
) -> None:
    history, plan = History("away"), Plan(events=events, deadline_s=200)

    async def stop_postgresql() -> None:
        await anyio.sleep(1)
        await anyio.to_thread.run_sync(own_servers.postgres.stop)
        history.note("postgresql stopped")
        await anyio.sleep(events / 10_000)
        await anyio.to_thread.run_sync(own_servers.postgres.start)
        history.note("postgresql started")

    with Cluster(own_servers, tmp_path, nodes=2, environment=PATIENT) as cluster:
        async with Nodes(cluster.urls, cluster.token()) as nodes:
            drained = await run_load(history, nodes, plan, stop_postgresql)
        report = verdict(own_servers, history, plan, calm=True)
        assert not report.violations, str(report)
        assert drained, str(report)
        # 25,000 events a partition stay below every bound, so not one request may have been refused.
        assert set(statuses(cluster, 0)) | set(statuses(cluster, 1)) == {"200"}


@at_both_sizes
async def test_a_node_killed_in_the_middle_costs_nothing_and_its_partitions_are_owned_again_in_time(
    own_servers: EmbeddedServers, tmp_path: Path, events: int
) -> None:
    history = History("killed")
    plan = Plan(
        events=events, deadline_s=200, claim_every_s=2.0, claim_idle_ms=CLAIM_IDLE_MS, quiet_s=2 * CLAIM_IDLE_MS / 1000
    )
    took: list[float] = []
    with Cluster(own_servers, tmp_path, nodes=3, environment=ENVIRONMENT) as cluster:

        def orphans(dead: set[str]) -> bool:
            now = holders(own_servers.redis_url, history.topic, plan.partitions)
            return any(holder is None or holder in dead for holder in now)

        async def kill_a_node() -> None:
            await anyio.sleep(events / 50_000)
            _, body = await anyio.to_thread.run_sync(
                lambda: cluster.request(2, "GET", "/v1/cluster", token=cluster.token())
            )
            dead = {_node_of(body)}
            await anyio.to_thread.run_sync(cluster.kill, 2)
            history.note(f"killed {dead}")
            took.append(
                await anyio.to_thread.run_sync(
                    lambda: wait_for(lambda: not orphans(dead), "every partition has a living owner", 30)
                )
            )
            history.note(f"owned again after {took[0]:.1f} s")

        async with Nodes(cluster.urls, cluster.token()) as nodes:
            drained = await run_load(history, nodes, plan, kill_a_node)
        report = verdict(own_servers, history, plan, calm=False)
        assert not report.violations, str(report)
        assert drained, str(report)
        assert took[0] < LEASE_S + 2.0, str(report)


def _node_of(cluster_body: bytes) -> str:
    return str(json.loads(cluster_body)["node"])

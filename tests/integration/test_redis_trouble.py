"""Redis paused, killed, emptied and cut off in the middle of appends: what was acknowledged stays, nothing doubles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import Cluster
from support.history import History
from support.load import Plan, run_load
from support.nodes import Nodes
from support.partitions import checkpointed, count_stored, last_ids, redis_client, stored, wait_for
from support.tcp_proxy import tcp_proxy
from support.verdict import verdict

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

CLAIM_IDLE_MS = 2_000
ENVIRONMENT = {"OPENSTREAM_LOG_LEVEL": "info", "OPENSTREAM_CLAIM_IDLE_MS": str(CLAIM_IDLE_MS)}
#: Longer than a node waits for Redis' answer to a write (3 s).
PAUSE_S = 6.0


def load(events: int) -> Plan:
    """About 5 s of it; what a lost answer left with a consumer comes back, and is waited for."""
    idle_s = CLAIM_IDLE_MS / 1000
    return Plan(
        events=events, rate=6_000, deadline_s=100, claim_every_s=1.0, claim_idle_ms=CLAIM_IDLE_MS, quiet_s=2 * idle_s
    )


def position(text: str) -> tuple[int, int]:
    ms, _, seq = text.partition("-")
    return int(ms), int(seq)


async def test_a_redis_that_stalls_leaves_outcomes_unknown_and_nothing_doubled(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    history = History("stalled")
    plan = load(40_000)
    with Cluster(own_servers, tmp_path, nodes=2, environment=ENVIRONMENT) as cluster:

        async def stall() -> None:
            await anyio.sleep(2)
            own_servers.valkey.pause()
            history.note("valkey stands still")
            await anyio.sleep(PAUSE_S)
            own_servers.valkey.resume()
            history.note("valkey goes on")

        async with Nodes(cluster.urls, cluster.token()) as nodes:
            drained = await run_load(history, nodes, plan, stall)
        report = verdict(own_servers, history, plan)
        assert not report.violations, str(report)
        assert drained, str(report)
        # It was long enough for answers to be lost, and none of those appends was sent a second time.
        assert report.figures["unknown"] > 0, str(report)
        assert all(cluster.is_running(number) for number in (0, 1))


async def test_a_redis_that_is_killed_and_comes_back_with_its_file_loses_nothing_acknowledged(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    history = History("killed")
    plan = load(40_000)
    with Cluster(own_servers, tmp_path, nodes=2, environment=ENVIRONMENT) as cluster:

        async def kill() -> None:
            await anyio.sleep(2)
            await anyio.to_thread.run_sync(own_servers.valkey.kill)
            history.note("valkey killed")
            await anyio.sleep(2)
            await anyio.to_thread.run_sync(own_servers.valkey.start)
            history.note("valkey started")

        async with Nodes(cluster.urls, cluster.token()) as nodes:
            drained = await run_load(history, nodes, plan, kill)
        # The process died, not the machine: the kernel still had what the append-only file had been given. What was
        # acknowledged to consumers is written with it, but an ack may stand behind the last write that was synced.
        report = verdict(own_servers, history, plan, redis_lost_acks=True)
        assert not report.violations, str(report)
        assert drained, str(report)
        assert all(cluster.is_running(number) for number in (0, 1))


async def test_after_redis_was_emptied_positions_go_on_above_the_old_ones_and_history_stands(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    partitions = 4
    with Cluster(own_servers, tmp_path, nodes=2, environment=ENVIRONMENT) as cluster:
        clients = [Client(url, cluster.token()) for url in cluster.urls]
        one, two = clients
        one.put_topic("t", partitions)
        one.make_group("t", "workers")
        keys = [f"k{number}" for number in range(40)]
        before = one.produce("t", [f"before {key}" for key in keys], keys=keys).json["results"]
        assert one.ack("t", "workers", one.read("t", "workers", "c")) == len(keys)
        wait_for(lambda: count_stored(own_servers.database_url, "t") == len(keys), "PostgreSQL has caught up", 15)
        history = stored(own_servers.database_url, "t")
        highest = [
            max((position(result["redis_id"]) for result in before if result["partition"] == number), default=(0, 0))
            for number in range(partitions)
        ]
        reached = {number: at for number, at in enumerate(highest) if at != (0, 0)}
        wait_for(
            lambda: reached.items() <= checkpointed(own_servers.database_url, "t", "workers").items(),
            "PostgreSQL knows what the group has acknowledged",
            15,
        )

        with redis_client(own_servers.redis_url) as valkey:
            valkey.flushall()

        after: list[dict[str, Any]] = []
        for client in clients:  # each of them has to find out for itself
            reply = client.produce("t", [f"after {key}" for key in keys], keys=keys)
            assert reply.status == 200, reply
            after += reply.json["results"]
        for result in after:
            assert position(result["redis_id"]) > highest[result["partition"]]
        places = [(result["partition"], result["redis_id"]) for result in before + after]
        assert len(set(places)) == len(places)  # no position names two events
        wait_for(lambda: count_stored(own_servers.database_url, "t") == 3 * len(keys), "persisting goes on", 20)
        rows = stored(own_servers.database_url, "t")
        assert sorted((partition, at) for partition, at, _ in rows) == sorted(places)
        assert [row for row in rows if row in history] == history
        # The group was lost with Redis; it goes on with what comes afterwards, and is not given the same again.
        got: list[dict[str, Any]] = []
        deadline = anyio.current_time() + 20
        while len(got) < len(after) and anyio.current_time() < deadline:
            got += two.read("t", "workers", "c2", count=1000, block_ms=500)
        assert sorted((event["partition"], event["redis_id"]) for event in got) == sorted(
            (result["partition"], result["redis_id"]) for result in after
        )
        assert two.ack("t", "workers", got) == len(after)
        for number, last in enumerate(last_ids(own_servers.redis_url, "t", partitions)):
            assert position(last) > highest[number] or highest[number] == (0, 0)


@dataclass(frozen=True, slots=True)
class Through:
    """Servers as a cluster wants them, Redis behind a proxy."""

    redis_url: str
    database_url: str


@asynccontextmanager
async def through_a_proxy(servers: EmbeddedServers) -> AsyncIterator[tuple[Through, Any]]:
    async with tcp_proxy("127.0.0.1", servers.valkey.port) as proxy:
        yield (
            Through(
                servers.redis_url.replace(f":{servers.valkey.port}/", f":{proxy.port}/"),
                servers.database_url,
            ),
            proxy,
        )


async def test_connections_cut_in_the_middle_of_appends_double_and_lose_nothing(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    history = History("cut")
    plan = load(30_000)
    async with through_a_proxy(own_servers) as (through, proxy):
        cluster = Cluster(through, tmp_path, nodes=2, environment=ENVIRONMENT)
        await anyio.to_thread.run_sync(cluster.__enter__)
        try:

            async def cut() -> None:
                # Some payload of this run is in every append and in nothing else that a node sends to Redis.
                for number in range(20):
                    await anyio.sleep(0.25)
                    proxy.cut_after(b'{"producer": "', delivered=number % 2 == 0)
                for _ in range(3):
                    await anyio.sleep(0.3)
                    await proxy.cut_all()
                history.note(f"{proxy.cuts} appends were cut")

            token = await anyio.to_thread.run_sync(cluster.token)
            async with Nodes(cluster.urls, token) as nodes:
                drained = await run_load(history, nodes, plan, cut)
            report = await anyio.to_thread.run_sync(verdict, own_servers, history, plan)
            assert not report.violations, str(report)
            assert drained, str(report)
            assert proxy.cuts >= 10
            # Both kinds of cut leave the producer in the dark; of the one half the events are there, once.
            assert 0 < report.figures["unknown_stored"] < report.figures["unknown"], str(report)
            assert all(cluster.is_running(number) for number in (0, 1))
        finally:
            await anyio.to_thread.run_sync(cluster.__exit__, None, None, None)

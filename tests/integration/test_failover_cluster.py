"""Nodes on a Redis Cluster: produce, consume, persist, and the death of a primary under load."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from openstream_ops.servers import EmbeddedServers
from support.checks import Report, check
from support.client import Client
from support.cluster import Cluster
from support.dumps import dump_partition, dump_postgres
from support.failing_over import ENVIRONMENT, FAILOVER_S, On, back_after, load
from support.history import History, Outcome
from support.load import Plan, run_load
from support.nodes import Nodes
from support.partitions import count_stored, stream, wait_for
from support.redis_cluster import NODE_TIMEOUT_S, RedisCluster

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


def test_a_node_produces_consumes_and_persists_on_a_cluster(database_url: str, tmp_path: Path) -> None:
    partitions, topic = 6, "through-a-cluster"
    with (
        RedisCluster(tmp_path) as redis,
        Cluster(On(redis.url, database_url), tmp_path, nodes=1, environment=ENVIRONMENT) as cluster,
    ):
        client = Client(cluster.url(0), cluster.token())
        client.put_topic(topic, partitions)
        client.make_group(topic, "g")
        keys = [str(number) for number in range(60)]
        reply = client.produce(topic, [{"n": number} for number in range(60)], keys=keys)
        assert reply.status == 200, reply
        owners = {redis.primary_of(stream(topic, one["partition"]).encode()).port for one in reply.json["results"]}
        assert len(owners) > 1
        got: list[dict[str, Any]] = []

        def all_read() -> bool:
            events = client.read(topic, "g", "c", block_ms=500)
            client.ack(topic, "g", events)
            got.extend(events)
            return len(got) >= 60

        wait_for(all_read, "every event is read", 30)
        assert sorted(event["payload"]["n"] for event in got) == list(range(60))
        wait_for(lambda: count_stored(database_url, topic) == 60, "every event is in PostgreSQL", 30)


@pytest.mark.chaos
@pytest.mark.parametrize("ack", ["appended", "persisted"])
async def test_the_death_of_a_primary_of_the_cluster_under_load_is_over_in_time_and_breaks_no_promise(
    own_servers: EmbeddedServers, tmp_path: Path, ack: str
) -> None:
    history, plan = load("cluster", ack)
    died: list[float] = []
    with (
        RedisCluster(tmp_path, guard=own_servers.guard) as redis,
        Cluster(On(redis.url, own_servers.database_url), tmp_path, nodes=2, environment=ENVIRONMENT) as cluster,
    ):
        key = stream(history.topic, 0).encode()

        async def kill() -> None:
            await anyio.sleep(3)
            dead = await anyio.to_thread.run_sync(redis.kill_primary_of, key)
            died.append(time.monotonic())
            history.note("a primary killed")
            took = await anyio.to_thread.run_sync(redis.wait_for_another, key, dead)
            history.note(f"its slots are served again after {took:.2f} s")

        async with Nodes(cluster.urls, cluster.token()) as nodes:
            drained = await run_load(history, nodes, plan, kill)
        report = await anyio.to_thread.run_sync(judge, redis, own_servers.database_url, history, plan)
        print(report)
        assert not report.violations, str(report)
        assert drained, str(report)
        mine = {
            number
            for number in range(plan.partitions)
            if redis.primary_of(stream(history.topic, number).encode()) is redis.primary_of(key)
        }
        back = back_after(history, died[0], mine)
        print(f"ack {ack}: its partitions take events again {back:.2f} s after the primary's death")
        assert back < NODE_TIMEOUT_S + FAILOVER_S[ack], str(report)
        assert all(cluster.is_running(number) for number in (0, 1))


def judge(redis: RedisCluster, database_url: str, history: History, plan: Plan) -> Report:
    wanted = sum(1 for _ in history.with_outcome(Outcome.OK))
    wait_for(lambda: count_stored(database_url, history.topic) >= wanted, "PostgreSQL holds all of it", 60, every_s=0.3)
    found = {
        number: dump_partition(redis.primary_url(stream(history.topic, number).encode()), history.topic, number)
        for number in range(plan.partitions)
    }
    return check(history, found, dump_postgres(database_url, history.topic), groups=plan.groups, redis_lost_acks=True)

"""Nodes on a Redis that fails over by its Sentinels: nobody is called, and each ack keeps what it promises."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from openstream_ops.servers import EmbeddedServers
from support.checks import Report
from support.client import Client
from support.cluster import Cluster
from support.history import History
from support.load import Plan, run_load
from support.nodes import Nodes
from support.partitions import count_stored, wait_for
from support.sentinel import DOWN_AFTER_S, Sentinels
from support.verdict import verdict

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

CLAIM_IDLE_MS = 2_000
ENVIRONMENT = {"OPENSTREAM_LOG_LEVEL": "info", "OPENSTREAM_CLAIM_IDLE_MS": str(CLAIM_IDLE_MS)}
#: What a failover may take beyond the time after which a primary counts as dead: for `appended`, and where the
#: replicas have to find the new primary as well, and write to their disks once a second.
FAILOVER_S = {"appended": 3.0, "replicated": 6.0, "persisted": 4.5}
#: A producer of replicated events is answered about once a second.
EVENTS = {"appended": 30_000, "replicated": 8_000, "persisted": 30_000}


@dataclass(frozen=True, slots=True)
class On:
    """What a cluster of nodes stands on, and what the checker looks into."""

    redis_url: str
    database_url: str


def load(name: str, ack: str) -> tuple[History, Plan]:
    idle_s = CLAIM_IDLE_MS / 1000
    plan = Plan(
        events=EVENTS[ack], rate=3_000, ack=ack, deadline_s=120, claim_every_s=1.0, claim_idle_ms=CLAIM_IDLE_MS,
        quiet_s=2 * idle_s,
    )  # fmt: skip
    return History(f"{name}-{ack}"), plan


def back_after(history: History, died: float) -> float:
    """Seconds from the death of a primary to the first event that was sent afterwards and acknowledged."""
    answered = [one.answered for one in history.sent.values() if one.id is not None and one.invoked > died]
    return min(at for at in answered if at is not None) - died


def test_a_node_produces_consumes_and_persists_before_and_after_a_failover(database_url: str, tmp_path: Path) -> None:
    with (
        Sentinels(tmp_path) as sentinels,
        Cluster(On(sentinels.url, database_url), tmp_path, nodes=1, environment=ENVIRONMENT) as cluster,
    ):
        client, topic = Client(cluster.url(0), cluster.token()), "through-sentinels"
        client.put_topic(topic, 2)
        client.make_group(topic, "g")
        sent = [{"n": number} for number in range(40)]
        assert client.produce(topic, sent[:20], keys=[str(number) for number in range(20)]).status == 200
        sentinels.wait_for_another(sentinels.kill_primary())

        def produced() -> bool:
            reply = client.produce(topic, sent[20:], keys=[str(number) for number in range(20)])
            assert reply.status in (200, 503), reply
            assert reply.status == 200 or reply.json["outcome"] == "not_stored", reply
            return reply.status == 200

        wait_for(produced, "events are taken again", 30)
        got: list[dict[str, Any]] = []

        def all_read() -> bool:
            reply = client.try_read(topic, "g", "c", block_ms=500)
            got.extend(reply.json["events"] if reply.status == 200 else [])
            return len(got) >= len(sent)

        wait_for(all_read, "every event is read", 30)
        assert sorted(event["payload"]["n"] for event in got) == list(range(40))
        wait_for(lambda: count_stored(database_url, topic) == len(sent), "every event is in PostgreSQL", 30)


@pytest.mark.chaos
@pytest.mark.parametrize("ack", ["appended", "replicated", "persisted"])
async def test_the_death_of_the_primary_under_load_is_over_in_time_and_breaks_no_promise(
    own_servers: EmbeddedServers, tmp_path: Path, ack: str
) -> None:
    history, plan = load("failover", ack)
    died: list[float] = []
    with (
        Sentinels(tmp_path, guard=own_servers.guard) as sentinels,
        Cluster(On(sentinels.url, own_servers.database_url), tmp_path, nodes=2, environment=ENVIRONMENT) as cluster,
    ):

        async def kill() -> None:
            await anyio.sleep(3)
            dead = await anyio.to_thread.run_sync(sentinels.kill_primary)
            died.append(time.monotonic())
            history.note("primary killed")
            took = await anyio.to_thread.run_sync(sentinels.wait_for_another, dead)
            history.note(f"another one after {took:.2f} s")

        async with Nodes(cluster.urls, cluster.token()) as nodes:
            drained = await run_load(history, nodes, plan, kill)
        report = await settled(sentinels, own_servers, history, plan)
        back = back_after(history, died[0])
        print(f"ack {ack}: events are taken again {back:.2f} s after the primary's death")
        # The primary died with its link whole: what it had acknowledged had left for the replicas.
        assert not report.violations, str(report)
        assert drained, str(report)
        assert back < DOWN_AFTER_S + FAILOVER_S[ack], str(report)
        assert all(cluster.is_running(number) for number in (0, 1))


async def settled(sentinels: Sentinels, servers: EmbeddedServers, history: History, plan: Plan) -> Report:
    def judge() -> Report:
        return verdict(On(sentinels.primary.url, servers.database_url), history, plan, redis_lost_acks=True)

    return await anyio.to_thread.run_sync(judge)

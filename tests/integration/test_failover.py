"""Nodes on a Redis that fails over by its Sentinels: nobody is called, and each ack keeps what it promises."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from openstream_ops.servers import EmbeddedServers
from support.checks import Report, check
from support.client import Client
from support.cluster import Cluster
from support.dumps import dump_postgres, dump_redis
from support.failing_over import ENVIRONMENT, FAILOVER_S, On, back_after, load
from support.history import History, Outcome, parse_id, show_id
from support.load import Plan, run_load
from support.nodes import Nodes
from support.partitions import count_stored, stored, wait_for
from support.sentinel import DOWN_AFTER_S, Sentinels
from support.tcp_proxy import tcp_proxy
from support.verdict import verdict

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


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
@pytest.mark.parametrize("ack", ["appended", "replicated"])
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


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("ack", "end"),
    [
        *(("appended", "killed"), ("replicated", "killed"), ("persisted", "killed")),
        *(("appended", "demoted"), ("persisted", "demoted")),
    ],
)
async def test_a_tail_that_never_reached_the_replicas_is_reported_to_the_event_and_costs_no_stronger_ack_anything(
    own_servers: EmbeddedServers, tmp_path: Path, ack: str, end: str
) -> None:
    """A killed process hands its socket buffers over: only a link that stalls first shows what an ack is worth."""
    # What was lost comes to nobody: the drain ends by its time.
    history, plan = load(f"stalled-{end}", ack, 45.0 if ack == "appended" else 120.0)
    sentinels = Sentinels(tmp_path, guard=own_servers.guard)
    first = sentinels.servers[0]
    async with tcp_proxy("127.0.0.1", first.port) as link:
        sentinels.replicas_follow = link.port
        async with in_thread(sentinels):
            cluster = Cluster(On(sentinels.url, own_servers.database_url), tmp_path, nodes=2, environment=ENVIRONMENT)
            async with in_thread(cluster):

                async def stall_and_kill() -> None:
                    await anyio.sleep(3)
                    link.stall()
                    if ack == "appended":  # else nearly all would be in PostgreSQL before the primary dies
                        own_servers.postgres.pause()
                    history.note("the replication link stands still")
                    await anyio.sleep(3)
                    if end == "killed":
                        await anyio.to_thread.run_sync(first.kill)
                    else:  # it lives, with what only it has, and nodes are with it until they hear of the other
                        await anyio.to_thread.run_sync(sentinels.demote_primary)
                    link.refusing = True
                    await link.cut_all()  # what was on the way is gone, as with the machine
                    history.note(f"primary {end}")
                    await anyio.to_thread.run_sync(sentinels.wait_for_another, first)
                    # Not before: from a primary that lives on they would persist all that it has.
                    await anyio.to_thread.run_sync(
                        lambda: wait_for(partial(all_have_found, cluster, 2), "the nodes hear of the other one", 30)
                    )
                    own_servers.postgres.resume()

                async with Nodes(cluster.urls, await anyio.to_thread.run_sync(cluster.token)) as nodes:
                    drained = await run_load(history, nodes, plan, stall_and_kill)
                if ack != "appended":
                    report = await settled(sentinels, own_servers, history, plan)
                    assert not report.violations, str(report)
                    assert drained, str(report)
                    return
                told = {(one.partition, show_id(one.id)) for one in history.sent.values() if one.outcome is Outcome.OK}

                def lost() -> set[tuple[int | None, str]]:
                    kept = {(number, at) for number, at, _ in stored(own_servers.database_url, history.topic)}
                    return told - kept

                def is_reported() -> bool:
                    found, told_of = len(lost()), sum(reported(cluster, number) for number in (0, 1))
                    if found != told_of:
                        history.note(f"{found} lost, {told_of} reported")
                    return 0 < found == told_of

                await anyio.to_thread.run_sync(
                    lambda: wait_for(is_reported, "what was lost is reported, to the event", 60, every_s=0.5)
                )
                report = await anyio.to_thread.run_sync(
                    lambda: check(
                        history,
                        dump_redis(sentinels.primary.url, history.topic, plan.partitions),
                        dump_postgres(own_servers.database_url, history.topic),
                        groups=plan.groups,
                        redis_lost_acks=True,
                    )
                )
                print(report)
                # Nothing else is wrong: what is not stored came to no group either, or only before it was lost.
                count = {one.rule: one.count for one in report.violations}
                assert count.pop("C1 lost") == count.pop("C11 hole") == len(lost()), str(report)
                assert count.pop("C2 group lost", 0) <= len(lost()), str(report)
                assert not count, str(report)
                told_of, ids = named(cluster)
                assert told_of == len(lost())
                assert ids <= lost()
                assert {number for number, _ in ids} == {number for number, _ in lost()}


@asynccontextmanager
async def in_thread(servers: Any) -> AsyncIterator[None]:
    """Started and ended beside the event loop, which has a proxy to run."""
    await anyio.to_thread.run_sync(servers.__enter__)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(servers.__exit__, None, None, None)


def all_have_found(cluster: Cluster, primaries: int) -> bool:
    """Whether every node was with so many primaries, one after the other."""
    return all(cluster.log(number).count('"found the primary"') >= primaries for number in (0, 1))


def reported(cluster: Cluster, number: int) -> int:
    """How many events a node knows to be lost."""
    _, body = cluster.request(number, "GET", "/metrics")
    lines = [line for line in body.decode().splitlines() if line.startswith("openstream_lost_tail_events_total{")]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def named(cluster: Cluster) -> tuple[int, set[tuple[int | None, str]]]:
    """What the log lines of both nodes say: how many events, and the ids they spell out."""
    count, found = 0, set[tuple[int | None, str]]()
    for number in (0, 1):
        for line in cluster.log(number).splitlines():
            if "appended events were lost with a Redis" not in line:
                continue
            said = json.loads(line)
            count += said["events"]
            partition = int(said["partition"].rpartition("/")[2])
            for run in [said["first"], said["last"], *said["ids"]]:
                first, _, last = run.partition("..")
                (ms, begin), (_, end) = parse_id(first), parse_id(last or first)
                found |= {(partition, f"{ms}-{seq}") for seq in range(begin, end + 1)}
    return count, found


async def settled(sentinels: Sentinels, servers: EmbeddedServers, history: History, plan: Plan) -> Report:
    def judge() -> Report:
        return verdict(On(sentinels.primary.url, servers.database_url), history, plan, redis_lost_acks=True)

    return await anyio.to_thread.run_sync(judge)

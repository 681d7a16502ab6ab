"""Groups whose events are no longer in Redis, on real servers: every event once and in order, through the same read."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import Cluster
from support.history import History, Outcome
from support.load import Consumer, Plan, Producer, prepare
from support.nodes import Nodes
from support.partitions import count_stored, holders, lengths, redis_client, wait_for
from support.verdict import verdict

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

CLAIM_IDLE_MS = 2_000
ENVIRONMENT = {
    "OPENSTREAM_RETENTION_MS": "300",
    "OPENSTREAM_CLAIM_IDLE_MS": str(CLAIM_IDLE_MS),
    "OPENSTREAM_LOG_LEVEL": "info",
}
#: Events only PostgreSQL has, and events that come meanwhile.
at_both_sizes = pytest.mark.parametrize(
    ("old", "new"),
    [pytest.param(12_000, 3_000, id="12,000"), pytest.param(50_000, 10_000, id="50,000", marks=pytest.mark.chaos)],
)
DEADLINE_S = 150.0
During = Callable[[Cluster, History], Coroutine[Any, Any, None]]


@pytest.fixture
def cluster(own_servers: EmbeddedServers, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    calm = request.node.callspec.params.get("during") is nothing_happens if hasattr(request.node, "callspec") else False
    # Where nobody dies nothing may be taken from a consumer's hands, however slow the machine.
    environment = ENVIRONMENT | ({"OPENSTREAM_CLAIM_IDLE_MS": "60000"} if calm else {})
    with Cluster(own_servers, tmp_path, nodes=2, environment=environment) as cluster:
        yield cluster


async def produce(history: History, nodes: Nodes, prefix: str, events: int, rate: float | None = None) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(4):
            producer = Producer(
                history, nodes, f"{prefix}{number}", [f"k{n}" for n in range(64)], events // 4, fill=40,
                rate=None if rate is None else rate / 4,
            )  # fmt: skip
            tasks.start_soon(producer.run, time.monotonic() + DEADLINE_S, anyio.Event())


async def only_in_postgresql(servers: EmbeddedServers, history: History, plan: Plan) -> None:
    """Wait until Redis has nothing left of the topic."""

    def gone() -> bool:
        return sum(lengths(servers.redis_url, history.topic, plan.partitions)) == 0

    await anyio.to_thread.run_sync(lambda: wait_for(gone, "everything is persisted and trimmed", 60))


async def catch_up(cluster: Cluster, history: History, nodes: Nodes, during: During, *, new: int) -> None:
    """A late group reads everything from the beginning while producers go on and something happens."""
    stop, deadline = anyio.Event(), time.monotonic() + DEADLINE_S
    claim_every_s = None if during is nothing_happens else 1.0
    consumers = [
        Consumer(history, nodes, "late", f"c{number}", claim_every_s=claim_every_s, claim_idle_ms=CLAIM_IDLE_MS)
        for number in range(4)
    ]
    async with anyio.create_task_group() as reading:
        for consumer in consumers:
            reading.start_soon(consumer.run, deadline, stop)
        async with anyio.create_task_group() as happening:
            happening.start_soon(during, cluster, history)
            if new:
                happening.start_soon(produce, history, nodes, "new", new, 2_500)
        while not set(history.with_outcome(Outcome.OK)) <= history.delivered_to("late"):
            assert time.monotonic() < deadline, "not everything came to the late group"
            await anyio.sleep(0.2)
        await anyio.sleep(1.5 * CLAIM_IDLE_MS / 1000)  # whatever is still held by nobody comes again, and is answered
        stop.set()


async def nothing_happens(_: Cluster, __: History) -> None:
    return


async def an_owner_is_killed(cluster: Cluster, history: History) -> None:
    await anyio.sleep(1)
    await anyio.to_thread.run_sync(cluster.kill, 1)
    history.note("a node killed")


async def somebody_reads_and_never_acks(cluster: Cluster, history: History) -> None:
    client = Client(cluster.url(0), cluster.token())
    held = 0
    for _ in range(20):
        held += len(await anyio.to_thread.run_sync(lambda: client.read(history.topic, "late", "sloppy", count=200)))
    history.note(f"{held} events are with somebody who never acks")
    assert held


@at_both_sizes
@pytest.mark.parametrize("during", [nothing_happens, an_owner_is_killed, somebody_reads_and_never_acks])
async def test_a_late_group_reads_history_and_goes_on_live_without_gap_or_double(
    own_servers: EmbeddedServers, cluster: Cluster, during: During, old: int, new: int
) -> None:
    history, plan = History("late"), Plan(groups=())
    async with Nodes(cluster.urls, cluster.token()) as nodes:
        await prepare(history, nodes, plan, time.monotonic() + 30)
        await produce(history, nodes, "old", old)
        await only_in_postgresql(own_servers, history, plan)
        client = Client(cluster.url(0), cluster.token())
        client.make_group(history.topic, "late")
        described = client.get(f"/v1/topics/{history.topic}/groups/late").json
        assert (described["lag"], {one["served_from"] for one in described["partitions"]}) == (old, {"postgres"})
        began = time.monotonic()
        await catch_up(cluster, history, nodes, during, new=new)
        history.note(f"caught up with {old + new} events in {time.monotonic() - began:.1f} s")
    plan = Plan(groups=("late",))
    # What the sloppy one took was answered to him and not to the load: for the checker those came as a second delivery.
    report = await anyio.to_thread.run_sync(lambda: verdict(own_servers, history, plan, calm=during is nothing_happens))
    expected = {"C8 order delivered"} if during is somebody_reads_and_never_acks else set()
    assert report.broken <= expected, str(report)
    described = client.get(f"/v1/topics/{history.topic}/groups/late").json
    assert (described["lag"], described["pending"]) == (0, 0)


@at_both_sizes
async def test_a_group_half_way_through_goes_on_to_the_end_after_redis_lost_everything(
    own_servers: EmbeddedServers, cluster: Cluster, old: int, new: int
) -> None:
    history, plan = History("flushed"), Plan(groups=("late",), topic_settings={"retention_ms": 600_000})

    async def flush(_: Cluster, history: History) -> None:
        while len(history.delivered_to("late")) < old // 4:  # noqa: ASYNC110 (the load tells nobody how far it is)
            await anyio.sleep(0.02)
        with redis_client(own_servers.redis_url) as client:
            client.flushall()
        history.note(f"flushed after {len(history.delivered_to('late'))} deliveries")

    async with Nodes(cluster.urls, cluster.token()) as nodes:
        await prepare(history, nodes, plan, time.monotonic() + 30)
        await produce(history, nodes, "old", old // 2)
        await anyio.to_thread.run_sync(
            lambda: wait_for(lambda: count_stored(own_servers.database_url, history.topic) >= old // 2, "stored", 60)
        )
        await catch_up(cluster, history, nodes, flush, new=0)
        await produce(history, nodes, "more", new // 4)
        await catch_up(cluster, history, nodes, nothing_happens, new=0)
    report = await anyio.to_thread.run_sync(lambda: verdict(own_servers, history, plan, redis_lost_acks=True))
    # What was acked after the last checkpoint comes again, marked as nothing: Redis forgot that it was delivered.
    assert report.broken <= {"C8 order delivered"}, str(report)
    assert None not in holders(own_servers.redis_url, history.topic, plan.partitions)

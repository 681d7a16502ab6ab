"""`ack: "persisted"` on real servers: who is answered has his events in PostgreSQL, whatever becomes of Redis."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import psycopg
import pytest

from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import Cluster
from support.nodes import Answer, Nodes
from support.partitions import redis_client, stored

pytestmark = [pytest.mark.anyio, pytest.mark.chaos, pytest.mark.timeout(180)]

PARTITIONS = 8
CLIENTS = 64
REQUESTS = 2_000
#: Every so many answers are looked up in PostgreSQL before anything else happens.
SAMPLE = 10
ENVIRONMENT = {"OPENSTREAM_LOG_LEVEL": "info"}


@dataclass
class Ledger:
    """What producers were told, by the payload they sent."""

    persisted: dict[str, tuple[int, str]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)
    #: What came back beside 200, and how often.
    others: Counter[str] = field(default_factory=Counter)
    sampled: int = 0

    def note(self, payloads: list[str], answer: Answer) -> None:
        found = json.loads(answer.body) if answer.body else {}
        if answer.status != 200:
            self.others[f"{answer.error or answer.status} {found.get('detail', '')}"] += 1
        if answer.status == 200:
            results = found["results"]
            self.persisted |= {
                payload: (one["partition"], one["redis_id"]) for payload, one in zip(payloads, results, strict=True)
            }
        elif found.get("outcome") == "not_stored":
            self.lost |= set(payloads)
        elif "results" in found:
            for payload, one in zip(payloads, found["results"], strict=True):
                if one["status"] == "persisted":
                    self.persisted[payload] = (one["partition"], one["redis_id"])
                else:
                    (self.lost if one["status"] == "not_stored" else self.open).add(payload)
        else:
            self.open |= set(payloads)

    def check(self, rows: Mapping[str, tuple[int, str]]) -> None:
        missing = {payload for payload, place in self.persisted.items() if rows.get(payload) != place}
        assert not missing, f"{len(missing)} events were answered and are not there: {sorted(missing)[:5]}"
        untrue = self.lost & rows.keys()
        assert not untrue, f"{len(untrue)} events were told lost and are there: {sorted(untrue)[:5]}"


def body(payloads: list[str]) -> bytes:
    events = [{"event_type": "t", "payload": one, "partition_key": one} for one in payloads]
    return json.dumps({"events": events, "ack": "persisted"}).encode()


def is_there(connection: psycopg.Connection, partition: int, redis_id: str) -> bool:
    """One row by its position, seen by another session at this moment."""
    ms, _, seq = redis_id.partition("-")
    query = "select 1 from openstream.events where topic = 't' and partition = %s and ms = %s and seq = %s"
    return connection.execute(query, (partition, int(ms), int(seq))).fetchone() is not None


def rows_of(servers: EmbeddedServers) -> dict[str, tuple[int, str]]:
    rows = stored(servers.database_url, "t")
    found = {json.loads(payload): (partition, at) for partition, at, payload in rows}
    assert len(found) == len(rows), "an event is there twice"
    return found


async def produce(nodes: Nodes, ledger: Ledger, name: str, count: int, database: psycopg.Connection) -> None:
    """`CLIENTS` clients, each one request after the other, `count` in all."""
    turns = iter(range(count))

    async def client() -> None:
        for turn in turns:
            payloads = [f"{name}.{turn}.{n}" for n in range(1 + turn % 3)]
            answer = await nodes.post("/v1/topics/t/events", body(payloads), timeout=40)
            ledger.note(payloads, answer)
            if answer.status == 200 and turn % SAMPLE == 0:
                partition, redis_id = ledger.persisted[payloads[-1]]
                assert is_there(database, partition, redis_id), f"{payloads[-1]} is answered and not there"
                ledger.sampled += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(CLIENTS):
            tasks.start_soon(client)


async def until(claim: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not claim():  # noqa: ASYNC110 (it is servers that we wait for)
            await anyio.sleep(0.01)


async def test_answered_events_are_in_postgresql_at_once_and_survive_the_loss_of_redis(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    ledger = Ledger()
    with Cluster(own_servers, tmp_path, nodes=2, environment=ENVIRONMENT) as cluster:
        Client(cluster.url(0), cluster.token()).put_topic("t", PARTITIONS)
        with psycopg.connect(own_servers.database_url, autocommit=True) as database:
            async with Nodes(cluster.urls, cluster.token()) as nodes:
                await produce(nodes, ledger, "steady", REQUESTS, database)
                assert ledger.others == {}
                assert len(ledger.persisted) == sum(1 + turn % 3 for turn in range(REQUESTS))
                assert ledger.sampled >= REQUESTS // SAMPLE

                async def lose_redis() -> None:
                    await until(lambda: any(f"loss.{turn}.0" in ledger.persisted for turn in range(100, 200)))
                    await anyio.to_thread.run_sync(own_servers.valkey.kill)
                    await anyio.to_thread.run_sync(own_servers.valkey.start)
                    with redis_client(own_servers.redis_url) as valkey:
                        valkey.flushall()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(lose_redis)
                    tasks.start_soon(produce, nodes, ledger, "loss", REQUESTS // 4, database)
                before = len(ledger.persisted)
                await produce(nodes, ledger, "after", 100, database)
                assert len(ledger.persisted) > before
        ledger.check(rows_of(own_servers))
        assert all(cluster.is_running(number) for number in (0, 1))

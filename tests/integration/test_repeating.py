"""Idempotent produce on real servers: a storm of repetitions, connections cut everywhere, and every event once."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest

from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import Cluster
from support.nodes import Nodes
from support.partitions import count_stored, redis_client, stored, wait_for
from support.tcp_proxy import TcpProxy, tcp_proxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

PARTITIONS = 4
PRODUCERS = 8
REQUESTS = 50
EVENTS = 50
ENVIRONMENT = {"OPENSTREAM_LOG_LEVEL": "info"}
PATH = "/v1/topics/t/events"


class Through:
    """Servers as a cluster wants them, Redis behind a proxy."""

    def __init__(self, servers: EmbeddedServers, port: int) -> None:
        self.redis_url = servers.redis_url.replace(f":{servers.valkey.port}/", f":{port}/")
        self.database_url = servers.database_url


class Storm:
    """Producers that send one request at a time, in several copies when something went wrong, until it is answered."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        #: What each event was told, by payload; and how often a copy came back with what.
        self.told: dict[str, tuple[int, str]] = {}
        self.statuses: Counter[str] = Counter()
        self.duplicates = 0
        self.left = PRODUCERS * REQUESTS

    async def producer(self, name: str) -> None:
        chance = random.Random(name)
        for turn in range(REQUESTS):
            payloads = [f"{name}.{turn * EVENTS + n}" for n in range(EVENTS)]
            keys = [chance.choice(("a", "b", "c", "d", "e", None)) for _ in payloads]
            events = [
                {"event_type": "t", "payload": payload, **({} if key is None else {"partition_key": key})}
                for payload, key in zip(payloads, keys, strict=True)
            ]
            stamp = {"Producer-Id": name, "Producer-Epoch": "1", "Producer-Seq": str(turn * EVENTS)}
            body = json.dumps({"events": events}).encode()
            while not await self.copies(payloads, body, stamp, 1 + chance.randrange(3)):  # noqa: ASYNC110 (a client's pause)
                await anyio.sleep(chance.uniform(0, 0.05))
            self.left -= 1

    async def copies(self, payloads: list[str], body: bytes, stamp: dict[str, str], count: int) -> bool:
        """As many at once; whether one of them was answered."""
        answered = False

        async def copy() -> None:
            nonlocal answered
            answer = await self.nodes.post(PATH, body, timeout=10, headers=stamp)
            self.statuses[str(answer.status)] += 1
            if answer.status == 200:
                found = json.loads(answer.body)
                self.duplicates += found.get("duplicate", False)
                for payload, one in zip(payloads, found["results"], strict=True):
                    place = one["partition"], one["redis_id"]
                    assert self.told.setdefault(payload, place) == place, "a repetition was told another place"
                answered = True
            else:
                assert answer.status in (None, 503, 429), answer

        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(copy)
        return answered


async def cut(storm: Storm, clients: list[TcpProxy], redis: TcpProxy) -> None:
    chance, turn = random.Random(7), 0
    while storm.left:
        await anyio.sleep(chance.uniform(0.02, 0.15))
        turn += 1
        if turn % 3:
            await chance.choice(clients).cut_all()
        elif turn % 2:
            redis.cut_after(b"Producer" if turn % 4 else b"p-", delivered=bool(turn % 4))
        else:
            await redis.cut_all()


async def test_a_storm_of_repetitions_keeps_every_event_once_and_tells_one_place(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    async with tcp_proxy("127.0.0.1", own_servers.valkey.port) as redis:
        cluster = Cluster(Through(own_servers, redis.port), tmp_path, nodes=2, environment=ENVIRONMENT)
        await anyio.to_thread.run_sync(cluster.__enter__)
        try:
            ports = [urlsplit(url).port or 0 for url in cluster.urls]
            token = await anyio.to_thread.run_sync(cluster.token)
            async with tcp_proxy("127.0.0.1", ports[0]) as one, tcp_proxy("127.0.0.1", ports[1]) as two:
                await anyio.to_thread.run_sync(Client(cluster.url(0), token).put_topic, "t", PARTITIONS)
                async with Nodes([f"http://127.0.0.1:{proxy.port}" for proxy in (one, two)], token) as nodes:
                    storm = Storm(nodes)
                    async with anyio.create_task_group() as tasks:
                        for number in range(PRODUCERS):
                            tasks.start_soon(storm.producer, f"p-{number}")
                        tasks.start_soon(cut, storm, [one, two], redis)
            total = PRODUCERS * REQUESTS * EVENTS
            await anyio.to_thread.run_sync(
                wait_for, lambda: count_stored(own_servers.database_url, "t") >= total, "PostgreSQL has all", 60
            )
            rows = await anyio.to_thread.run_sync(stored, own_servers.database_url, "t")
        finally:
            await anyio.to_thread.run_sync(cluster.__exit__, None, None, None)
    assert len(rows) == total
    assert {json.loads(payload): (partition, at) for partition, at, payload in rows} == storm.told
    in_order: dict[tuple[str, int], int] = {}
    for partition, _, payload in rows:
        name, _, number = json.loads(payload).partition(".")
        assert int(number) > in_order.get((name, partition), -1)
        in_order[name, partition] = int(number)
    # It was a storm: connections ended in the middle, outcomes were unknown, and copies found what was kept.
    assert storm.statuses["None"] > 20, storm.statuses
    assert storm.statuses["503"] > 0, storm.statuses
    assert storm.duplicates > 20, storm.statuses


async def test_after_redis_was_emptied_a_producer_is_told_and_goes_on(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    with Cluster(own_servers, tmp_path, nodes=2, environment=ENVIRONMENT) as cluster:
        one, two = (Client(url, cluster.token()) for url in cluster.urls)
        one.put_topic("t", PARTITIONS)

        def send(client: Client, seq: int, epoch: int, *payloads: str) -> tuple[int, dict[str, object]]:
            stamp = {"Producer-Id": "p", "Producer-Epoch": str(epoch), "Producer-Seq": str(seq)}
            events = [{"event_type": "t", "payload": one, "partition_key": one} for one in payloads]
            reply = client.request("POST", PATH, {"events": events}, headers=stamp)
            return reply.status, reply.json

        status, first = send(one, 0, 0, "a", "b", "c")
        assert (status, first.get("duplicate")) == (200, None)
        assert send(two, 0, 0, "a", "b", "c")[1]["duplicate"] is True
        wait_for(lambda: count_stored(own_servers.database_url, "t") == 3, "PostgreSQL has them", 15)
        with redis_client(own_servers.redis_url) as valkey:
            valkey.flushall()
        status, found = send(two, 3, 0, "d")
        assert (status, found["type"]) == (409, "/problems/unknown-producer")
        assert send(two, 0, 1, "d")[0] == 200
        assert send(one, 1, 1, "e", "f")[0] == 200
        status, found = send(one, 3, 0, "g")
        assert (status, found["current_epoch"]) == (403, 1)
        status, found = send(one, 9, 1, "g")
        assert (status, found["expected_seq"]) == (409, 3)
        wait_for(lambda: count_stored(own_servers.database_url, "t") == 6, "PostgreSQL has the rest", 15)

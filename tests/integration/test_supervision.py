"""Actors that really raise, in whole nodes: what is started again, who notices, and when a node gives up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import Cluster
from support.partitions import count_stored, redis_client, stream, wait_for

pytestmark = pytest.mark.timeout(240)

#: A node that cannot be helped ends within this many seconds: its operator waits no longer for the restart.
GIVES_UP_S = 90.0


@contextmanager
def spoiled_cursor(servers: EmbeddedServers, topic: str, partition: int) -> Iterator[None]:
    """Inside, the partition's cursor is no position: whoever takes the partition raises what nobody expects."""
    where = "where partition = %s and topic_id = (select id from openstream.topics where name = %s)"
    with psycopg.connect(servers.database_url, autocommit=True) as postgres:
        postgres.execute("alter table openstream.partitions alter last_ms drop not null")
        row = postgres.execute(f"select last_ms from openstream.partitions {where}", (partition, topic)).fetchone()  # noqa: S608
        assert row is not None
        postgres.execute(f"update openstream.partitions set last_ms = null {where}", (partition, topic))  # noqa: S608
        with redis_client(servers.redis_url) as valkey:
            valkey.delete(f"{{{stream(topic, partition)}}}:lease")  # so that its persister takes it anew
        try:
            yield
        finally:
            postgres.execute(
                f"update openstream.partitions set last_ms = %s {where}",  # noqa: S608
                (row[0], partition, topic),
            )


def restarts(client: Client) -> dict[str, int]:
    """How often each actor of the node was started again, as /v1/cluster shows it; only those that were."""
    found: dict[str, int] = {}

    def walk(node: dict[str, Any], path: str) -> None:
        if node["restarts"]:
            found[path] = node["restarts"]
        for child in node["children"]:
            walk(child, f"{path}/{child['id']}".removeprefix("/"))

    walk(client.get("/v1/cluster").json["tree"], "")
    return found


class Steady:
    """Produces one event at a time to a topic of its own until told to stop; what was not answered with 200."""

    def __init__(self, client: Client, topic: str) -> None:
        self.sent = 0
        self.failed: list[object] = []
        self._client = client
        self._topic = topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            try:
                reply = self._client.produce(self._topic, [self.sent], keys=[f"k{self.sent}"])
            except OSError as error:
                self.failed.append(error)
                continue
            if reply.status == 200:
                self.sent += 1
            else:
                self.failed.append(reply)


def test_a_persister_that_raises_is_started_again_and_the_others_do_not_notice(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    with Cluster(own_servers, tmp_path, nodes=1) as cluster:
        client = Client(cluster.url(0), cluster.token())
        client.put_topic("broken", 1)
        client.put_topic("steady", 4)
        client.make_group("steady", "workers")
        assert client.produce("broken", ["before"]).status == 200
        wait_for(lambda: count_stored(own_servers.database_url, "broken") == 1, "the first event is persisted", 10)
        with Steady(client, "steady") as steady:
            with spoiled_cursor(own_servers, "broken", 0):
                wait_for(lambda: restarts(client).get("partitions/broken/0/persister"), "the restart is shown", 20)
                # Redis has nothing to do with it: events are taken in as ever.
                assert client.produce("broken", ["meanwhile"]).status == 200
            wait_for(lambda: count_stored(own_servers.database_url, "broken") == 2, "the persister goes on", 30)
        assert steady.failed == []
        assert steady.sent > 0
        wait_for(lambda: count_stored(own_servers.database_url, "steady") == steady.sent, "all else is persisted", 20)
        got = []
        while events := client.read("steady", "workers", "c", count=1000):
            got += [event["payload"] for event in events]
        assert sorted(got) == list(range(steady.sent))
        assert {path for path in restarts(client) if not path.startswith("partitions/broken/0")} == set()
        assert "actor crashed" in cluster.log(0)


def test_an_actor_that_keeps_raising_takes_its_node_down_with_a_clear_line_and_not_with_a_hang(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    with Cluster(own_servers, tmp_path, nodes=1) as cluster:
        client = Client(cluster.url(0), cluster.token())
        client.put_topic("broken", 1)
        assert client.produce("broken", ["before"]).status == 200
        wait_for(lambda: count_stored(own_servers.database_url, "broken") == 1, "the first event is persisted", 10)
        with spoiled_cursor(own_servers, "broken", 0):
            began = time.monotonic()
            code = cluster.wait_ended(0, GIVES_UP_S)
            print(f"gave up after {time.monotonic() - began:.1f} s")
        assert code == 1
        last = cluster.tail(0, 1)
        assert '"event": "node failed"' in last
        assert "ended once too often" in last  # the first of those that cannot live with it
        # Whoever repairs the cause and starts it again loses nothing.
        cluster.start(0)
        cluster.wait_ready(0)
        assert client.produce("broken", ["after"]).status == 200
        wait_for(lambda: count_stored(own_servers.database_url, "broken") == 2, "persisting goes on", 20)


def test_a_foreign_key_where_a_stream_was_is_the_trouble_of_that_partition_alone(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    with Cluster(own_servers, tmp_path, nodes=2) as cluster:
        clients = [Client(url, cluster.token()) for url in cluster.urls]
        clients[0].put_topic("broken", 2)
        clients[0].put_topic("steady", 4)
        clients[0].make_group("broken", "workers", "$")
        keys = keys_of_both_partitions(clients[0])
        wait_for(lambda: count_stored(own_servers.database_url, "broken") >= 2, "all is persisted", 10)
        with Steady(clients[1], "steady") as steady, redis_client(own_servers.redis_url) as valkey:
            valkey.delete(stream("broken", 0))
            valkey.set(stream("broken", 0), "x")
            until = time.monotonic() + 6  # longer than the samplers' period, and three crashes would be over by then
            while time.monotonic() < until:
                for client in clients:
                    refused = client.produce("broken", ["lost"], keys=[keys[0]])
                    assert (refused.status, refused.slug) == (503, "unavailable"), refused
                    assert refused.json["outcome"] == "not_stored"
                    assert "retry-after" in refused.headers
                    assert client.produce("broken", ["kept"], keys=[keys[1]]).status == 200
                    assert client.try_read("broken", "workers", "c").status in (200, 503)
            assert all(cluster.is_running(number) for number in (0, 1))
            valkey.delete(stream("broken", 0))
            for number in (0, 1):
                wait_for(
                    lambda: clients[number].produce("broken", ["again"], keys=[keys[0]]).status == 200,  # noqa: B023
                    "the partition takes events again",
                    10,
                )
        assert steady.failed == []
        wait_for(lambda: count_stored(own_servers.database_url, "steady") == steady.sent, "all else is persisted", 20)
        assert [restarts(client) for client in clients] == [{}, {}]


def keys_of_both_partitions(client: Client) -> list[str]:
    """For each of the two partitions of `broken` a key that leads there."""
    found: dict[int, str] = {}
    for number in range(20):
        reply = client.produce("broken", [number], keys=[f"k{number}"])
        assert reply.status == 200, reply
        found[reply.json["results"][0]["partition"]] = f"k{number}"
    return [found[0], found[1]]

"""The history of a topic on real servers: most of it only in PostgreSQL, the rest in Redis, and one answer for both."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest

from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import Cluster
from support.partitions import count_stored, lengths, redis_client, wait_for

pytestmark = pytest.mark.timeout(120)

EVENTS, PARTITIONS, KEYS = 20_000, 3, 500
SHORT = {"retention_ms": 500}
#: Trimming looks at a stream every second or so; nothing below waits for a lease.
QUIET = {"OPENSTREAM_LOG_LEVEL": "info"}
NDJSON = {"Accept": "application/x-ndjson"}


class Sender:
    """Produces numbered events under keys, and remembers where each stands."""

    def __init__(self, client: Client, topic: str) -> None:
        self.client, self.topic, self.number = client, topic, 0
        #: By partition, in the order of acknowledgement: id, key, number.
        self.sent: dict[int, list[tuple[str, str, int]]] = {}

    def send(self, count: int, *, fill: str = "") -> None:
        numbers = range(self.number, self.number + count)
        self.number += count
        keys = [f"user-{number % KEYS}" for number in numbers]
        reply = self.client.produce(self.topic, [[number, fill] for number in numbers], keys=keys)
        assert reply.status == 200, reply
        for result, key, number in zip(reply.json["results"], keys, numbers, strict=True):
            self.sent.setdefault(result["partition"], []).append((result["redis_id"], key, number))

    def snapshot(self) -> dict[int, list[tuple[str, str, int]]]:
        return {partition: list(log) for partition, log in self.sent.items()}


def as_sent(events: list[dict[str, Any]]) -> dict[int, list[tuple[str, str, int]]]:
    found: dict[int, list[tuple[str, str, int]]] = {}
    for event in events:
        found.setdefault(event["partition"], []).append(
            (event["redis_id"], event["partition_key"], event["payload"][0])
        )
    return found


def stream(client: Client, path: str) -> list[dict[str, Any]]:
    """Everything of a stream that must end as one that is whole."""
    reply = client.request("GET", path, headers=NDJSON, timeout=60)
    assert reply.status == 200, reply
    return [json.loads(line) for line in reply.body.splitlines()]


def pages(client: Client, path: str, **query: Any) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while True:
        reply = client.get(f"{path}?{urlencode(query)}")
        assert reply.status == 200, reply
        events += reply.json["events"]
        if (next_id := reply.json["next_id"]) is None:
            return events
        query["from_id"] = next_id


def in_redis(servers: EmbeddedServers) -> int:
    """How many events Redis still has."""
    return sum(lengths(servers.redis_url, "orders", PARTITIONS))


def is_persisted(servers: EmbeddedServers, sender: Sender) -> bool:
    return count_stored(servers.database_url, "orders") == sender.number


def is_trimmed(servers: EmbeddedServers, sender: Sender, *, but: int = 0) -> bool:
    return is_persisted(servers, sender) and in_redis(servers) <= but


def made(client: Client, topic: str, **settings: Any) -> Sender:
    reply = client.request("PUT", f"/v1/topics/{topic}", {"partitions": PARTITIONS, **settings})
    assert reply.status == 201, reply
    return Sender(client, topic)


def test_everything_is_there_once_and_in_order_while_producers_append_and_redis_is_trimmed(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    with Cluster(own_servers, tmp_path, nodes=2, environment=QUIET) as cluster:
        one, two = (Client(url, cluster.token()) for url in cluster.urls)
        sender = made(one, "orders", **SHORT)
        for _ in range(EVENTS // 1_000):
            sender.send(1_000)
        wait_for(partial(is_trimmed, own_servers, sender, but=EVENTS // 10), "most of it is trimmed", 20)
        stop = threading.Event()

        def produce() -> None:
            while not stop.is_set():
                sender.send(20)

        producing = threading.Thread(target=produce)
        producing.start()
        try:
            looked = 0
            began = time.monotonic()
            while time.monotonic() - began < 4:  # trims fall into it: two a second, one for each partition
                for client, read in ((two, stream), (one, pages)):
                    before = sender.snapshot()
                    query = {} if read is stream else {"limit": 3_000}
                    found = as_sent(read(client, "/v1/topics/orders/events", **query))
                    wait_for(partial(covers, sender, found), "what was read is acknowledged", 5)
                    after = sender.snapshot()
                    for partition, log in before.items():
                        assert found[partition][: len(log)] == log
                        assert found[partition] == after[partition][: len(found[partition])]
                    looked += 1
        finally:
            stop.set()
            producing.join(20)
        print(f"{looked} readings of {sender.number} events, {in_redis(own_servers)} of them in Redis")
        whole = sender.snapshot()
        assert as_sent(stream(two, "/v1/topics/orders/events")) == whole
        for partition, log in whole.items():
            path = f"/v1/topics/orders/partitions/{partition}/events"
            assert as_sent(stream(one, path))[partition] == log
            middle = log[100:-100]
            bounds = f"?from_id={middle[0][0]}&to_id={middle[-1][0]}"
            assert as_sent(stream(one, path + bounds))[partition] == middle
        a_keys_history(one, whole)


def covers(sender: Sender, found: dict[int, list[tuple[str, str, int]]]) -> bool:
    return all(len(sender.sent[partition]) >= len(log) for partition, log in found.items())


def a_keys_history(client: Client, whole: dict[int, list[tuple[str, str, int]]]) -> None:
    expected = {partition: [one for one in log if one[1] == "user-7"] for partition, log in whole.items()}
    began = time.monotonic()
    found = as_sent(pages(client, "/v1/topics/orders/events", key="user-7", limit=1_000))
    print(f"a key's {sum(map(len, found.values()))} events in {(time.monotonic() - began) * 1000:.1f} ms")
    assert found == {partition: log for partition, log in expected.items() if log}
    assert pages(client, "/v1/topics/orders/events", key="nobody") == []
    assert pages(client, "/v1/topics/orders/events", event_type="other") == []
    assert as_sent(stream(client, "/v1/topics/orders/events?event_type=test&key=user-7")) == found


def test_one_store_that_is_away_takes_only_its_own_part_along(own_servers: EmbeddedServers, tmp_path: Path) -> None:
    with Cluster(own_servers, tmp_path, nodes=1, environment=QUIET) as cluster:
        client = Client(cluster.url(0), cluster.token())
        sender = made(client, "orders", **SHORT)
        sender.send(3_000)
        wait_for(partial(is_trimmed, own_servers, sender), "all of it is trimmed", 20)
        assert client.request("PUT", "/v1/topics/orders", {"retention_ms": 600_000}).status == 200
        cold = sender.snapshot()
        sender.send(600)
        path = "/v1/topics/orders/partitions/0/events"
        last_cold, first_hot = cold[0][-1][0], sender.sent[0][len(cold[0])][0]
        wait_for(partial(is_persisted, own_servers, sender), "the rest is persisted, and stays in Redis", 20)

        own_servers.postgres.kill()
        try:
            assert as_sent(pages(client, path, from_id=first_hot))[0] == sender.sent[0][len(cold[0]) :]
            assert client.get(f"{path}?from_id={last_cold}").slug == "unavailable"
        finally:
            own_servers.postgres.start()
        wait_for(lambda: client.get("/readyz").status == 200, "PostgreSQL is back", 20)

        own_servers.valkey.kill()
        try:
            bounds = {"to_id": sender.sent[0][-1][0], "limit": 5_000}
            assert as_sent(pages(client, path, **bounds))[0] == sender.sent[0]
            reply = client.get(f"{path}?from_id={sender.sent[0][-1][0]}")
            assert reply.json["next_id"] is not None, "there may be more, in Redis"
            assert client.get(f"{path}?from_id={reply.json['next_id']}").slug == "unavailable"
            with pytest.raises(http.client.IncompleteRead):
                stream(client, path)
        finally:
            own_servers.valkey.start()


def test_redis_that_lost_everything_hides_nothing(own_servers: EmbeddedServers, tmp_path: Path) -> None:
    with Cluster(own_servers, tmp_path, nodes=2, environment=QUIET) as cluster:
        client = Client(cluster.url(0), cluster.token())
        sender = made(client, "orders")
        path = "/v1/topics/orders/events"
        for _ in range(3):
            sender.send(1_000)
            wait_for(partial(is_persisted, own_servers, sender), "all of it is persisted", 20)
            with redis_client(own_servers.redis_url) as redis:
                redis.flushall()
            # At once, and while the owners find out and make the streams anew.
            for _ in range(20):
                assert as_sent(stream(client, path)) == sender.sent
        sender.send(100)
        assert as_sent(stream(client, path)) == sender.sent


def test_a_stream_that_its_node_cuts_goes_on_at_another(own_servers: EmbeddedServers, tmp_path: Path) -> None:
    with Cluster(own_servers, tmp_path, nodes=2, environment=QUIET) as cluster:
        one, two = (Client(url, cluster.token()) for url in cluster.urls)
        sender = made(one, "orders", **SHORT)
        for _ in range(8):
            sender.send(1_000, fill="x" * 4_000)  # 32 MB, which no socket takes in
        wait_for(partial(is_trimmed, own_servers, sender), "all of it is trimmed", 20)
        path = "/v1/topics/orders/events"
        connection = http.client.HTTPConnection(one.host, one.port, timeout=20)
        connection.request("GET", path, headers={"Authorization": f"Bearer {one.token}", **NDJSON})
        answer = connection.getresponse()
        said = bytearray(answer.read(100_000))
        cluster.ask_to_stop(0)
        with pytest.raises(http.client.IncompleteRead):
            read_on(answer, said)
        cluster.wait_stopped(0)
        connection.close()
        whole_lines = [json.loads(line) for line in said.split(b"\n")[:-1]]
        assert 0 < len(whole_lines) < sender.number
        last = whole_lines.pop()
        rest = stream(two, f"{path}?from_id=p{last['partition']}@{last['redis_id']}")
        assert rest[0] == last
        assert as_sent(whole_lines + rest) == sender.sent


def read_on(answer: http.client.HTTPResponse, said: bytearray) -> None:
    while piece := answer.read(1 << 20):
        said += piece


def test_readers_that_leave_take_nothing_along(own_servers: EmbeddedServers, tmp_path: Path) -> None:
    with Cluster(own_servers, tmp_path, nodes=1, environment=QUIET) as cluster:
        client = Client(cluster.url(0), cluster.token())
        sender = made(client, "orders", **SHORT)
        for _ in range(4):
            sender.send(2_500)
        wait_for(partial(is_trimmed, own_servers, sender), "all of it is trimmed", 20)
        head = f"Host: x\r\nAuthorization: Bearer {client.token}\r\nAccept: application/x-ndjson\r\n"
        message = f"GET /v1/topics/orders/events HTTP/1.1\r\n{head}\r\n".encode()
        sizes = [0, 1, 100, 5_000, 100_000]
        for number in range(200):
            with client.connect() as line:
                line.sendall(message)
                wanted = sizes[number % len(sizes)]
                while wanted > 0 and (piece := line.recv(wanted)):
                    wanted -= len(piece)
                if number % 2:
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        wait_for(lambda: in_flight(client) == 1, "only the request that asks is there", 10)
        assert set(sessions(own_servers.database_url)) <= {"idle"}
        began = time.monotonic()
        assert as_sent(stream(client, "/v1/topics/orders/events")) == sender.sent
        print(f"a whole reading after 200 that left: {time.monotonic() - began:.2f} s")
        assert "error" not in [json.loads(line)["level"] for line in cluster.log(0).splitlines() if line[:1] == "{"]


def in_flight(client: Client) -> int:
    def find(node: dict[str, Any]) -> Iterator[int]:
        if node.get("id") == "http":
            yield node["details"]["in_flight"]
        for child in node.get("children", ()):
            yield from find(child)

    return next(find(client.get("/v1/cluster").json["tree"]))


def sessions(database_url: str) -> list[str]:
    """What connections to PostgreSQL are doing that last read a page of history."""
    with psycopg.connect(database_url) as connection:
        query = "select state from pg_stat_activity where application_name like %s and query ~ %s"
        return [str(state) for (state,) in connection.execute(query, ("openstream %", "looked_at|floor_ms"))]

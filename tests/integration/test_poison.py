"""Poison on real nodes: what no consumer can work on leaves the way of the rest, once, whatever dies meanwhile."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import Cluster
from support.partitions import count_stored, lengths, wait_for

pytestmark = pytest.mark.timeout(180)
GROUP = "/v1/topics/orders/groups/g"
PARTITIONS = 4


@pytest.fixture
def two(own_servers: EmbeddedServers, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(own_servers, tmp_path, nodes=2, environment={"OPENSTREAM_LOG_LEVEL": "info"}) as cluster:
        yield cluster


def clients(cluster: Cluster) -> list[Client]:
    token = cluster.token()
    return [Client(url, token) for url in cluster.urls]


def a_group(client: Client, **settings: Any) -> None:
    client.put_topic("orders", PARTITIONS)
    reply = client.post("/v1/topics/orders/groups", {"group": "g", "start_id": "0-0", **settings})
    assert reply.status == 201, reply


def produce(client: Client, count: int, *, start: int = 0) -> None:
    numbers = range(start, start + count)
    reply = client.produce("orders", list(numbers), keys=[f"k{number % 10}" for number in numbers])
    assert reply.status == 200, reply


def items_of(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    by_partition: dict[int, list[str]] = {}
    for event in events:
        by_partition.setdefault(event["partition"], []).append(event["redis_id"])
    return [{"partition": partition, "redis_ids": ids} for partition, ids in by_partition.items()]


def nack(client: Client, events: Sequence[dict[str, Any]], **more: Any) -> dict[str, int]:
    reply = client.post(f"{GROUP}/nack", {"items": items_of(events), **more})
    assert reply.status == 200, reply
    found: dict[str, int] = reply.json
    return found


def letters(client: Client, *, limit: int = 1_000) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    at = ""
    while True:
        reply = client.get(f"{GROUP}/dead-letters?limit={limit}{at}")
        assert reply.status == 200, reply
        found += reply.json["dead_letters"]
        if reply.json["next_id"] is None:
            return found
        at = f"&from_id={reply.json['next_id']}"


def drain(client: Client, consumer: str, *, quiet_s: float = 0.5) -> list[dict[str, Any]]:
    """Read and ack until nothing comes any more."""
    found: list[dict[str, Any]] = []
    while events := client.read("orders", "g", consumer, block_ms=int(quiet_s * 1000)):
        client.ack("orders", "g", events)
        found += events
    return found


def test_a_key_that_is_always_nacked_ends_as_dead_letters_and_the_rest_flows(two: Cluster) -> None:
    one, other = clients(two)
    a_group(one, max_deliveries=3)
    produce(one, 200)
    done: list[int] = []
    deliveries: Counter[int] = Counter()
    deadline = time.monotonic() + 60
    while len(done) < 180 or len(letters(one)) < 20:
        assert time.monotonic() < deadline, (len(done), len(letters(one)))
        for number, client in enumerate((one, other)):
            events = client.read("orders", "g", f"c{number}", count=50, block_ms=50)
            bad = [event for event in events if event["partition_key"] == "k7"]
            deliveries.update(event["payload"] for event in bad)
            if bad:
                nack(client, bad, consumer=f"c{number}")
            good = [event for event in events if event["partition_key"] != "k7"]
            if good:
                client.ack("orders", "g", good)
            done += [event["payload"] for event in good]
    assert sorted(done) == [number for number in range(200) if number % 10 != 7]
    assert deliveries == dict.fromkeys(range(7, 200, 10), 3)
    found = letters(other)
    assert sorted(letter["payload"] for letter in found) == list(range(7, 200, 10))
    assert {(letter["reason"], letter["deliveries"], letter["redriven"]) for letter in found} == {("nacked", 3, False)}
    assert {letter["origin"]["topic"] for letter in found} == {"orders"}
    assert one.read("orders", "g", "c0", block_ms=0) == []
    described = one.get(GROUP).json
    assert (described["pending"], described["lag"], described["dead_letter_topic"]) == (0, 0, "orders.dlq.g")
    assert (
        sum(client.metric("openstream_dead_letters_total", topic="orders", group="g") for client in (one, other)) == 20
    )
    assert sum(client.metric("openstream_nacks_total", topic="orders", group="g") for client in (one, other)) == 60


@pytest.mark.chaos
def test_owners_that_are_killed_while_they_move_dead_letters_double_and_lose_none(
    two: Cluster, own_servers: EmbeddedServers
) -> None:
    one, other = clients(two)
    a_group(one, max_deliveries=1, claim_idle_ms=600_000)
    produce(one, 3_000)
    held = [event for _ in range(40) for event in one.read("orders", "g", "c", count=500)]
    assert len(held) == 3_000
    for start in range(0, 3_000, 500):
        client = one if start % 1_000 == 0 else other
        assert nack(client, held[start : start + 500])["dead_lettered"] == 500
        victim = 1 if client is one else 0
        time.sleep(0.004 * (start // 500))  # another moment of the move each time
        two.kill(victim)
        two.start(victim)
        two.wait_ready(victim)
    wait_for(lambda: one.get(GROUP).json["pending"] == 0, "everything is moved", 30)
    counts = Counter(letter["payload"] for letter in letters(other))
    assert counts == dict.fromkeys(range(3000), 1)
    wait_for(lambda: count_stored(own_servers.database_url, "orders.dlq.g") == 3_000, "and persisted", 20)


def test_dead_letters_are_redriven_once_however_often_one_asks(two: Cluster) -> None:
    one, other = clients(two)
    a_group(one, max_deliveries=1)
    assert one.post("/v1/topics/orders/groups", {"group": "h", "start_id": "0-0"}).status == 201
    produce(one, 60)
    while events := one.read("orders", "g", "c", count=100):
        nack(one, events)
    wait_for(lambda: len(letters(one)) == 60, "all are dead", 20)
    seen: list[dict[str, Any]] = []
    while events := one.read("orders", "h", "c"):
        seen += events
    assert len(seen) == 60
    replies: list[dict[str, Any]] = []

    def redrive(client: Client) -> None:
        reply = client.post(f"{GROUP}/dead-letters/redrive", {"to": "group", "all": True}, timeout=60)
        assert reply.status == 200, reply
        replies.append(reply.json)

    threads = [threading.Thread(target=redrive, args=[client]) for client in (one, other, one)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(replies) == 3
    assert sum(reply["redriven"] for reply in replies) == 60
    again = drain(other, "d")
    assert sorted(event["payload"] for event in again) == list(range(60))
    assert {event["deliveries"] for event in again} == {1}
    assert one.read("orders", "h", "c", block_ms=300) == [], "another group passes over them"
    assert all(letter["redriven"] for letter in letters(one))
    ids = [letters(one)[0]["letter_id"], "p0@5-5"]
    reply = one.post(f"{GROUP}/dead-letters/redrive", {"to": "topic", "ids": ids})
    assert (reply.json["redriven"], reply.json["already"], reply.json["unknown"]) == (0, 1, ["p0@5-5"])


def test_a_slow_handler_that_extends_keeps_its_events_and_one_that_does_not_loses_them(two: Cluster) -> None:
    one, other = clients(two)
    a_group(one, claim_idle_ms=1_000)
    produce(one, 2)
    [mine, lost] = sorted(
        [event for _ in range(2) for event in one.read("orders", "g", "slow", count=2)], key=lambda one: one["payload"]
    )
    began = time.monotonic()
    came: list[dict[str, Any]] = []
    while time.monotonic() - began < 4:
        reply = other.post(f"{GROUP}/extend", {"consumer": "slow", "items": items_of([mine])})
        assert (reply.status, reply.json["extended"], reply.json["lost"]) == (200, 1, []), reply
        came += other.read("orders", "g", "quick", block_ms=200)
    assert [(event["payload"], event["deliveries"]) for event in came][:1] == [(lost["payload"], 2)]
    assert {event["payload"] for event in came} == {lost["payload"]}
    reply = one.post(f"{GROUP}/extend", {"consumer": "slow", "items": items_of([mine, lost])})
    assert reply.json["lost"] == items_of([lost])
    assert one.ack("orders", "g", [mine]) == 1


def test_a_delayed_event_comes_when_it_is_due_through_trim_and_the_death_of_a_node(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    environment = {"OPENSTREAM_LOG_LEVEL": "info", "OPENSTREAM_RETENTION_MS": "100"}
    with Cluster(own_servers, tmp_path, nodes=2, environment=environment) as two:
        one, other = clients(two)
        a_group(one)
        produce(one, 20)
        held = [event for _ in range(4) for event in one.read("orders", "g", "c", count=20)]
        began = time.monotonic()
        assert nack(one, held, delay_ms=5_000) == {
            "topic": "orders", "group": "g", "nacked": 20, "dead_lettered": 0,
        }  # fmt: skip
        wait_for(lambda: sum(lengths(own_servers.redis_url, "orders", PARTITIONS)) == 0, "all is trimmed", 20)
        two.kill(0)
        found: list[dict[str, Any]] = []
        while len(found) < 20 and time.monotonic() - began < 40:
            found += other.read("orders", "g", "d", block_ms=500)
            if found:
                assert time.monotonic() - began >= 5
        assert sorted(event["payload"] for event in found) == list(range(20))
        assert {event["deliveries"] for event in found} == {2}
        assert other.ack("orders", "g", found) == 20


def test_a_paused_group_stands_still_on_every_node(two: Cluster) -> None:
    one, other = clients(two)
    a_group(one)
    produce(one, 10)
    assert one.request("PATCH", GROUP, {"paused": True}).json["paused"] is True
    wait_for(lambda: other.get(GROUP).json["paused"], "the other node has heard of it", 10)
    for client in (one, other):
        assert client.read("orders", "g", "c", block_ms=200) == []
    assert other.request("PATCH", GROUP, {"paused": False}).status == 200
    found = drain(one, "c", quiet_s=2.5)
    assert sorted(event["payload"] for event in found) == list(range(10))

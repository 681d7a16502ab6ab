"""A replay whose node is killed in the middle: it ends elsewhere, each event once, in order, at the pace asked for."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from openstream_ops.servers import EmbeddedServers
from openstream_runtime.domain.partitioning import partition_of
from support.client import Client
from support.cluster import Cluster
from support.partitions import count_stored, redis_client, wait_for

pytestmark = pytest.mark.timeout(180)
SOURCE, TARGET = 4, 6  # partitions
LEASE_S = 1.5
QUIET = {"OPENSTREAM_LEASE_MS": str(int(LEASE_S * 1000)), "OPENSTREAM_LOG_LEVEL": "info"}
Row = tuple[int, int, int, str | None, int, bytes | None]  # partition, ms, seq, key, number, headers


@pytest.fixture
def two(own_servers: EmbeddedServers, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(own_servers, tmp_path, nodes=2, environment=QUIET) as cluster:
        yield cluster


def fill(client: Client, servers: EmbeddedServers, count: int, *, topic: str = "orders") -> None:
    """`count` numbered events, one in ten without a key, all of them persisted."""
    for start in range(0, count, 2_000):
        numbers = range(start, min(start + 2_000, count))
        keys = [None if number % 10 == 0 else f"k{number % 97}" for number in numbers]
        reply = client.produce(topic, list(numbers), keys=keys, partitions=SOURCE)
        assert reply.status == 200, reply
    wait_for(lambda: count_stored(servers.database_url, topic) == count, "everything is persisted", 60)


def rows(servers: EmbeddedServers, topic: str) -> list[Row]:
    with psycopg.connect(servers.database_url) as connection:
        found = connection.execute(
            "SELECT partition, ms, seq, partition_key, payload, headers FROM openstream.events WHERE topic = %s "
            "ORDER BY partition, ms, seq",
            [topic],
        ).fetchall()
    return [
        (p, ms, seq, key, int(payload), (headers or "").encode() or None) for p, ms, seq, key, payload, headers in found
    ]


def start(client: Client, **wish: Any) -> str:
    reply = client.post("/v1/topics/orders/replays", {"target_topic": "copy", **wish})
    assert reply.status == 202, reply
    return str(reply.json["replay_id"])


def look(client: Client, replay: str) -> dict[str, Any]:
    reply = client.get(f"/v1/replays/{replay}")
    assert reply.status == 200, reply
    found: dict[str, Any] = reply.json
    return found


def check_copies(servers: EmbeddedServers, source: list[Row], replay: str) -> list[Row]:
    """Each event once, said to come from where it stands, where its key belongs, in the order of its source."""
    copies = rows(servers, "copy")
    assert sorted(number for *_, number, _ in copies) == sorted(number for *_, number, _ in source)
    places = {number: (partition, ms, seq) for partition, ms, seq, _, number, _ in source}
    last: dict[tuple[int, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for partition, _, _, key, number, headers in copies:
        origin, ms, seq = places[number]
        assert headers is not None
        said = msgspec.json.decode(headers, type=dict[str, str])
        assert said == {"openstream-replay-of": f"orders/{origin}/{ms}-{seq}", "openstream-replay": replay}
        assert partition == (origin % TARGET if key is None else partition_of(key, TARGET))
        assert last[partition, origin] < (ms, seq), "one source partition keeps its order in each target partition"
        last[partition, origin] = (ms, seq)
    return copies


def pace(copies: list[Row], rate: float) -> tuple[float, float]:
    """By Redis' clock: events a second over all, and the highest share of what was allowed up to any moment."""
    times = sorted(ms for _, ms, *_ in copies)
    whole = len(times) / ((times[-1] - times[0]) / 1000)
    peak = max(number / (rate * (ms - times[0]) / 1000) for number, ms in enumerate(times, 1) if ms - times[0] >= 1_000)
    return whole, peak


def kill_in_the_middle(cluster: Cluster, servers: EmbeddedServers, count: int, rate: float) -> None:
    clients = [Client(url, cluster.token(number=number)) for number, url in enumerate(cluster.urls)]
    names = [str(client.get("/v1/cluster").json["node"]) for client in clients]
    clients[0].put_topic("copy", TARGET)
    fill(clients[0], servers, count)
    source = rows(servers, "orders")
    replay = start(clients[1], rate_per_s=rate)
    seen = [look(clients[0], replay)]
    assert seen[0]["total"] == count

    def copied(at_least: int) -> bool:
        seen.append(look(clients[watching], replay))
        return bool(seen[-1]["copied"] >= at_least)

    watching = 0
    wait_for(lambda: copied(count * 2 // 5), "two fifths are copied", 60, every_s=0.05)
    victim = names.index(seen[-1]["node"])
    watching = 1 - victim
    cluster.kill(victim)
    killed, at_kill = time.monotonic(), seen[-1]["copied"]
    wait_for(lambda: copied(at_kill + 1), "the other node goes on", 30, every_s=0.02)
    followed = time.monotonic() - killed
    assert seen[-1]["node"] == names[watching]
    running = seen[-1]
    assert running["eta_ms"] is not None
    wait_for(lambda: copied(0) and seen[-1]["state"] == "done", "it is done", 120, every_s=0.1)
    wait_for(lambda: count_stored(servers.database_url, "copy") >= count, "the copies are persisted", 60)
    copies = check_copies(servers, source, replay)
    progress = [one["copied"] for one in seen]
    assert progress == sorted(progress), "progress never goes back"
    assert (seen[-1]["copied"], seen[-1]["total"], seen[-1]["eta_ms"]) == (count, count, None)
    whole, peak = pace(copies, rate)
    took = (seen[-1]["finished_ms"] - seen[-1]["created_ms"]) / 1000
    print(
        f"killed at {at_kill} of {count}; the other node had copied on after {followed:.2f} s (lease {LEASE_S} s); "
        f"{took:.2f} s in all, asked for {rate}/s, {whole:.0f}/s over all, at most {peak:.3f} of what was allowed"
    )
    assert followed < LEASE_S + 3.5
    assert peak <= 1.1


def test_a_replay_survives_the_node_that_runs_it(two: Cluster, own_servers: EmbeddedServers) -> None:
    kill_in_the_middle(two, own_servers, 20_000, 5_000)


@pytest.mark.chaos
def test_a_large_replay_survives_the_node_that_runs_it(two: Cluster, own_servers: EmbeddedServers) -> None:
    kill_in_the_middle(two, own_servers, 100_000, 8_000)


def test_the_rate_holds_from_the_first_second(two: Cluster, own_servers: EmbeddedServers) -> None:
    client, rate = Client(two.url(0), two.token()), 1_000
    client.put_topic("copy", TARGET)
    fill(client, own_servers, 5_000)
    source = rows(own_servers, "orders")
    replay = start(client, rate_per_s=rate)
    wait_for(lambda: look(client, replay)["state"] == "done", "it is done", 30)
    wait_for(lambda: count_stored(own_servers.database_url, "copy") >= 5_000, "the copies are persisted", 30)
    whole, peak = pace(check_copies(own_servers, source, replay), rate)
    print(f"asked for {rate}/s: {whole:.0f}/s over all, at most {peak:.3f} of what was allowed")
    assert 0.9 * rate <= whole <= 1.1 * rate
    assert peak <= 1.1


def test_a_node_that_is_stopped_gives_its_replay_back_at_once(own_servers: EmbeddedServers, tmp_path: Path) -> None:
    with Cluster(own_servers, tmp_path, nodes=2, environment={"OPENSTREAM_LEASE_MS": "20000"}) as cluster:
        clients = [Client(url, cluster.token(number=number)) for number, url in enumerate(cluster.urls)]
        names = [str(client.get("/v1/cluster").json["node"]) for client in clients]
        fill(clients[0], own_servers, 4_000)
        clients[0].put_topic("copy", TARGET)
        source = rows(own_servers, "orders")
        replay = start(clients[0], rate_per_s=1_000)
        wait_for(lambda: look(clients[0], replay)["copied"] > 0, "it has begun", 20)
        first = names.index(look(clients[0], replay)["node"])
        other = clients[1 - first]
        cluster.ask_to_stop(first)
        took = wait_for(lambda: look(other, replay)["node"] == names[1 - first], "the other has it", 15, every_s=0.02)
        cluster.wait_stopped(first)
        wait_for(lambda: look(other, replay)["state"] == "done", "it is done", 30)
        wait_for(lambda: count_stored(own_servers.database_url, "copy") >= 4_000, "the copies are persisted", 60)
        check_copies(own_servers, source, replay)
        print(f"the other node had it after {took:.2f} s; a lease is 20 s")
        assert took < 5


def test_a_redis_that_loses_everything_in_the_middle_costs_no_copy_and_doubles_none(
    two: Cluster, own_servers: EmbeddedServers
) -> None:
    client = Client(two.url(0), two.token())
    client.put_topic("copy", TARGET)
    fill(client, own_servers, 8_000)
    source = rows(own_servers, "orders")
    replay = start(client, rate_per_s=2_000)
    wait_for(lambda: look(client, replay)["copied"] >= 3_000, "it has come half way", 20)
    with redis_client(own_servers.redis_url) as redis:
        redis.flushall()
    flushed = time.monotonic()
    wait_for(lambda: look(client, replay)["state"] == "done", "it is done", 40)
    print(f"done {time.monotonic() - flushed:.1f} s after the flush")
    wait_for(lambda: count_stored(own_servers.database_url, "copy") >= 8_000, "the copies are persisted", 20)
    check_copies(own_servers, source, replay)


def test_a_cancelled_replay_stops_and_leaves_what_it_copied(two: Cluster, own_servers: EmbeddedServers) -> None:
    client = Client(two.url(0), two.token())
    fill(client, own_servers, 4_000)
    replay = start(client, rate_per_s=500)
    wait_for(lambda: look(client, replay)["copied"] > 0, "it has begun", 20)
    assert client.request("DELETE", f"/v1/replays/{replay}").status == 202
    wait_for(lambda: look(client, replay)["node"] is None, "its owner has let go of it", 10)
    ended = look(client, replay)
    assert ended["state"] == "cancelled"
    assert 0 < ended["copied"] < 4_000
    wait_for(lambda: count_stored(own_servers.database_url, "copy") == ended["copied"], "its copies are persisted", 20)
    assert [one["replay_id"] for one in client.get("/v1/replays").json["replays"]] == [replay]

"""More than a node can take: clear refusals in time, bounded memory, nothing accepted is lost, and an end to it."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from openstream_ops.servers import EmbeddedServers
from support.client import PROBLEM, Client, Reply
from support.cluster import Cluster
from support.fire import Memory, Shot, fire, stored_keys
from support.nodes import Nodes
from support.partitions import count_stored, lengths, redis_client, wait_for

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

MOST_MB = 300.0
#: The node's own longest wait for an append is 30 s; a client must hear much sooner.
SOON_S = 20.0
SMALL = {"OPENSTREAM_LOG_LEVEL": "info", "OPENSTREAM_MAILBOX_BYTES": str(1 << 20)}


def show(name: str, shots: Sequence[Shot], memory: Memory) -> None:
    slowest = max(shot.took_s for shot in shots)
    print(f"{name}: {Counter(shot.slug for shot in shots)}, slowest {slowest:.1f} s, {memory.grown_mb:.0f} MB more")


def check_answers(shots: Sequence[Shot]) -> None:
    """Taken, refused with the time to come back, or told that nobody knows; never a 500, never silence."""
    assert {shot.slug for shot in shots} <= {
        "ok",
        "overloaded",
        "unavailable",
        "outcome-unknown",
        "partly-done",
        "busy",
    }
    assert max(shot.took_s for shot in shots) < SOON_S
    for shot in shots:
        if shot.slug in ("overloaded", "unavailable", "busy"):
            assert shot.answer.status in (429, 503)
            assert shot.answer.retry_after_s >= 1, shot.answer


def check_stored(servers: EmbeddedServers, topic: str, shots: Sequence[Shot]) -> None:
    """What was accepted is in PostgreSQL once, what was refused is not, what nobody knew is there once or not."""
    accepted = {key for shot in shots if shot.slug == "ok" for key in shot.keys}
    wait_for(lambda: accepted <= stored_keys(servers.database_url, topic).keys(), "it is persisted", 60, every_s=0.5)
    found = stored_keys(servers.database_url, topic)
    assert {key: times for key, times in found.items() if times != 1} == {}
    refused = {key for shot in shots if shot.is_promised_away for key in shot.keys}
    assert refused & found.keys() == set()


async def test_a_crowd_of_big_requests_is_refused_in_time_and_in_bounded_memory(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    with Cluster(own_servers, tmp_path, nodes=1, environment=SMALL) as cluster:
        client = Client(cluster.url(0), cluster.token())
        client.put_topic("t", 4)
        crowd = {"requests": 400, "events": 40, "size": 5_000}
        async with Nodes(cluster.urls, cluster.token()) as nodes:
            with Memory(cluster.pid(0)) as memory:
                awake = await fire(nodes, "t", "awake", every_s=0.0, **crowd)
            show("redis awake", awake, memory)
            check_answers(awake)
            assert memory.grown_mb < MOST_MB
            own_servers.valkey.pause()
            try:
                with Memory(cluster.pid(0)) as memory:
                    asleep = await fire(nodes, "t", "asleep", every_s=0.01, **crowd)
            finally:
                own_servers.valkey.resume()
            show("redis asleep", asleep, memory)
            check_answers(asleep)
            assert memory.grown_mb < MOST_MB
            assert Counter(shot.slug for shot in asleep)["overloaded"] > 0
            wait_for(lambda: client.produce("t", ["after"], keys=["after"]).status == 200, "it takes events again", 15)
        check_stored(own_servers, "t", [*awake, *asleep])


async def test_bodies_that_never_end_fill_no_memory_and_keep_nobody_out(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    almost = b'{"events":[{"event_type":"t","payload":"' + b"x" * (7 << 20)
    with Cluster(own_servers, tmp_path, nodes=1, environment=SMALL) as cluster, ExitStack() as open_sockets:
        client = Client(cluster.url(0), cluster.token())
        client.put_topic("t", 1)
        message = client.message("/v1/topics/t/events", almost, length=8 << 20)
        with Memory(cluster.pid(0)) as memory:

            async def send() -> None:
                """Seven eighths of a body, as far as the node takes it, and then nothing more."""
                stream = open_sockets.enter_context(client.connect())
                stream.setblocking(False)
                with anyio.move_on_after(3):
                    left = memoryview(message)
                    while left:
                        try:
                            left = left[stream.send(left) :]
                        except BlockingIOError:
                            await anyio.sleep(0.01)
                        except OSError:
                            return  # cut off: so be it

            async with anyio.create_task_group() as senders:
                for _ in range(80):
                    senders.start_soon(send)
            small = await anyio.to_thread.run_sync(lambda: client.produce("t", ["small"], timeout=10))
        print(f"80 bodies that never end: {memory.grown_mb:.0f} MB more; a small request: {small}")
        assert memory.grown_mb < MOST_MB
        # Refused for the crowd, for as long as the crowd is there, is an answer too.
        assert small.status == 200 or (small.status in (429, 503) and "retry-after" in small.headers), small
        open_sockets.close()
        wait_for(lambda: client.produce("t", ["after"]).status == 200, "it takes events again", 15)
        wait_for(lambda: count_stored(own_servers.database_url, "t") >= 1, "and persists them", 15)
        payloads = {event["payload"] for event in events_of(client)}
        assert payloads <= {"small", "after"}


def events_of(client: Client) -> list[dict[str, object]]:
    client.make_group("t", "lookers")
    return list(client.read("t", "lookers", "c"))


def refused_for(reply: Reply, reason: str) -> bool:
    if reply.status == 200:
        return False
    assert reply.status == 429, reply
    assert reply.headers["content-type"] == PROBLEM
    assert int(reply.headers["retry-after"]) >= 1
    told = reply.json
    assert (told["type"], told["outcome"], told["reason"]) == ("/problems/overloaded", "not_stored", reason), told
    assert told["retry_after_ms"] >= 1
    return True


async def test_a_partition_that_is_too_long_or_too_far_ahead_of_postgresql_refuses_until_it_is_not(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    environment = {
        **SMALL,
        "BACKPRESSURE_MAX_STREAM_LEN": "900",
        "OPENSTREAM_MAX_UNPERSISTED": "500",
        "OPENSTREAM_LOG_LEVEL": "info",
    }
    with Cluster(own_servers, tmp_path, nodes=2, environment=environment) as cluster:
        clients = [Client(url, cluster.token()) for url in cluster.urls]
        clients[0].put_topic("ahead", 1)
        assert clients[0].request("PUT", "/v1/topics/long", {"partitions": 1, "max_stream_len": 300}).status == 201
        kept = dict.fromkeys(("ahead", "long"), 0)

        def until_refused(topic: str, reason: str, bound: int) -> None:
            """Produce through both nodes in turns until one refuses; never more than the bound and one request."""
            for number in range(100):
                if refused_for(clients[number % 2].produce(topic, ["x"] * 50), reason):
                    break
                kept[topic] += 50
            assert bound <= kept[topic] < bound + 50
            # What one knows the other one knows.
            assert refused_for(clients[0].produce(topic, ["x"]), reason)
            assert refused_for(clients[1].produce(topic, ["x"]), reason)

        for topic in kept:
            assert clients[0].produce(topic, ["first"]).status == 200
            kept[topic] += 1
            wait_for(lambda: count_stored(own_servers.database_url, topic) == 1, "it is persisted", 15)  # noqa: B023
        own_servers.postgres.stop()
        until_refused("ahead", "unpersisted", 501)
        until_refused("long", "stream_length", 300)
        assert lengths(own_servers.redis_url, "ahead", 1) == [kept["ahead"]]
        assert lengths(own_servers.redis_url, "long", 1) == [kept["long"]]
        own_servers.postgres.start()
        for topic in kept:
            for client in clients:
                wait_for(lambda: client.produce(topic, ["again"]).status == 200, "it takes events again", 30)  # noqa: B023
            kept[topic] += 2
            wait_for(lambda: count_stored(own_servers.database_url, topic) == kept[topic], "all is persisted", 20)  # noqa: B023


async def test_a_redis_without_memory_refuses_and_recovers_by_persisting_and_trimming_alone(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    # The sampled bound is set so high that Redis' own refusal is met.
    environment = {**SMALL, "OPENSTREAM_RETENTION_MS": "1000", "OPENSTREAM_MAX_REDIS_MEMORY": "1"}
    with Cluster(own_servers, tmp_path, nodes=1, environment=environment) as cluster:
        client = Client(cluster.url(0), cluster.token())
        client.put_topic("t", 2)
        client.make_group("t", "workers")
        assert client.produce("t", ["first"]).status == 200
        with redis_client(own_servers.redis_url) as valkey:
            used = int(valkey.info("memory")["used_memory"])
            valkey.config_set("maxmemory", used + (12 << 20))
            own_servers.postgres.stop()  # so that nothing is persisted, and nothing trimmed
            kept, payload = 1, "x" * 10_000
            for _ in range(200):
                reply = client.produce("t", [payload] * 20, keys=[f"k{number}" for number in range(20)])
                if reply.slug == "overloaded":
                    break
                # Near the end there may be room for one partition's events and none for the other's.
                assert reply.status == 200 or (reply.status, reply.slug) == (429, "partly-done"), reply
                assert reply.status == 200 or "retry-after" in reply.headers
                kept += sum("redis_id" in result for result in reply.json["results"])
            assert refused_for(reply, "redis_memory")
            # Consumers are not locked out: what they do makes room, or takes little.
            got = client.read("t", "workers", "c", count=10)
            assert len(got) == 10
            assert client.ack("t", "workers", got) == 10
            own_servers.postgres.start()
            took = wait_for(lambda: client.produce("t", ["again"]).status == 200, "it recovers by itself", 60)
            print(f"out of memory after {kept} events; took events again {took:.1f} s after PostgreSQL was back")
            assert valkey.config_get("maxmemory")["maxmemory"] == str(used + (12 << 20))
        wait_for(lambda: count_stored(own_servers.database_url, "t") == kept + 1, "all is persisted once", 30)


def test_more_connections_than_requests_may_be_in_flight_are_told_so_and_the_node_stays_alive(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    environment = {**SMALL, "OPENSTREAM_MAX_REQUESTS": "50"}
    with Cluster(own_servers, tmp_path, nodes=1, environment=environment) as cluster, ExitStack() as polls:
        client = Client(cluster.url(0), cluster.token())
        client.put_topic("t", 1)
        client.make_group("t", "workers")
        body = b'{"consumer":"c","count":1,"block_ms":20000}'
        streams: list[socket.socket] = []
        for _ in range(50):
            streams.append(polls.enter_context(client.connect()))
            streams[-1].sendall(client.message("/v1/topics/t/groups/workers/read", body))
        wait_for(lambda: client.produce("t2", ["x"]).status == 503, "fifty long-polls are all there may be", 10)
        refused = client.produce("t2", ["x"])
        assert (refused.status, refused.slug) == (503, "busy")
        assert "retry-after" in refused.headers
        for path in ("/livez", "/readyz", "/metrics"):
            assert client.get(path).status == 200  # a full node is not a dead node
        polls.close()
        wait_for(lambda: client.produce("t2", ["x"]).status == 200, "room again when they have left", 15)

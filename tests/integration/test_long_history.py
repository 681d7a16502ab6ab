"""A million events in PostgreSQL: streamed in constant memory, at the pace of the reader, and searched by the index."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from openstream_ops.servers import EmbeddedServers
from openstream_runtime.store.queries import query
from support.client import Client
from support.cluster import Cluster
from support.fire import Memory
from support.store_harness import batch, event, new_topic, real_store, taken

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

EVENTS, DAYS, KEYS = 1_000_000, 4, 10_000
DAY = 86_400_000
FIRST_DAY = 20_000
A_DAY = EVENTS // DAYS
READ = "/partitions/0/events"


async def filled(database_url: str) -> str:
    """A topic with so many events as only PostgreSQL has, as if they had been persisted and trimmed long ago."""
    async with real_store(database_url) as store:
        topic = await new_topic(store)
        for day in range(FIRST_DAY, FIRST_DAY + DAYS):
            other = await new_topic(store)
            await store.events.write([batch(other, await taken(store, other), [event(day * DAY)])])
        await store.query(
            "INSERT INTO openstream.event_log (topic_id, partition, generation, idx, keep, ms, seq, event_type, "
            "partition_key, payload, timestamp_ms) "
            "SELECT %s, 0, 0, 0, 0, (%s + n / %s) * 86400000::bigint + n %% %s / 5, n %% 5, 'order.created', "
            "'user-' || n %% %s, "
            "convert_to('{\"number\": ' || n || ', \"fill\": \"' || repeat('x', 80) || '\"}', 'UTF8'), n "
            "FROM generate_series(0, %s) AS n",
            *(topic.id, FIRST_DAY, A_DAY, A_DAY, KEYS, EVENTS - 1),
        )
        await store.query(
            "UPDATE openstream.partitions SET n = %s, (last_ms, last_seq) = "
            "(SELECT ms, seq FROM openstream.event_log WHERE topic_id = %s ORDER BY ms DESC, seq DESC LIMIT 1) "
            "WHERE topic_id = %s",
            *(EVENTS, topic.id, topic.id),
        )
        await store.query("ANALYZE openstream.event_log")
        return topic.name


@pytest.fixture
def topic(own_servers: EmbeddedServers) -> str:
    began = time.monotonic()
    name = anyio.run(filled, own_servers.database_url)
    print(f"{EVENTS:,} events in PostgreSQL after {time.monotonic() - began:.0f} s")
    return name


@pytest.fixture
def cluster(own_servers: EmbeddedServers, topic: str, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(own_servers, tmp_path, nodes=1, environment={"OPENSTREAM_LOG_LEVEL": "info"}) as cluster:
        yield cluster


class Reader:
    """A stream that is being read; `first_line_ms` after the request was sent."""

    def __init__(self, client: Client, path: str) -> None:
        self._connection = http.client.HTTPConnection(client.host, client.port, timeout=60)
        headers = {"Authorization": f"Bearer {client.token}", "Accept": "application/x-ndjson"}
        began = time.monotonic()
        self._connection.request("GET", path, headers=headers)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200, self._answer.read()
        self._first = self._answer.readline()
        self.first_line_ms = (time.monotonic() - began) * 1000

    def lines(self) -> Iterator[bytes]:
        yield self._first
        rest = b""
        while piece := self._answer.read(1 << 18):
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
        assert rest == b""

    def close(self) -> None:
        self._connection.close()


def number_of(line: bytes) -> int:
    """Which event a line is, without the cost of a parser for a million of them."""
    begin = line.index(b'"number": ') + len(b'"number": ')
    return int(line[begin : line.index(b",", begin)])


def test_a_million_events_stream_in_constant_memory_and_the_first_is_there_at_once(
    cluster: Cluster, topic: str
) -> None:
    client = Client(cluster.url(0), cluster.token())
    path = f"/v1/topics/{topic}{READ}"
    assert client.get(f"{path}?limit=10").status == 200
    with Memory(cluster.pid(0)) as memory:
        began = time.monotonic()
        reader = Reader(client, path)
        expected = 0
        for line in reader.lines():
            assert number_of(line) == expected
            expected += 1
        took = time.monotonic() - began
        reader.close()
    print(
        f"{expected:,} events in {took:.1f} s, {expected / took:,.0f} a second; first line after "
        f"{reader.first_line_ms:.0f} ms; memory {memory.before >> 20} MB, grown by {memory.grown_mb:.1f} MB"
    )
    assert expected == EVENTS
    assert memory.grown_mb < 50
    assert reader.first_line_ms < 200


def test_readers_that_take_their_time_cost_next_to_nothing(
    cluster: Cluster, topic: str, own_servers: EmbeddedServers
) -> None:
    client = Client(cluster.url(0), cluster.token())
    path = f"/v1/topics/{topic}{READ}"
    assert client.get(f"{path}?limit=10").status == 200
    with Memory(cluster.pid(0)) as memory:
        readers = [Reader(client, path) for _ in range(20)]
        time.sleep(2)  # by now every socket between them and us is full
        with psycopg.connect(own_servers.database_url) as connection:
            held = "select 1 from pg_stat_activity where application_name like %s and query ~ %s and state <> 'idle'"
            found = connection.execute(held, ("openstream %", "looked_at|floor_ms")).fetchall()
            assert found == [], "nothing is open at PostgreSQL for a reader that waits"
        pages = [client.get(f"{path}?limit=100&key=user-{n}").status for n in range(20)]
        for reader in readers:
            reader.close()
    print(f"20 readers that wait: memory grown by {memory.grown_mb:.1f} MB")
    assert set(pages) == {200}
    assert memory.grown_mb < 50


def test_a_keys_history_comes_by_the_index(cluster: Cluster, topic: str, own_servers: EmbeddedServers) -> None:
    client = Client(cluster.url(0), cluster.token())
    path = f"/v1/topics/{topic}{READ}"
    assert client.get(f"{path}?limit=1").status == 200
    took = []
    for key in range(200):
        began = time.monotonic()
        answer = client.get(f"{path}?key=user-{key}&limit=1000").json
        took.append((time.monotonic() - began) * 1000)
        assert [one["payload"]["number"] for one in answer["events"]] == list(range(key, EVENTS, KEYS))
        assert answer["next_id"] is None
    took.sort()
    print(f"a key's {EVENTS // KEYS} events of {EVENTS:,}: median {took[100]:.1f} ms, 95th {took[190]:.1f} ms")
    assert took[100] < 50
    plan = json.dumps(explained(own_servers.database_url, topic))
    assert "Seq Scan" not in plan
    assert "Index Scan" in plan
    assert "event_log_key" in plan or "hashtextextended" in plan


def explained(database_url: str, topic: str) -> Any:
    """What PostgreSQL does for a page of one key, to be read over all the days there are."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT id FROM openstream.topics WHERE name = %s", (topic,)).fetchone()
        assert row is not None
        values = {
            "topic_id": row[0], "partition": 0, "first_ms": 0, "first_seq": 1, "last_ms": 2**63 - 1,
            "last_seq": 2**63 - 1, "event_type": None, "key": "user-7", "count": 1000, "max_bytes": 4 << 20,
            "scan": 1000,
        }  # fmt: skip
        found = connection.execute(b"EXPLAIN (ANALYZE, FORMAT JSON) " + query("history_page_of_key"), values).fetchone()
        assert found is not None
        return found[0]

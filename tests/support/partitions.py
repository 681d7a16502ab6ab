"""A topic's partitions as Redis and PostgreSQL show them, past every line of our own code; and how tests wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import redis


@contextmanager
def redis_client(url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(url, protocol=2)
    try:
        yield client
    finally:
        client.close()


def stream(topic: str, partition: int) -> str:
    return f"os:stream:{topic}:{partition}"


def holders(redis_url: str, topic: str, partitions: int) -> list[str | None]:
    """The node that holds each partition's lease."""
    with redis_client(redis_url) as client:
        values = [client.get(f"{{{stream(topic, number)}}}:lease") for number in range(partitions)]
    return [value.decode().partition(":")[0] if isinstance(value, bytes) else None for value in values]


def lengths(redis_url: str, topic: str, partitions: int) -> list[int]:
    with redis_client(redis_url) as client:
        return [int(client.xlen(stream(topic, number))) for number in range(partitions)]


def last_ids(redis_url: str, topic: str, partitions: int) -> list[str]:
    """The last id each stream has given; `0-0` where there is no stream."""
    with redis_client(redis_url) as client:
        return [
            client.xinfo_stream(stream(topic, number))["last-generated-id"].decode()
            if client.exists(stream(topic, number))
            else "0-0"
            for number in range(partitions)
        ]


def last_entries(redis_url: str, topic: str, partitions: int) -> dict[int, str]:
    """The id of the last entry of each stream that has one."""
    found: dict[int, str] = {}
    with redis_client(redis_url) as client:
        for number in range(partitions):
            entries: Any = client.xrevrange(stream(topic, number), count=1)
            if entries:
                found[number] = entries[0][0].decode()
    return found


def cursors(database_url: str, topic: str) -> dict[int, tuple[int, int]]:
    """Up to where PostgreSQL has each partition."""
    query = """
        select p.partition, p.last_ms, p.last_seq from openstream.partitions p
        join openstream.topics t on t.id = p.topic_id where t.name = %s
    """
    with psycopg.connect(database_url) as connection:
        return {partition: (ms, seq) for partition, ms, seq in connection.execute(query, (topic,)).fetchall()}


def stored(database_url: str, topic: str) -> list[tuple[int, str, bytes]]:
    """(partition, redis_id, payload) of every row of `openstream.events`, in order."""
    query = """
        select partition, redis_id, payload from openstream.events where topic = %s
        order by partition, generation, ms, seq
    """
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(query, (topic,)).fetchall()
    return [
        (partition, at, payload if isinstance(payload, bytes) else str(payload).encode())
        for partition, at, payload in rows
    ]


def count_stored(database_url: str, topic: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("select count(*) from openstream.events where topic = %s", (topic,)).fetchone()
    return int(row[0]) if row else 0


def checkpointed(database_url: str, topic: str, group: str) -> dict[int, tuple[int, int]]:
    """Up to where PostgreSQL knows that a group has acknowledged everything, by partition."""
    query = """
        select p.partition, p.ms, p.seq from openstream.group_positions p
        join openstream.topics t on t.id = p.topic_id where t.name = %s and p.name = %s
    """
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(query, (topic, group)).fetchall()
    return {partition: (ms, seq) for partition, ms, seq in rows}


def wait_for(condition: Callable[[], object], what: str, within_s: float, *, every_s: float = 0.05) -> float:
    """Poll until it holds; how many seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, f"waited {within_s:.0f} s in vain: {what}"
        time.sleep(every_s)
    return time.monotonic() - began

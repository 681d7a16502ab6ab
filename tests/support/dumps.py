"""What Redis and PostgreSQL hold of a topic at the end of a run, read past every line of our own code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
import redis

from support.history import Seen, parse_id, seen

PAGE = 5_000


class Row(NamedTuple):
    """A row of `openstream.events`."""

    generation: int
    seen: Seen


#: The entries of each partition's stream, in stream order.
RedisDump = Mapping[int, Sequence[Seen]]
#: The rows of each partition, ordered by generation and position.
PgDump = Mapping[int, Sequence[Row]]


def dump_redis(url: str, topic: str, partitions: int) -> RedisDump:
    """XRANGE over every stream of the topic."""
    client = redis.Redis.from_url(url, protocol=2)
    try:
        return {partition: _stream(client, topic, partition) for partition in range(partitions)}
    finally:
        client.close()


def dump_partition(url: str, topic: str, partition: int) -> Sequence[Seen]:
    """XRANGE over one stream, at the server that has it."""
    client = redis.Redis.from_url(url, protocol=2)
    try:
        return _stream(client, topic, partition)
    finally:
        client.close()


def dump_postgres(url: str, topic: str) -> PgDump:
    """`select … from openstream.events`, through a cursor on the server."""
    rows: dict[int, list[Row]] = {}
    query = """
        select partition, generation, ms, seq, redis_id, partition_key, payload
        from openstream.events where topic = %s order by partition, generation, ms, seq
    """
    with psycopg.connect(url) as connection, connection.cursor("dump") as cursor:
        cursor.itersize = PAGE
        cursor.execute(query, (topic,))
        for partition, generation, ms, seq, redis_id, key, payload in cursor:
            if parse_id(redis_id) != (ms, seq):
                raise AssertionError(f"a row of {topic}/{partition} says redis_id={redis_id} and ms-seq={ms}-{seq}")
            rows.setdefault(partition, []).append(Row(generation, seen(partition, (ms, seq), key, _bytes(payload))))
    return rows


def _stream(client: redis.Redis, topic: str, partition: int) -> list[Seen]:
    found = []
    # In one step, however long it is: between two pages the owner may trim, and that would look like a hole.
    entries: Any = client.xrange(f"os:stream:{topic}:{partition}", "-", "+")
    for raw_id, fields in entries:
        key = fields.get(b"k")
        found.append(seen(partition, parse_id(raw_id.decode()), None if key is None else key.decode(), fields[b"p"]))
    return found


def _bytes(payload: object) -> bytes:
    if isinstance(payload, bytes | memoryview):
        return bytes(payload)
    if isinstance(payload, str):
        return payload.encode()
    raise AssertionError(f"openstream.events shows a payload as {type(payload).__name__}: not the bytes that were sent")

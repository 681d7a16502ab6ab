"""The dumps, from real servers: every entry and row, in order, over page borders, and bytes that are not ours."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest
import redis
from psycopg import sql
from psycopg.conninfo import make_conninfo

from support.dumps import PAGE, Row, dump_postgres, dump_redis
from support.history import payload_of, seen


@pytest.fixture
def topic() -> str:
    return f"dumps-{secrets.token_hex(4)}"


@pytest.fixture
def database(database_url: str) -> Iterator[str]:
    """A database of our own with rows in the shape of `openstream.events`, so that no node is needed to fill it."""
    name = f"dumps_{secrets.token_hex(4)}"
    with psycopg.connect(database_url, autocommit=True) as server:
        server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        yield make_conninfo(database_url, dbname=name)
        server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def test_every_entry_of_every_stream_is_there_in_order(redis_url: str, topic: str) -> None:
    number = 2 * PAGE + 1  # two full pages and one entry more
    with redis.Redis.from_url(redis_url, protocol=2) as client, client.pipeline(transaction=False) as pipe:
        for seq in range(number):
            fields = {"t": "load", "p": payload_of(("p0", seq), "k1"), "s": "1", "k": "k1"}
            pipe.xadd(f"os:stream:{topic}:0", fields, id=f"{1_000 + seq // 3}-{seq % 3}")
        pipe.xadd(f"os:stream:{topic}:2", {"t": "x", "p": b'{"foreign": true}', "s": "1"}, id="7-0")
        pipe.execute()
    try:
        dump = dump_redis(redis_url, topic, 3)
    finally:
        with redis.Redis.from_url(redis_url) as client:
            client.delete(f"os:stream:{topic}:0", f"os:stream:{topic}:2")
    assert [one.ev for one in dump[0]] == [("p0", seq) for seq in range(number)]
    assert dump[0][4] == seen(0, (1_001, 1), "k1", payload_of(("p0", 4), "k1"))
    assert list(dump[1]) == []
    assert [(one.ev, one.key, one.id) for one in dump[2]] == [(None, None, (7, 0))]


@pytest.mark.parametrize("payload_type", ["text", "bytea"])
def test_every_row_of_the_view_is_there_in_order(database: str, topic: str, payload_type: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("create schema openstream")
        connection.execute(
            sql.SQL(
                "create table openstream.events (topic text, partition int, redis_id text, generation int, ms bigint,"
                " seq bigint, partition_key text, payload {})"
            ).format(sql.SQL(payload_type))
        )
        payloads = [payload_of(("p0", seq), "k1") for seq in range(3)]
        values = [payload if payload_type == "bytea" else payload.decode() for payload in payloads]
        rows = [
            (topic, 1, "10-0", 0, 10, 0, "k1", values[1]),
            (topic, 1, "9-0", 0, 9, 0, "k1", values[0]),
            (topic, 1, "5-0", 1, 5, 0, "k1", values[2]),
            ("another", 1, "1-0", 0, 1, 0, "k1", values[0]),
        ]
        insert = "insert into openstream.events values (%s, %s, %s, %s, %s, %s, %s, %s)"
        connection.cursor().executemany(insert, rows)
    assert dump_postgres(database, topic) == {
        1: [
            Row(0, seen(1, (9, 0), "k1", payloads[0])),
            Row(0, seen(1, (10, 0), "k1", payloads[1])),
            Row(1, seen(1, (5, 0), "k1", payloads[2])),
        ]
    }


def test_a_payload_that_is_shown_as_anything_but_its_bytes_is_an_error(database: str, topic: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("create schema openstream")
        connection.execute(
            "create table openstream.events (topic text, partition int, redis_id text, generation int, ms bigint,"
            " seq bigint, partition_key text, payload jsonb)"
        )
        connection.execute("insert into openstream.events values (%s, 0, '1-0', 0, 1, 0, 'k', '{}')", (topic,))
    with pytest.raises(AssertionError, match="not the bytes that were sent"):
        dump_postgres(database, topic)

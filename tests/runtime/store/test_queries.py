"""queries.sql: every statement has one name, is used, and is one the schema understands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from psycopg import AsyncConnection, AsyncRawCursor

import openstream_runtime.store
from openstream_runtime.store.queries import QUERIES, parse, query
from support.store_harness import RealUnderTest

ROOM = Path(openstream_runtime.store.__file__).parent


def test_statements_are_found_by_name() -> None:
    assert parse("-- said first\n-- name: one\nSELECT 1\n\n-- name: two\n-- why\nSELECT 2\n") == {
        "one": b"SELECT 1",
        "two": b"-- why\nSELECT 2",
    }


def test_a_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="one"):
        parse("-- name: one\nSELECT 1\n-- name: one\nSELECT 2\n")


def test_a_name_that_is_not_there_is_noticed_at_once() -> None:
    with pytest.raises(KeyError):
        query("no_such_query")


def test_every_statement_is_used() -> None:
    sources = "".join(path.read_text() for path in ROOM.glob("*.py"))
    assert set(re.findall(r'query\("([a-z_]+)"\)', sources)) == set(QUERIES)


@pytest.mark.anyio
@pytest.mark.parametrize("name", sorted(set(QUERIES) - {"copy_events"}))  # COPY cannot be prepared
async def test_the_schema_understands_every_statement(store: RealUnderTest, name: str) -> None:
    numbers = iter(range(1, 100))
    text = re.sub(r"%s|%\([a-z_]+\)s", lambda _match: f"${next(numbers)}", QUERIES[name].decode())
    async with await AsyncConnection.connect(store.database_url, cursor_factory=AsyncRawCursor) as connection:
        await connection.execute(f"PREPARE it AS {text}".encode())

"""Migrations: concurrent nodes, edited files, newer schemas, failures in the middle."""

from __future__ import annotations

import importlib.resources
import secrets
from collections.abc import Sequence

import anyio
import psycopg
import pytest
from psycopg import AsyncConnection

from openstream_runtime.domain.errors import Unavailable
from openstream_runtime.store import MigrationFailed, Misconfigured, SchemaMismatch, migrate, open_store, schema
from openstream_runtime.store.schema import Migration, pending, read_migrations

pytestmark = pytest.mark.anyio


def then(*texts: str) -> list[Migration]:
    """Our migrations and some more."""
    known = read_migrations()
    return known + [Migration(len(known) + 1 + n, "more", text) for n, text in enumerate(texts)]


async def query(url: str, statement: str) -> list[tuple[object, ...]]:
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


async def test_an_empty_database_gets_every_migration_once(empty_url: str) -> None:
    said: list[str] = []
    assert await migrate(empty_url, on_progress=said.append) == len(read_migrations())
    assert said[0] == f"applying migration {read_migrations()[0]}"
    assert len(said) == 2 * len(read_migrations())
    assert await migrate(empty_url, on_progress=said.append) == 0
    assert len(said) == 2 * len(read_migrations())


async def test_nodes_that_start_together_apply_each_migration_once(empty_url: str) -> None:
    done: list[int] = []

    async def start() -> None:
        done.append(await migrate(empty_url))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(start)
    assert sum(done) == len(read_migrations())
    assert len(done) == 5
    async with open_store(empty_url) as store:
        await store.events.ping()


async def test_a_later_migration_is_applied_on_top(empty_url: str) -> None:
    await migrate(empty_url)
    assert await migrate(empty_url, migrations=then("CREATE TABLE openstream.more ()")) == 1
    assert await query(empty_url, "SELECT count(*) FROM openstream.more") == [(0,)]


async def test_a_file_that_was_edited_after_it_was_applied_is_refused(empty_url: str) -> None:
    await migrate(empty_url)
    first, *rest = read_migrations()
    edited = [Migration(first.number, first.name, first.text + "-- just a comment\n"), *rest]
    with pytest.raises(SchemaMismatch, match="0001_catalog is not the file that was applied"):
        await migrate(empty_url, migrations=edited)


async def test_a_schema_of_a_newer_version_is_refused(empty_url: str) -> None:
    await migrate(empty_url, migrations=then("CREATE TABLE openstream.more ()"))
    with pytest.raises(SchemaMismatch, match="newer version"):
        await migrate(empty_url)
    with pytest.raises(SchemaMismatch, match="newer version"):
        async with open_store(empty_url):
            pytest.fail("opened")


async def test_a_database_that_was_not_migrated_cannot_be_opened(empty_url: str) -> None:
    with pytest.raises(SchemaMismatch, match="0001_catalog"):
        async with open_store(empty_url):
            pytest.fail("opened")


async def test_a_migration_that_fails_leaves_nothing_behind_and_those_before_it_stand(empty_url: str) -> None:
    broken = then("CREATE TABLE openstream.more (); SELECT 1 / 0")
    with pytest.raises(MigrationFailed, match="division by zero") as caught:
        await migrate(empty_url, migrations=broken)
    assert caught.value.facts["sqlstate"] == "22012"
    assert await query(empty_url, "SELECT to_regclass('openstream.more')") == [(None,)]
    async with open_store(empty_url) as store:
        await store.events.ping()


async def test_a_lock_that_another_node_never_lets_go_ends_the_wait(empty_url: str) -> None:
    async with await AsyncConnection.connect(empty_url) as holder:
        await holder.execute("SELECT pg_advisory_xact_lock(%s)", [schema._LOCK])
        with pytest.raises(Unavailable, match="lock"):
            await migrate(empty_url, timeout=0.3)


async def test_a_server_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await migrate("postgresql://nobody:none@127.0.0.1:1/nothing")


async def test_what_is_no_url_is_refused_without_repeating_it() -> None:
    with pytest.raises(Misconfigured) as caught:
        await migrate("postgresql://user:hunter2@[host/db")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_database_in_another_encoding_is_refused(empty_url: str) -> None:
    name = f"latin_{secrets.token_hex(4)}"
    await query(
        empty_url, f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0"
    )
    try:
        with pytest.raises(Misconfigured, match="LATIN1"):
            await migrate(empty_url.rpartition("/")[0] + "/" + name)
    finally:
        await query(empty_url, f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_role_that_may_not_create_schemas_gets_by_with_one_that_exists(empty_url: str) -> None:
    role = f"role_{secrets.token_hex(4)}"
    database = empty_url.rpartition("/")[2]
    await query(empty_url, f"CREATE ROLE {role} LOGIN PASSWORD 'x'; REVOKE CREATE ON DATABASE {database} FROM PUBLIC")
    try:
        limited = psycopg.conninfo.make_conninfo(empty_url, user=role, password="x")
        with pytest.raises(MigrationFailed, match="permission denied"):
            await migrate(limited)
        await query(empty_url, f"CREATE SCHEMA openstream AUTHORIZATION {role}")
        assert await migrate(limited) == len(read_migrations())
        async with open_store(limited) as store:
            await store.events.ping()
    finally:
        await query(empty_url, f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_migrations_are_told_apart_by_their_number_and_checksum() -> None:
    known = [Migration(1, "a", "A"), Migration(2, "b", "B")]
    assert pending(known, {}) == known
    assert pending(known, {1: known[0].checksum}) == known[1:]
    assert pending(known, {1: known[0].checksum, 2: known[1].checksum}) == []
    with pytest.raises(SchemaMismatch):
        pending(known, {1: known[0].checksum, 2: known[1].checksum, 3: "x"})


@pytest.mark.parametrize("names", [["0001_a.sql", "0003_c.sql"], ["0001_a.sql", "0001_b.sql"], ["0002_b.sql"]])
def test_numbers_with_gaps_are_refused(
    names: Sequence[str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("migrations")
    (folder / "migrations").mkdir()
    for name in [*names, "notes.txt"]:
        (folder / "migrations" / name).write_text("SELECT 1")
    monkeypatch.setattr(importlib.resources, "files", lambda _package: folder)
    with pytest.raises(ValueError, match="without gaps"):
        read_migrations()

"""SQL for people: what a member of openstream_reader may do, and that a node that may not make the role starts."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from psycopg import AsyncConnection, errors, sql
from psycopg.conninfo import make_conninfo
from structlog.testing import capture_logs

from openstream_ops.servers import EmbeddedServers
from openstream_runtime.store import migrate, open_store
from openstream_runtime.store.roles import READER
from support.store_harness import RealUnderTest, batch, event, new_topic, own_database, taken

pytestmark = pytest.mark.anyio
MAY_READ = "SELECT has_table_privilege('openstream_reader', 'openstream.events', 'SELECT')"
RENAME = sql.SQL("ALTER ROLE {} RENAME TO {}")


@dataclass(frozen=True)
class Login:
    """Somebody who is neither owner nor superuser."""

    name: str
    url: str

    async def query(self, statement: str) -> list[tuple[Any, ...]]:
        async with await AsyncConnection.connect(self.url, autocommit=True) as connection:
            cursor = await connection.execute(statement.encode())
            return await cursor.fetchall() if cursor.description else []


async def create_login(url: str, options: sql.SQL) -> Login:
    name, password = f"login_{secrets.token_hex(4)}", secrets.token_hex(8)
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} {}").format(sql.Identifier(name), sql.Literal(password), options)
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(create)
    return Login(name, make_conninfo(url, user=name, password=password))


async def drop_login(url: str, login: Login) -> None:
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(sql.Identifier(login.name)))


@pytest.fixture
async def analyst(store: RealUnderTest) -> AsyncIterator[Login]:
    """As the README says."""
    login = await create_login(store.database_url, sql.SQL("IN ROLE openstream_reader"))
    yield login
    await drop_login(store.database_url, login)


async def test_a_member_reads_the_view(store: RealUnderTest, analyst: Login) -> None:
    topic = await new_topic(store)
    await store.events.write([batch(topic, await taken(store, topic), [event(1), event(2, payload=b'"\\u0000"')])])
    rows = await analyst.query(
        "SELECT redis_id, payload, openstream.as_jsonb(payload) ->> 'order_id' FROM openstream.events ORDER BY ms"
    )
    assert rows == [("1-0", '{"order_id": "o-1"}', "o-1"), ("2-0", '"\\u0000"', None)]


async def test_every_table_is_closed_to_it(store: RealUnderTest, analyst: Login) -> None:
    topic = await new_topic(store)
    await store.events.write([batch(topic, await taken(store, topic), [event(1)])])
    tables = [
        name
        for (name,) in await store.query(
            "SELECT c.oid::regclass::text FROM pg_class c "
            "WHERE relnamespace = 'openstream'::regnamespace AND relkind IN ('r', 'p', 'S') ORDER BY 1"
        )
    ]
    assert {"event_log", "topics", "partitions", "quarantine", "migrations", "event_log_d000000000000"} <= set(tables)
    for table in tables:
        with pytest.raises(errors.InsufficientPrivilege):
            await analyst.query(f"SELECT * FROM openstream.{table}")  # noqa: S608 - names from the catalog


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM openstream.events",
        "UPDATE openstream.events SET payload = ''",
        "INSERT INTO openstream.events (topic) VALUES ('t')",
        "INSERT INTO openstream.event_log SELECT",
        "TRUNCATE openstream.event_log",
        "DROP VIEW openstream.events",
        "CREATE TABLE openstream.mine ()",
        "ALTER VIEW openstream.events OWNER TO current_user",
    ],
)
async def test_it_cannot_write(store: RealUnderTest, analyst: Login, statement: str) -> None:
    with pytest.raises((errors.InsufficientPrivilege, errors.ObjectNotInPrerequisiteState)):
        await analyst.query(statement)


async def test_it_cannot_give_its_right_to_others(store: RealUnderTest, analyst: Login) -> None:
    await analyst.query("GRANT SELECT ON openstream.events TO PUBLIC")  # no more than a warning to PostgreSQL
    assert await store.query("SELECT has_table_privilege('public', 'openstream.events', 'SELECT')") == [(False,)]


async def test_the_role_itself_cannot_log_in_and_has_no_right_but_these(store: RealUnderTest) -> None:
    assert await store.query("SELECT rolcanlogin, rolsuper, rolinherit FROM pg_roles WHERE rolname = %s", READER) == [
        (False, False, True)
    ]
    granted = "SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = %s"
    assert await store.query(granted, READER) == [("events", "SELECT")]


async def test_nodes_and_databases_that_start_together_get_it_once(database_url: str) -> None:
    async with own_database(database_url) as one, own_database(database_url) as two:
        async with anyio.create_task_group() as tasks:
            for url in (one, two) * 3:
                tasks.start_soon(migrate, url)
        for url in (one, two):
            async with await AsyncConnection.connect(url) as connection:
                assert await (await connection.execute(MAY_READ.encode())).fetchone() == (True,)


async def test_a_node_that_may_not_create_roles_says_so_and_goes_on(own_servers: EmbeddedServers) -> None:
    # A server of its own: roles belong to all databases of one.
    async with own_database(own_servers.database_url) as url:
        plain = await create_login(url, sql.SQL(""))
        database = sql.Identifier(url.rpartition("/")[2])
        role, aside = sql.Identifier(READER), sql.Identifier("put_aside")
        async with await AsyncConnection.connect(url, autocommit=True) as admin:
            await admin.execute(
                sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, sql.Identifier(plain.name))
            )
            if await (await admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [READER])).fetchone():
                await admin.execute(RENAME.format(role, aside))  # some other test's database has made it
            with capture_logs() as logs:
                await migrate(plain.url)
            warnings = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
            assert len(warnings) == 1
            assert "CREATE ROLE openstream_reader NOLOGIN" in warnings[0]
            async with open_store(plain.url) as store:
                await store.events.ping()
            # Once an administrator has made it, whoever owns the view gives the right to it.
            await admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(role))
            assert await migrate(plain.url) == 0
            assert await plain.query(MAY_READ) == [(True,)]

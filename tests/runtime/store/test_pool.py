"""The pool under cancellation, overload and overrun deadlines."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from openstream_runtime.domain.errors import OpenStreamError, OutcomeUnknown, Unavailable
from openstream_runtime.ports.store import Committed
from openstream_runtime.store import Limits, open_store
from openstream_runtime.store import pool as pool_module
from openstream_runtime.store.pool import Connection, Pool, connect_arguments, open_pool
from support.store_harness import RealUnderTest, batch, event, new_topic, taken
from support.tcp_proxy import tcp_proxy

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def pool(url: str, *, size: int = 2, waiting: int = 4, **limits: float) -> AsyncIterator[Pool]:
    async with open_pool(
        url, limits=Limits(**limits), application_name="test", max_connections=size, max_waiting=waiting, timeout=5
    ) as opened:
        yield opened


def statement(text: str) -> Callable[[Connection], Awaitable[list[tuple[Any, ...]]]]:
    async def run(connection: Connection) -> list[tuple[Any, ...]]:
        cursor = await connection.execute(text.encode())
        return await cursor.fetchall() if cursor.description else []

    return run


async def until(condition: Callable[[], bool], within: float = 10.0) -> None:
    with anyio.fail_after(within):
        while True:
            if condition():
                return
            await anyio.sleep(0.01)


async def test_a_storm_of_cancellations_costs_no_connection(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    async with open_store(store.database_url, max_connections=4) as stormy:
        before = stormy.stats()["connections_num"]
        cancelled = 0

        async def impatient(number: int) -> None:
            nonlocal cancelled
            with anyio.move_on_after(0.0005 * (number % 8)) as scope:
                match number % 3:
                    case 0:
                        await stormy.events.cursor(topic.id, 0)
                    case 1:
                        await stormy.catalog.topic(topic.name)
                    case _:
                        await stormy.events.write([batch(topic, cursor, [])])
                await anyio.lowlevel.checkpoint()
            cancelled += scope.cancelled_caught

        for _ in range(6):
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(impatient, number)
        stats = stormy.stats()
        assert cancelled > 100
        assert stats.get("returns_bad", 0) == 0
        assert stats.get("connections_lost", 0) == 0
        assert stats["connections_num"] <= before + 3
        assert stats["pool_available"] == stats["pool_size"]
        assert await stormy.catalog.topic(topic.name) == topic


async def test_a_cancelled_write_is_committed_or_not_but_finishes(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    outcomes = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        outcomes = await store.events.write([batch(topic, cursor, [event(1)])])
    assert outcomes == [Committed()]
    assert len(await store.rows(topic.id, 0)) == 1


async def test_a_call_that_overruns_its_deadline_is_unavailable_and_its_connection_replaced(empty_url: str) -> None:
    async with pool(empty_url, size=1) as one:
        begin = time.monotonic()
        with pytest.raises(Unavailable, match="in time"):
            await one.run(statement("SELECT pg_sleep(60)"), deadline=0.2)
        assert time.monotonic() - begin < 30
        assert await one.run(statement("SELECT 7")) == [(7,)]


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(empty_url: str) -> None:
    async with pool(empty_url, size=1, statement=0.1) as one:
        with pytest.raises(Unavailable) as caught:
            await one.run(statement("SELECT pg_sleep(60)"))
        assert caught.value.facts["sqlstate"] == "57014"
        assert one.stats().get("returns_bad", 0) == 0


async def test_a_lock_that_is_not_given_is_unavailable_and_the_connection_lives_on(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    async with open_store(store.database_url, limits=Limits(lock=0.1), max_connections=1) as other:
        async with await psycopg.AsyncConnection.connect(store.database_url) as holder:
            await holder.execute("SELECT 1 FROM openstream.partitions WHERE topic_id = %s FOR UPDATE", [topic.id])
            with pytest.raises(Unavailable):
                await other.events.write([batch(topic, cursor, [event(1)])])
        assert await other.events.write([batch(topic, cursor, [event(1)])]) == [Committed()]
        assert other.stats().get("returns_bad", 0) == 0


async def test_when_every_connection_is_busy_callers_wait_and_then_hear_unavailable(empty_url: str) -> None:
    async with pool(empty_url, size=1, waiting=2, acquire=0.2) as one:
        release = anyio.Event()
        errors: list[OpenStreamError] = []

        async def hold(connection: Connection) -> None:
            await release.wait()

        async def ask() -> None:
            try:
                await one.run(statement("SELECT 1"))
            except OpenStreamError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.run, hold)
            await until(lambda: one.stats()["pool_available"] == 0)
            async with anyio.create_task_group() as askers:
                for _ in range(5):
                    askers.start_soon(ask)
            release.set()
        assert [type(error) for error in errors] == [Unavailable] * 5
        assert one.stats()["requests_errors"] == 5
        assert await one.run(statement("SELECT 1")) == [(1,)]


async def test_the_driver_says_nothing_for_calls_that_go_well(empty_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with pool(empty_url) as one:
        await one.run(statement("SELECT 1"))
    assert [record for record in caplog.records if record.name.startswith("psycopg")] == []


async def test_a_closed_pool_is_unavailable(empty_url: str) -> None:
    async with pool(empty_url) as closed:
        pass
    with pytest.raises(Unavailable):
        await closed.run(statement("SELECT 1"))


@pytest.mark.parametrize("fresh_s", [60.0, -1.0], ids=["just used", "long idle"])
async def test_connections_that_died_while_idle_are_not_noticed_by_callers(
    store: RealUnderTest, fresh_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_FRESH_S", fresh_s)
    async with pool(store.database_url, size=1) as one:
        ((pid,),) = await one.run(statement("SELECT pg_backend_pid()"))
        await store.query("SELECT pg_terminate_backend(%s, 10000)", pid)
        ((other,),) = await one.run(statement("SELECT pg_backend_pid()"))
        assert other != pid
        assert one.stats()["connections_lost"] == 1


async def test_a_connection_that_is_open_and_silent_is_not_handed_out(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_FRESH_S", -1.0)
    monkeypatch.setattr(pool_module, "_CHECK_S", 0.2)
    given = conninfo_to_dict(empty_url)
    async with tcp_proxy(str(given["host"]), int(str(given["port"]))) as proxy:
        url = make_conninfo(empty_url, host="127.0.0.1", port=proxy.port)
        async with pool(url, size=1, acquire=10.0) as one:
            assert await one.run(statement("SELECT 1")) == [(1,)]
            proxy.stall()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.run, statement("SELECT 1"))
                await until(lambda: one.stats().get("connections_lost", 0) == 1)
                proxy.resume()


async def test_a_server_that_is_not_there_is_unavailable_at_once(empty_url: str) -> None:
    with pytest.raises(Unavailable):
        async with open_pool(
            "postgresql://u:p@127.0.0.1:1/d",
            limits=Limits(connect=1, reconnect=0.2),
            application_name="test",
            max_connections=1,
            max_waiting=1,
            timeout=0.5,
        ):
            pytest.fail("opened")


async def test_an_error_in_the_work_rolls_back_and_comes_through(store: RealUnderTest) -> None:
    async with pool(store.database_url, size=1) as one:

        async def work(connection: Connection) -> None:
            await connection.execute("DELETE FROM openstream.catalog_version")
            raise KeyError("mine")

        with pytest.raises(KeyError):
            await one.transact(work)
        assert one.stats().get("returns_bad", 0) == 0
    assert await store.query("SELECT count(*) FROM openstream.catalog_version") == [(1,)]


async def test_a_transaction_that_the_server_rolled_back_is_not_taken_for_committed(empty_url: str) -> None:
    async with pool(empty_url) as one:

        async def work(connection: Connection) -> None:
            with pytest.raises(psycopg.errors.DivisionByZero):
                await connection.execute("SELECT 1 / 0")

        with pytest.raises(Unavailable, match="rolled"):
            await one.transact(work)


async def test_a_commit_that_the_server_refuses_is_definite(empty_url: str) -> None:
    async with pool(empty_url) as one:

        async def work(connection: Connection) -> None:
            await connection.execute("CREATE TEMP TABLE a (id int PRIMARY KEY)")
            await connection.execute("CREATE TEMP TABLE b (id int REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
            await connection.execute("INSERT INTO b VALUES (1)")

        with pytest.raises(OpenStreamError) as caught:
            await one.transact(work)
        assert not isinstance(caught.value, OutcomeUnknown | Unavailable)
        assert caught.value.facts["sqlstate"] == "23503"


async def test_a_server_that_ends_the_connection_during_a_transaction_is_unavailable(empty_url: str) -> None:
    async with pool(empty_url) as one:

        async def work(connection: Connection) -> None:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        with pytest.raises(Unavailable):
            await one.transact(work)
        assert await one.run(statement("SELECT 1")) == [(1,)]


async def test_a_read_only_server_is_unavailable_and_its_connection_given_up(store: RealUnderTest) -> None:
    async with pool(store.database_url, size=1) as one:
        (before,) = await one.run(statement("SELECT pg_backend_pid()"))

        async def work(connection: Connection) -> None:
            await connection.execute("SET TRANSACTION READ ONLY")
            await connection.execute("DELETE FROM openstream.catalog_version")

        with pytest.raises(Unavailable):
            await one.transact(work)
        assert await one.run(statement("SELECT pg_backend_pid()")) != [before]


async def test_sessions_are_set_up_for_a_server_that_can_stall(empty_url: str) -> None:
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "application_name")
    async with pool(empty_url, statement=7, lock=0.25, idle_in_transaction=10) as one:
        shown = [(await one.run(statement(f"SHOW {name}")))[0] for name in names]
    assert shown == [("7s",), ("250ms",), ("10s",), ("test",)]


async def test_in_a_transaction_the_server_gives_up_before_we_do(empty_url: str) -> None:
    async with pool(empty_url, size=1, statement=5) as one:
        assert await one.transact(statement("SHOW statement_timeout"), deadline=12.0) == [("9s",)]
        assert await one.run(statement("SHOW statement_timeout")) == [("5s",)]
        with pytest.raises(Unavailable) as caught:
            await one.transact(statement("SELECT pg_sleep(60)"), deadline=1.0)
        assert caught.value.facts["sqlstate"] == "57014"
        assert one.stats().get("returns_bad", 0) == 0


@pytest.mark.parametrize(("configured", "used"), [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")])
async def test_a_commit_is_never_answered_before_it_is_on_disk(empty_url: str, configured: str, used: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty_url, autocommit=True) as connection:
        name = psycopg.sql.Identifier(empty_url.rpartition("/")[2])
        await connection.execute(
            psycopg.sql.SQL("ALTER DATABASE {} SET synchronous_commit = {}").format(name, configured)
        )
    async with pool(empty_url) as one:
        assert await one.run(statement("SHOW synchronous_commit")) == [(used,)]


def test_what_the_url_says_wins() -> None:
    arguments = connect_arguments("postgresql://h/d?connect_timeout=9&application_name=mine", Limits(), "openstream")
    assert "connect_timeout" not in arguments
    assert "application_name" not in arguments
    assert arguments["tcp_user_timeout"] == 10_000

"""The pool of connections, and the only two ways to use one: `run` and `transact`.

Calls are shielded from cancellation and bounded by a deadline of their own. anyio cancels again at every step, so a
cancelled psycopg call cannot clean up after itself and loses its connection (164 of 168 in a storm of 720); a call that
is left to finish costs milliseconds. A call that overruns its deadline (a stalled network: the server's own timeouts
cannot reach us) loses its connection on purpose.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from openstream_runtime.store.errors import Misconfigured, is_farewell, is_worn_out, translate, unavailable, unknown
from openstream_runtime.store.queries import query

Result = TypeVar("Result")

_SETTLE_SESSION = query("settle_session")
#: A connection that does not answer an empty query in this time is not handed out.
_CHECK_S = 1.0
#: One that was in use so recently is not asked, only looked at: that saves a round trip for each call.
_FRESH_S = 5.0


class Connection(AsyncConnection[TupleRow]):
    """A connection that knows when it was last in use, on the clock of `time.monotonic`."""

    last_used = 0.0

    def has_news(self) -> bool:
        """Something came while it was idle: mostly its end. Costs one system call."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(0))


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds. A call is over after at most `acquire` + `call` (`write` for writes)."""

    #: For a free connection. Less than a lease, so that an owner notices in time.
    acquire: float = 3.0
    connect: float = 3.0
    call: float = 8.0
    #: A transaction that writes many rows.
    write: float = 20.0
    #: A write that has to find out which of its rows are refused, row by row.
    sift: float = 60.0
    #: By the server, for a statement outside a transaction. In a transaction it is three quarters of the deadline: the
    #: server's answer is definite, ours is not.
    statement: float = 6.0
    lock: float = 2.0
    idle_in_transaction: float = 10.0
    #: How long the pool goes on trying before the next request starts it afresh; it doubles its pauses, so a long
    #: patience here would be a long time away after PostgreSQL is back.
    reconnect: float = 4.0


def connect_arguments(database_url: str, limits: Limits, application_name: str) -> dict[str, Any]:
    """What libpq is told beyond the URL; the URL wins. Raises Misconfigured for a URL that is none."""
    try:
        given = conninfo_to_dict(database_url)
    except psycopg.Error:
        # `from None`: libpq's message repeats parts of the URL, which holds the password.
        raise Misconfigured("DATABASE_URL is not a PostgreSQL URL") from None
    defaults: dict[str, Any] = {
        "application_name": application_name,
        "connect_timeout": max(2, round(limits.connect)),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        # Bytes nobody acknowledges: a peer that is gone without a word is noticed by writers, too.
        "tcp_user_timeout": 10_000,
    }
    return {name: value for name, value in defaults.items() if name not in given} | {"autocommit": True}


class Pool:
    """Connections to one database. Opened by `open_pool`."""

    def __init__(self, pool: AsyncConnectionPool[Connection], limits: Limits) -> None:
        self._pool = pool
        self.limits = limits

    async def run(self, work: Callable[[Connection], Awaitable[Result]], *, deadline: float | None = None) -> Result:
        """Run statements each for itself: reads, or a change that does no harm when its answer is lost.

        Raises Unavailable.
        """
        return await self._run(work, deadline or self.limits.call, transaction=False)

    async def transact(
        self, work: Callable[[Connection], Awaitable[Result]], *, deadline: float | None = None
    ) -> Result:
        """Run `work` in one transaction. Raises Unavailable (rolled back), OutcomeUnknown (COMMIT's answer was lost).

        What `work` raises itself, psycopg's errors excepted, comes through after the rollback.
        """
        return await self._run(work, deadline or self.limits.call, transaction=True)

    def stats(self) -> Mapping[str, int]:
        """psycopg_pool's own counters: pool_size, pool_available, requests_waiting, connections_lost …"""
        return self._pool.get_stats()

    async def _run(
        self, work: Callable[[Connection], Awaitable[Result]], deadline: float, *, transaction: bool
    ) -> Result:
        committing = False
        with anyio.CancelScope(shield=True):
            try:
                connection = await self._pool.getconn()
            except psycopg.Error as error:
                raise translate(error) from error
            try:
                with anyio.move_on_after(deadline):
                    if not transaction:
                        return await work(connection)
                    await connection.execute(_begin(deadline), prepare=False)
                    result = await work(connection)
                    committing = True
                    done = await connection.execute("COMMIT", prepare=False)
                    if done.statusmessage != "COMMIT":
                        raise unavailable("PostgreSQL rolled a transaction back")
                    return result
            except psycopg.Error as error:
                if is_worn_out(error):
                    await connection.close()
                # An error on a connection that lives on is an answer: it was rolled back. A server that ends the
                # connection says nothing about the commit; it may have come as far as waiting for a standby.
                if committing and (connection.closed or is_farewell(error)):
                    raise unknown() from error
                raise translate(error) from error
            finally:
                await self._give_back(connection)
        raise unknown() if committing else unavailable("PostgreSQL did not answer in time")

    async def _give_back(self, connection: Connection) -> None:
        if connection.info.transaction_status in (TransactionStatus.INERROR, TransactionStatus.INTRANS):
            with anyio.move_on_after(_CHECK_S):
                try:
                    await connection.execute("ROLLBACK")
                except psycopg.Error:
                    await connection.close()
        if connection.info.transaction_status != TransactionStatus.IDLE:
            # In the middle of something: to roll back could take as long as what was given up on.
            await connection.close()
        connection.last_used = time.monotonic()
        await self._pool.putconn(connection)


def _begin(deadline: float) -> bytes:
    # Two statements in one message, so in one round trip. They cannot be prepared, as psycopg does after five times.
    return b"BEGIN; SET LOCAL statement_timeout = %d" % max(1, round(deadline * 750))


@asynccontextmanager
async def open_pool(
    database_url: str, *, limits: Limits, application_name: str, max_connections: int, max_waiting: int, timeout: float
) -> AsyncIterator[Pool]:
    """A pool with one live connection at least; Unavailable when there is none within `timeout` seconds."""

    async def settle(connection: Connection) -> None:
        values = (limits.statement, limits.lock, limits.idle_in_transaction)
        await connection.execute(_SETTLE_SESSION, [f"{round(value * 1000)}ms" for value in values])

    # At INFO it says a line or more for every call.
    logging.getLogger("psycopg.pool").setLevel(logging.WARNING)
    pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
        database_url,
        connection_class=Connection,
        kwargs=connect_arguments(database_url, limits, application_name),
        min_size=1,
        max_size=max_connections,
        open=False,
        configure=settle,
        check=_check,
        name=application_name,
        timeout=limits.acquire,
        max_waiting=max_waiting,
        reconnect_timeout=limits.reconnect,
    )
    try:
        try:
            with anyio.CancelScope(shield=True):
                await pool.open(wait=True, timeout=timeout)
        except psycopg.Error as error:
            raise translate(error) from error
        yield Pool(pool, limits)
    finally:
        with anyio.CancelScope(shield=True):
            await pool.close(timeout=2.0)


async def _check(connection: Connection) -> None:
    """For the pool, before it hands a connection out: after a restart of PostgreSQL all of them are dead."""
    if time.monotonic() - connection.last_used < _FRESH_S and not connection.closed and not connection.has_news():
        return
    with anyio.move_on_after(_CHECK_S) as scope:
        await connection.execute("")
    if scope.cancelled_caught:
        await connection.close()
        raise psycopg.OperationalError("the connection does not answer")

"""The schema, brought up to date by numbered SQL files, each in a transaction of its own.

Nodes that start together are safe: each transaction begins under one advisory lock and then looks what is applied.
The table of applied files keeps their checksums; a file that was changed after it was applied is refused, and so is a
schema newer than this version knows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources

import anyio
import psycopg
import structlog

from openstream_runtime.domain.errors import Unavailable
from openstream_runtime.store.errors import (
    MigrationFailed,
    Misconfigured,
    SchemaMismatch,
    is_farewell,
    translate,
    unavailable,
    unknown,
)
from openstream_runtime.store.pool import Connection, Limits, connect_arguments
from openstream_runtime.store.roles import ensure_reader

_FILE = re.compile(r"([0-9]{4})_([a-z0-9_]+)\.sql", re.ASCII)
_OLDEST_SERVER = 140_000
_LOCK = 0x6F73_6D69
_log = structlog.get_logger(__name__)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.number:04d}_{self.name}"


def read_migrations() -> list[Migration]:
    """The files of store/migrations, in order; ValueError unless they count 1, 2, 3 …"""
    folder = resources.files(__package__).joinpath("migrations")
    found = [
        Migration(int(match[1]), match[2], file.read_text(encoding="utf-8").replace("\r\n", "\n"))
        for file in folder.iterdir()
        if (match := _FILE.fullmatch(file.name))
    ]
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("migrations are numbered 1, 2, 3 … without gaps")
    return found


def pending(known: Sequence[Migration], applied: Mapping[int, str]) -> list[Migration]:
    """What is to be applied, given the checksums of what is. Raises SchemaMismatch."""
    if newer := sorted(set(applied) - {migration.number for migration in known}):
        raise SchemaMismatch(
            f"the database has migration {newer[-1]:04d} and this version knows {len(known):04d} at most: "
            "it was upgraded by a newer version; run that one"
        )
    for migration in known:
        checksum = applied.get(migration.number)
        if checksum is not None and checksum != migration.checksum:
            raise SchemaMismatch(
                f"migration {migration} is not the file that was applied to this database: "
                "applied migrations are never edited; restore it and add a new one"
            )
    return [migration for migration in known if migration.number not in applied]


async def migrate(
    database_url: str,
    *,
    migrations: Sequence[Migration] | None = None,
    on_progress: Progress | None = None,
    timeout: float = 60.0,
) -> int:
    """Bring the schema up to date; how many migrations were applied here. `timeout` bounds the wait for other nodes.

    Raises Unavailable (try again), SchemaMismatch, Misconfigured and MigrationFailed (a person must act).
    """
    known = read_migrations() if migrations is None else list(migrations)

    def say(text: str) -> None:
        _log.info(text)
        if on_progress is not None:
            on_progress(text)

    done = 0
    async with _connect(database_url) as connection:
        await _check_server(connection)
        with anyio.move_on_after(timeout):
            while True:
                step = await _step(connection, known, say)
                if step is None:
                    await _give_rights(connection)
                    return done
                done += step
    raise unavailable("another node holds the migration lock for too long")


async def _give_rights(connection: Connection) -> None:
    try:
        await ensure_reader(connection)
    except psycopg.Error as error:
        raise translate(error) from error


async def check_schema(connection: Connection) -> None:
    """SchemaMismatch unless the schema is exactly this version's."""
    if left := pending(read_migrations(), await _applied(connection)):
        raise SchemaMismatch(f"the database lacks migration {left[0]}: migrate it first")


async def _step(connection: Connection, known: Sequence[Migration], say: Progress) -> int | None:
    """Apply one migration: 1, or 0 when another node is at it and a pause was made, or None when none is left."""
    committing = False
    applying: Migration | None = None
    try:
        await connection.execute("BEGIN")
        locked = await connection.execute("SELECT pg_catalog.pg_try_advisory_xact_lock(%s)", [_LOCK])
        if await locked.fetchone() != (True,):
            await connection.execute("ROLLBACK")
            await anyio.sleep(0.1)
            return 0
        left = pending(known, await _applied(connection))
        if not left:
            await connection.execute("ROLLBACK")
            return None
        applying = left[0]
        say(f"applying migration {applying}")
        await _prepare(connection)
        await connection.execute(applying.text.encode())
        await connection.execute(
            "INSERT INTO openstream.migrations (number, name, checksum) VALUES (%s, %s, %s)",
            [applying.number, applying.name, applying.checksum],
        )
        committing = True
        await connection.execute("COMMIT")
    except psycopg.Error as error:
        if committing and (connection.closed or is_farewell(error)):
            raise unknown() from error  # migrating again finds out
        translated = translate(error)
        if applying is None or isinstance(translated, Unavailable):
            raise translated from error
        raise MigrationFailed(
            f"migration {applying} failed and was rolled back: {error.diag.message_primary or type(error).__name__}",
            sqlstate=error.sqlstate,
        ) from error
    say(f"applied migration {applying}")
    return 1


async def _applied(connection: Connection) -> dict[int, str]:
    exists = await connection.execute("SELECT pg_catalog.to_regclass('openstream.migrations') IS NOT NULL")
    if await exists.fetchone() != (True,):
        return {}
    rows = await connection.execute("SELECT number, checksum FROM openstream.migrations")
    return {number: checksum async for number, checksum in rows}


async def _prepare(connection: Connection) -> None:
    # Asked first: IF NOT EXISTS still wants the right to create schemas, which an operator may not give us.
    exists = await connection.execute("SELECT pg_catalog.to_regnamespace('openstream') IS NOT NULL")
    if await exists.fetchone() != (True,):
        await connection.execute("CREATE SCHEMA openstream")
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS openstream.migrations ("
        " number integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,"
        " applied_at timestamptz NOT NULL DEFAULT now())"
    )


async def _check_server(connection: Connection) -> None:
    version, encoding = connection.info.server_version, connection.info.parameter_status("server_encoding")
    if version < _OLDEST_SERVER:
        raise Misconfigured(f"PostgreSQL {version // 10_000} is too old: 14 or newer is needed")
    if encoding != "UTF8":
        # Any other would refuse or rewrite texts that are valid JSON.
        raise Misconfigured(f"the database's encoding is {encoding}: UTF8 is needed")


@asynccontextmanager
async def _connect(database_url: str) -> AsyncIterator[Connection]:
    arguments = connect_arguments(database_url, Limits(), "openstream-migrate")
    try:
        connection = await Connection.connect(database_url, **arguments)
    except psycopg.Error as error:
        raise translate(error) from error
    try:
        yield connection
    finally:
        with anyio.CancelScope(shield=True):
            await connection.close()

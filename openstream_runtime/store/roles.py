"""openstream_reader: a role without login that may read the view openstream.events, and nothing else.

People get a login of their own that is a member of it. Made when the schema is brought up to date. Roles belong to the
whole server, rights to a database, so both are looked at each time; who may not create roles says so, and goes on.
"""

from __future__ import annotations

import structlog
from psycopg import errors

from openstream_runtime.store.pool import Connection

READER = "openstream_reader"
#: The contract: the view, what casts its payloads, and the schema they are in.
_GRANTS = (
    b"GRANT USAGE ON SCHEMA openstream TO openstream_reader",
    b"GRANT SELECT ON openstream.events TO openstream_reader",
    b"GRANT EXECUTE ON FUNCTION openstream.as_jsonb(text) TO openstream_reader",
)
_IS_GRANTED = (
    "SELECT has_schema_privilege(%(role)s, 'openstream', 'USAGE') "
    "AND has_table_privilege(%(role)s, 'openstream.events', 'SELECT')"
)
#: Not the lock of migrations: this one is waited for.
_LOCK = 0x6F73_726F
_log = structlog.get_logger(__name__)


async def ensure_reader(connection: Connection) -> None:
    """Make the role and give it its rights. Safe on many nodes and databases at once."""
    async with connection.transaction():
        await connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", [_LOCK])
        if not await _exists(connection) and not await _create(connection):
            return
        # Asked first: a grant of what is granted writes all the same, and needs the right to.
        found = await (await connection.execute(_IS_GRANTED, {"role": READER})).fetchone()
        if found == (True,):
            return
        try:
            async with connection.transaction():
                for grant in _GRANTS:
                    await connection.execute(grant)
        except errors.InsufficientPrivilege:
            _log.warning("the right to read openstream.events could not be given: its owner can", role=READER)


async def _exists(connection: Connection) -> bool:
    found = await connection.execute("SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = %s", [READER])
    return await found.fetchone() is not None


async def _create(connection: Connection) -> bool:
    try:
        async with connection.transaction():
            await connection.execute(b"CREATE ROLE openstream_reader NOLOGIN")
    except (errors.DuplicateObject, errors.UniqueViolation):
        return True  # another node at this moment, on another database of this server
    except errors.InsufficientPrivilege:
        _log.warning(
            "no role to read the log by SQL was made: ours may not create roles. An administrator can, before the next "
            "start: CREATE ROLE openstream_reader NOLOGIN"
        )
        return False
    _log.info("role created", role=READER)
    return True

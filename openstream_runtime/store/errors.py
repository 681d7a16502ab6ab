"""What psycopg raises, told apart by what the caller can do about it."""

from __future__ import annotations

import psycopg
from psycopg import errors as pg

from openstream_runtime.domain.errors import OpenStreamError, OutcomeUnknown, Unavailable

BACKEND = "postgresql"

# Classes of SQLSTATE that pass by themselves or once an operator has acted: connection (08), serialization and deadlock
# (40), resources: disk full, too many connections (53), lock timeout (55), shutting down, starting, cancelled (57),
# I/O (58).
_PASSING_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
# Read-only after a failover (25006), a transaction the server ended for idling (25P03), and a statement prepared
# before a migration changed what it returns (0A000).
_PASSING_STATES = frozenset({"25006", "25P03", "0A000"})
# A connection that says so never gets better: the pool must open another, perhaps to another server.
_WORN_OUT_STATES = frozenset({"25006", "0A000"})
# What a row can be refused for: its data (22), a constraint (23), its size (54).
_ROW_CLASSES = frozenset({"22", "23", "54"})


class SchemaMismatch(OpenStreamError):
    """The database's schema is not the one this version works with."""


class Misconfigured(OpenStreamError):
    """The database cannot be used as it is set up."""


class MigrationFailed(OpenStreamError):
    """A migration did not go through; the database is as it was before it."""


def unavailable(detail: str = "PostgreSQL is away", sqlstate: str | None = None) -> Unavailable:
    return Unavailable(detail, backend=BACKEND, **({"sqlstate": sqlstate} if sqlstate else {}))


def unknown() -> OutcomeUnknown:
    return OutcomeUnknown("PostgreSQL's answer to a commit was lost", backend=BACKEND)


def translate(error: psycopg.Error) -> OpenStreamError:
    """The domain's error for one that came before COMMIT was sent. What is neither trouble nor data is a bug of ours:
    a plain OpenStreamError, which nobody waits out."""
    state = error.sqlstate
    if state is None:
        # No answer of a server: the connection broke, could not be made, or the pool had none.
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return unavailable()
    elif state[:2] in _PASSING_CLASSES or state in _PASSING_STATES:
        return unavailable("PostgreSQL cannot do this at the moment", state)
    return OpenStreamError(
        f"PostgreSQL refused a statement of ours (SQLSTATE {state})", backend=BACKEND, sqlstate=state
    )


def is_worn_out(error: psycopg.Error) -> bool:
    return error.sqlstate in _WORN_OUT_STATES


def is_farewell(error: psycopg.Error) -> bool:
    """The server ends the connection with this; libpq may not have noticed yet."""
    return error.diag.severity_nonlocalized in {"FATAL", "PANIC"}


def is_missing_day(error: psycopg.Error) -> bool:
    """No time partition for a row. It has the code of a check constraint, but names none."""
    return isinstance(error, pg.CheckViolation) and error.diag.constraint_name is None


def is_refused_row(error: psycopg.Error) -> bool:
    return error.sqlstate is not None and error.sqlstate[:2] in _ROW_CLASSES


def sentence(error: psycopg.Error) -> str:
    """For the quarantine table, where operators read it."""
    return f"{error.sqlstate}: {error.diag.message_primary or type(error).__name__}"

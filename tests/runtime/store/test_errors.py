"""psycopg's errors as the domain's."""

from __future__ import annotations

import psycopg
import psycopg_pool
import pytest
from psycopg import errors as pg

from openstream_runtime.domain.errors import OpenStreamError, OutcomeUnknown, Unavailable
from openstream_runtime.store.errors import is_missing_day, is_refused_row, is_worn_out, sentence, translate, unknown

PASSING = [
    psycopg.OperationalError("connection refused"),
    psycopg.InterfaceError("the connection is closed"),
    psycopg_pool.PoolTimeout("no connection"),
    psycopg_pool.PoolClosed("closed"),
    psycopg_pool.TooManyRequests("queue is full"),
    pg.ConnectionFailure("08006"),
    pg.TooManyConnections("53300"),
    pg.DiskFull("53100"),
    pg.OutOfMemory("53200"),
    pg.AdminShutdown("57P01"),
    pg.CrashShutdown("57P02"),
    pg.CannotConnectNow("57P03"),
    pg.QueryCanceled("57014"),
    pg.LockNotAvailable("55P03"),
    pg.SerializationFailure("40001"),
    pg.DeadlockDetected("40P01"),
    pg.ReadOnlySqlTransaction("25006"),
    pg.IdleInTransactionSessionTimeout("25P03"),
    pg.IoError("58030"),
    pg.FeatureNotSupported("cached plan must not change result type"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_trouble_that_passes_is_unavailable(error: psycopg.Error) -> None:
    translated = translate(error)
    assert isinstance(translated, Unavailable)
    assert translated.facts["backend"] == "postgresql"
    assert translated.facts.get("sqlstate") == error.sqlstate
    assert str(error) not in str(translated)  # a driver's text may hold addresses and values


@pytest.mark.parametrize(
    "error",
    [
        pg.SyntaxError("x"),
        pg.UndefinedTable("x"),
        pg.InsufficientPrivilege("x"),
        pg.DataCorrupted("x"),
        psycopg.Error("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_nobody_can_wait_out_is_neither_unavailable_nor_unknown(error: psycopg.Error) -> None:
    translated = translate(error)
    assert type(translated) is OpenStreamError
    assert "x" not in translated.detail.replace("SQLSTATE", "").split()


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (pg.UntranslatableCharacter(), True),
        (pg.NumericValueOutOfRange(), True),
        (pg.UniqueViolation(), True),
        (pg.ProgramLimitExceeded(), True),
        (pg.DiskFull(), False),
        (psycopg.OperationalError(), False),
    ],
)
def test_only_data_constraints_and_sizes_are_a_row_s_fault(error: psycopg.Error, refused: bool) -> None:
    assert is_refused_row(error) is refused


def test_connections_to_a_server_that_became_a_standby_are_worn_out() -> None:
    assert is_worn_out(pg.ReadOnlySqlTransaction())
    assert is_worn_out(pg.FeatureNotSupported())
    assert not is_worn_out(pg.LockNotAvailable())


def test_a_missing_day_is_told_from_a_constraint_that_has_a_name() -> None:
    assert is_missing_day(pg.CheckViolation())
    assert not is_missing_day(pg.UniqueViolation())


def test_a_lost_answer_names_its_backend() -> None:
    assert isinstance(unknown(), OutcomeUnknown)
    assert unknown().facts == {"backend": "postgresql"}


def test_an_error_without_a_message_is_named_by_its_kind() -> None:
    assert sentence(pg.UniqueViolation()) == "23505: UniqueViolation"

"""The chaos room: each test plays a scenario; the table of all of them stands at the end of the run."""

from __future__ import annotations

import pytest

from chaos.stage import OUT
from chaos.table import Table

_TABLE = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = Table()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Table:
    return request.config.stash[_TABLE]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash.get(_TABLE, None)
    if table is not None and table.rows:
        table.write(OUT / "table.md")
        terminalreporter.write_sep("=", "what the faults cost")
        terminalreporter.write_line(str(table))
        terminalreporter.write_line(f"also in {OUT / 'table.md'}")

"""Whole nodes, as processes, on servers of their own: these tests stop, kill and starve what they run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openstream_ops.servers import EmbeddedServers


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def own_servers(tmp_path: Path) -> Iterator[EmbeddedServers]:
    """A Valkey and a PostgreSQL for one test, to be stopped, killed or paused as it likes."""
    with EmbeddedServers(tmp_path / "servers", ephemeral=True) as servers:
        yield servers

"""What only PostgreSQL can show: databases of their own, and a server of their own to stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from openstream_ops.servers import EmbeddedServers
from support.store_harness import RealUnderTest, own_database, real_store


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="package")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """Not the shared ones: these are stopped in the middle of a test."""
    with EmbeddedServers(tmp_path_factory.mktemp("own-servers")) as servers:
        yield servers


@pytest.fixture
async def empty_url(database_url: str, anyio_backend: str) -> AsyncIterator[str]:
    """A database without any schema."""
    async with own_database(database_url) as url:
        yield url


@pytest.fixture
async def store(empty_url: str) -> AsyncIterator[RealUnderTest]:
    """A store on a database of its own."""
    async with real_store(empty_url) as real:
        yield real

"""What every room of the suite may ask for: a real Valkey and a real PostgreSQL, started once, on first use."""

from collections.abc import Iterator

import pytest

from openstream_ops.servers import EmbeddedServers


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """Shared by the whole session: a test that stops or fills one of them must leave it running and usable."""
    with EmbeddedServers(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
def redis_url(servers: EmbeddedServers) -> str:
    return servers.redis_url


@pytest.fixture
def database_url(servers: EmbeddedServers) -> str:
    return servers.database_url

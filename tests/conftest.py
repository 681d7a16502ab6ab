"""What every room of the suite may ask for: a real Valkey and a real PostgreSQL, started once, on first use."""

from collections.abc import Iterator
from zlib import crc32

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Spread the tests of whole nodes evenly: a worker gets a stretch of the list, and they take most of the time."""
    if not hasattr(config, "workerinput"):
        return
    whole = sorted(
        (item for item in items if "integration" in item.path.parts), key=lambda one: crc32(one.nodeid.encode())
    )
    others = [item for item in items if "integration" not in item.path.parts]
    items[:] = []
    for number, item in enumerate(others):
        items += whole[number * len(whole) // len(others) : (number + 1) * len(whole) // len(others)]
        items.append(item)
    items += [] if others else whole

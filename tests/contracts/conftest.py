"""What the fake passes the real one passes, and the other way round. `make chaos`: a cluster too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from openstream_runtime.log import open_log
from support.fake_log import FakeLog
from support.log_harness import Log
from support.redis_cluster import RedisCluster


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster.url


@pytest.fixture(params=["fake", "redis", pytest.param("cluster", marks=pytest.mark.chaos)])
async def log(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[Log]:
    if request.param == "fake":
        yield FakeLog()
        return
    async with open_log(request.getfixturevalue(f"{request.param}_url")) as real:
        yield real
        assert {name: lane.in_use for name, lane in real.lanes.items() if lane.in_use} == {}

"""One suite, both kinds: what the fake passes the real one passes, and the other way round."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from openstream_runtime.log import open_log
from support.fake_log import FakeLog
from support.log_harness import Log


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["fake", "redis"])
async def log(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[Log]:
    if request.param == "fake":
        yield FakeLog()
        return
    async with open_log(request.getfixturevalue("redis_url")) as real:
        yield real
        assert {name: lane.in_use for name, lane in real.lanes.items() if lane.in_use} == {}

"""Every test of the client runs on both backends, against a cluster in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from openstream_client import OpenStream
from support.fake_service import FakeService


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def client(service: FakeService, anyio_backend: str) -> AsyncIterator[OpenStream]:
    async with OpenStream(["http://a", "http://b"], "a-token", http=service.transport) as client:
        yield client

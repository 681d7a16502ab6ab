"""Both backends on virtual time."""

from __future__ import annotations

import pytest

from support.actors import Rig, make_world, virtual_backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual_backend(request.param)


@pytest.fixture
def rig() -> Rig:
    return make_world()

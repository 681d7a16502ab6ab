"""A Valkey of one's own, to stop, pause, fill and flush."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from openstream_ops import ports
from openstream_ops.server_process import HOST
from openstream_ops.valkey import Valkey
from openstream_runtime.log import RedisLog, open_log

PASSWORD = "only-for-this-test"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def start_valkey(tmp_path: Path) -> Iterator[Callable[..., Valkey]]:
    """Start a Valkey with settings of one's own; all of them end with the test."""
    started: list[Valkey] = []

    def start(**options: str) -> Valkey:
        home = tmp_path / f"valkey-{len(started)}"
        (home / "logs").mkdir(parents=True)
        server = Valkey(home, ports.pick(HOST, None), PASSWORD, {k.replace("_", "-"): v for k, v in options.items()})
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.resume()
        server.kill()


@pytest.fixture
def valkey(start_valkey: Callable[..., Valkey]) -> Valkey:
    return start_valkey()


@pytest.fixture
async def log(valkey: Valkey, anyio_backend: str) -> AsyncIterator[RedisLog]:
    """Short patience, so that a paused server costs a test half a second and not three."""
    async with open_log(valkey.url, timeout=0.5) as log:
        yield log


@pytest.fixture
async def admin(valkey: Valkey, anyio_backend: str) -> AsyncIterator[Callable[..., object]]:
    """One command at a time, as an operator would type it."""
    async with open_log(valkey.url) as log:

        async def ask(*command: str | int) -> object:
            [reply] = await log.lanes["write"].call([tuple(command)])
            assert not isinstance(reply, Exception), reply
            return reply

        yield ask

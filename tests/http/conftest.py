"""An edge over a gateway in memory, and the same edge on a real port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import anyio
import pytest
from quart import Quart

from openstream_http.app import create_app
from openstream_http.server import HttpServer
from openstream_runtime.settings import Settings
from supervisors.context import Context
from support.edge import EdgeClient, FakeMeter, settings_of
from support.fake_gateway import FakeGateway


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings() -> Settings:
    return settings_of()


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def meter() -> FakeMeter:
    return FakeMeter()


@pytest.fixture
def app(gateway: FakeGateway, settings: Settings, meter: FakeMeter) -> Quart:
    return create_app(gateway, settings, meter=meter)  # type: ignore[arg-type]


@pytest.fixture
def client(app: Quart) -> EdgeClient:
    return EdgeClient(app)


class Running:
    """A server on a loopback port."""

    def __init__(self, server: HttpServer, ctx: Context, client: EdgeClient) -> None:
        self.server = server
        self.ctx = ctx
        self.client = client
        self.ended = anyio.Event()

    @property
    def port(self) -> int:
        return self.server.port


class Serve(Protocol):
    def __call__(self, *, grace: float = ..., body_timeout: float = ..., **settings: Any) -> Any: ...


@pytest.fixture
def serve(gateway: FakeGateway, meter: FakeMeter) -> Serve:
    """`async with serve(grace=1.0) as running:`; it is asked to stop, and waited for, at the end."""

    @asynccontextmanager
    async def run(*, grace: float = 5.0, body_timeout: float = 10.0, **changes: Any) -> AsyncIterator[Running]:
        app = create_app(gateway, settings_of(**changes), meter=meter, body_timeout=body_timeout)  # type: ignore[arg-type]
        server = HttpServer(
            app,
            host="127.0.0.1",
            port=0,
            grace=grace,
            max_connections=app.extensions["openstream"].settings.max_connections,
            on_stopping=gateway.drain,
        )
        ctx = Context("http")
        running = Running(server, ctx, EdgeClient(app))

        async def live() -> None:
            await server.run(ctx)
            running.ended.set()

        async with anyio.create_task_group() as group:
            group.start_soon(live)
            with anyio.fail_after(5):
                await ctx.started.wait()
            try:
                yield running
            finally:
                ctx.ask_to_stop()

    return run

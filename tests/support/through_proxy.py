"""The log of a real server with a proxy in between, which can lose what a test wants lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from openstream_ops.valkey import Valkey
from openstream_runtime.log import RedisLog, open_log
from support.tcp_proxy import TcpProxy, tcp_proxy


@asynccontextmanager
async def through_proxy(valkey: Valkey) -> AsyncIterator[tuple[TcpProxy, RedisLog]]:
    async with (
        tcp_proxy("127.0.0.1", valkey.port) as proxy,
        open_log(valkey.url.replace(f":{valkey.port}/", f":{proxy.port}/")) as log,
    ):
        yield proxy, log

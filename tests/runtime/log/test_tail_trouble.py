"""The one blocking read, in bad moments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from openstream_ops.valkey import Valkey
from openstream_runtime.domain.errors import Unavailable
from openstream_runtime.domain.positions import ZERO
from openstream_runtime.log import RedisLog, open_log
from openstream_runtime.ports.log import TailNews
from openstream_runtime.ports.nodes import NodeInfo
from support.log_harness import at, verified
from support.scripted_redis import HOLD, scripted_redis

pytestmark = pytest.mark.anyio
Admin = Callable[..., Awaitable[object]]
NODE = NodeInfo("n", "http://127.0.0.1:1", 1, "0")


async def test_a_wait_ends_when_the_server_goes_away_and_the_next_one_works(valkey: Valkey, log: RedisLog) -> None:
    topic = await verified(log)
    await log.tail.wait({}, 0)
    blocked = anyio.Event()

    async def wait() -> None:
        blocked.set()
        with pytest.raises(Unavailable):
            await log.tail.wait({at(topic): ZERO}, 60)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await blocked.wait()
            await anyio.to_thread.run_sync(valkey.stop)
    valkey.start()
    async with open_log(valkey.url) as other:
        await other.tail.ring("topics")
    assert await log.tail.wait({at(topic): ZERO}, 0) == TailNews({}, ["topics"])  # rung after we had listened


async def test_bells_are_heard_again_when_redis_lost_the_old_ones(valkey: Valkey, log: RedisLog, admin: Admin) -> None:
    await admin("XADD", "os:bell", "99999999999999-1", "b", "far-ahead")
    await log.tail.wait({}, 0)
    await admin("FLUSHALL")
    await log.lanes["tail"].hang_up()
    await log.tail.ring("nodes")
    assert list((await log.tail.wait({}, 5)).bells) == ["nodes"]


async def test_an_interrupt_that_gets_no_answer_ends_the_wait_with_its_connection(valkey: Valkey) -> None:
    async with open_log(valkey.url, timeout=0.1) as log:
        topic = await verified(log)
        await log.tail.wait({at(topic): ZERO}, 0)

        async def wait() -> None:
            with pytest.raises(Unavailable):
                await log.tail.wait({at(topic): ZERO}, 60)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                while log.lanes["tail"].in_use == 0:  # noqa: ASYNC110
                    await anyio.sleep(0.001)
                valkey.pause()
                await log.tail.interrupt()
        valkey.resume()
        assert await log.tail.wait({at(topic): ZERO}, 0) == TailNews()


async def test_an_interrupt_that_finds_nobody_blocking_ends_the_connection_in_the_end() -> None:
    """Behind a proxy that shares connections, the client id we were told is not the one that blocks."""
    async with scripted_redis() as server, open_log(server.url) as log:
        server.answer(b"*1\r\n$3\r\n0-0\r\n", HOLD)

        async def wait() -> None:
            with pytest.raises(Unavailable):
                await log.tail.wait({}, 60)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                while b"XREAD" not in server.asked:  # noqa: ASYNC110
                    await anyio.sleep(0.001)
                await log.tail.interrupt()

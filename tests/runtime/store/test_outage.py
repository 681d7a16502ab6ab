"""PostgreSQL stopped and started again, on a server of our own."""

from __future__ import annotations

import anyio
import pytest

from openstream_ops.servers import EmbeddedServers
from openstream_runtime.domain.errors import OutcomeUnknown, Unavailable
from openstream_runtime.store import Limits
from support.store_harness import RealUnderTest, batch, event, new_topic, own_database, real_store, taken

pytestmark = pytest.mark.anyio
QUICK = Limits(acquire=0.5, connect=2.0, reconnect=1.0)


async def test_an_outage_is_unavailable_and_ends_with_the_server_s_return(own_servers: EmbeddedServers) -> None:
    async with own_database(own_servers.database_url) as url, real_store(url, limits=QUICK) as store:
        topic = await new_topic(store)
        cursor = await taken(store, topic)
        await store.events.write([batch(topic, cursor, [event(1)])])
        await anyio.to_thread.run_sync(own_servers.postgres.stop)
        try:
            for call in (store.events.ping, store.events.cursors, store.catalog.topics):
                with pytest.raises(Unavailable):
                    await call()
            with pytest.raises(Unavailable):
                await store.events.write([batch(topic, cursor, [event(2)])])
        finally:
            await anyio.to_thread.run_sync(own_servers.postgres.start)
        await until_back(store)
        now = await store.events.cursor(topic.id, 0)
        assert now is not None
        await store.events.write([batch(topic, now, [event(2)])])
        assert [one.position.ms for _, one in await store.rows(topic.id, 0)] == [1, 2]


async def test_a_server_that_dies_under_load_loses_and_doubles_nothing(own_servers: EmbeddedServers) -> None:
    async with own_database(own_servers.database_url) as url, real_store(url, limits=QUICK) as store:
        topic = await new_topic(store, 3)
        troubles = 0
        enough = anyio.Event()

        async def persist(number: int) -> None:
            nonlocal troubles
            cursor = await taken(store, topic, number)
            while cursor.position.ms < 1000 or not enough.is_set():
                events = [event(cursor.position.ms + n) for n in range(1, 21)]
                try:
                    await store.events.write([batch(topic, cursor, events, partition=number)])
                    now = await store.events.cursor(topic.id, number)
                except (Unavailable, OutcomeUnknown):
                    troubles += 1
                    await anyio.sleep(0.01)
                    try:
                        now = await store.events.cursor(topic.id, number)
                    except Unavailable:
                        continue
                assert now is not None
                cursor = now

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(persist, number)
                for _ in range(2):
                    await anyio.sleep(0.1)
                    await anyio.to_thread.run_sync(own_servers.postgres.kill)
                    await anyio.to_thread.run_sync(own_servers.postgres.start)
                    await until_back(store)
                enough.set()
        assert troubles > 0
        for number in range(3):
            positions = [one.position.ms for _, one in await store.rows(topic.id, number)]
            assert positions == list(range(1, len(positions) + 1))
            assert len(positions) == await store.count(topic.id, number) >= 1000


async def until_back(store: RealUnderTest) -> None:
    with anyio.fail_after(30):
        while True:
            try:
                return await store.events.ping()
            except Unavailable:
                await anyio.sleep(0.02)

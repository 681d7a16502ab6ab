"""Lost answers and cut connections: what was committed is never written again, what was not is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from openstream_runtime.domain.errors import OutcomeUnknown, Unavailable
from openstream_runtime.domain.topics import TopicSettings
from openstream_runtime.ports.store import Committed, FencedOff, PersistBatch
from openstream_runtime.store import Limits
from support.store_harness import RealUnderTest, batch, day_made, event, new_topic, real_store, taken
from support.tcp_proxy import TcpProxy, tcp_proxy

pytestmark = pytest.mark.anyio
QUICK = Limits(acquire=2.0, call=1.0, write=1.0, sift=5.0, statement=5.0, reconnect=2.0)


@asynccontextmanager
async def behind_proxy(url: str, limits: Limits = QUICK) -> AsyncIterator[tuple[RealUnderTest, TcpProxy]]:
    """A store that talks through a proxy; its harness looks at PostgreSQL directly."""
    given = conninfo_to_dict(url)
    async with (
        tcp_proxy(str(given["host"]), int(str(given["port"]))) as proxy,
        real_store(make_conninfo(url, host="127.0.0.1", port=proxy.port), limits=limits) as store,
    ):
        store.database_url = url
        yield store, proxy


async def until_available(store: RealUnderTest) -> None:
    with anyio.fail_after(20):
        while True:
            try:
                return await store.events.ping()
            except Unavailable:
                await anyio.sleep(0.02)


@pytest.mark.parametrize("delivered", [True, False], ids=["committed", "not committed"])
async def test_a_lost_answer_to_commit_is_unknown_and_writing_again_is_exactly_once(
    empty_url: str, delivered: bool
) -> None:
    async with behind_proxy(empty_url) as (store, proxy):
        topic = await new_topic(store, 2)
        await day_made(store)
        batches = [
            batch(topic, await taken(store, topic, number), [event(n) for n in range(1, 500)], partition=number)
            for number in range(2)
        ]
        proxy.cut_after(b"COMMIT", delivered=delivered)
        with pytest.raises(OutcomeUnknown):
            await store.events.write(batches)
        assert proxy.cuts == 1
        outcome = FencedOff() if delivered else Committed()
        assert await store.events.write(batches) == [outcome, outcome]
        for number in range(2):
            assert [one.position.ms for _, one in await store.rows(topic.id, number)] == list(range(1, 500))
            assert await store.count(topic.id, number) == 499


async def test_a_connection_cut_before_commit_is_a_definite_no(empty_url: str) -> None:
    async with behind_proxy(empty_url) as (store, proxy):
        topic = await new_topic(store)
        mine = batch(topic, await taken(store, topic), [event(1, event_type="the-marker")])
        proxy.cut_after(b"the-marker")
        with pytest.raises(Unavailable):
            await store.events.write([mine])
        assert proxy.cuts == 1
        assert await store.rows(topic.id, 0) == []
        assert await store.events.write([mine]) == [Committed()]


async def test_a_lost_answer_while_a_time_partition_is_made_is_a_definite_no_for_the_batch(empty_url: str) -> None:
    async with behind_proxy(empty_url) as (store, proxy):
        topic = await new_topic(store)
        mine = batch(topic, await taken(store, topic), [event(1)])
        proxy.cut_after(b"COMMIT")
        with pytest.raises(Unavailable):
            await store.events.write([mine])
        assert proxy.cuts == 1
        assert await store.events.write([mine]) == [Committed()]


async def test_a_lost_answer_to_a_change_of_the_catalog_is_unknown_and_asking_again_finds_it(empty_url: str) -> None:
    async with behind_proxy(empty_url) as (store, proxy):
        proxy.cut_after(b"COMMIT")
        with pytest.raises(OutcomeUnknown):
            await store.catalog.create_topic("orders", 3, TopicSettings())
        topic, is_new = await store.catalog.create_topic("orders", 3, TopicSettings())
        assert not is_new
        assert topic.partitions == 3


async def test_a_stalled_network_is_given_up_within_the_deadline_and_recovered_from(empty_url: str) -> None:
    async with behind_proxy(empty_url) as (store, proxy):
        topic = await new_topic(store)
        mine = batch(topic, await taken(store, topic), [event(1)])
        proxy.stall()
        with anyio.fail_after(30), pytest.raises(Unavailable):
            await store.events.write([mine])
        proxy.resume()
        await until_available(store)
        assert await store.events.write([mine]) == [Committed()]
        assert len(await store.rows(topic.id, 0)) == 1


async def test_a_commit_that_stalls_is_unknown(empty_url: str) -> None:
    async with behind_proxy(empty_url) as (store, proxy):
        topic = await new_topic(store)
        await day_made(store)
        mine = batch(topic, await taken(store, topic), [event(1)])
        proxy.stall_after(b"COMMIT")
        with anyio.fail_after(30), pytest.raises(OutcomeUnknown):
            await store.events.write([mine])
        proxy.resume()
        await until_available(store)
        assert await written_when_free(store, mine) in ([Committed()], [FencedOff()])
        assert len(await store.rows(topic.id, 0)) == 1


async def written_when_free(store: RealUnderTest, mine: PersistBatch) -> list[Committed | FencedOff]:
    """The server may hold the row a while for a connection it has not yet noticed is dead."""
    with anyio.fail_after(20):
        while True:
            try:
                return await store.events.write([mine])
            except Unavailable:
                await anyio.sleep(0.02)


async def test_a_cut_in_every_place_loses_and_doubles_nothing(empty_url: str) -> None:
    async with behind_proxy(empty_url) as (store, proxy):
        topic = await new_topic(store)
        cursor = await taken(store, topic)
        patterns = [b"BEGIN", b"FOR NO KEY UPDATE", b"PGCOPY", b"UPDATE openstream.partitions", b"COMMIT"]
        for number, (pattern, delivered) in enumerate([(p, d) for p in patterns for d in (True, False)], 1):
            proxy.cut_after(pattern, delivered=delivered)
            mine = batch(topic, cursor, [event(number), event(number, 1)])
            with anyio.fail_after(20):
                while cursor.position < mine.upto:
                    try:
                        await store.events.write([mine])
                        now = await store.events.cursor(topic.id, 0)
                        assert now is not None
                        cursor = now
                    except (Unavailable, OutcomeUnknown):
                        await anyio.sleep(0.01)
        assert proxy.cuts >= 6
        positions = [(one.position.ms, one.position.seq) for _, one in await store.rows(topic.id, 0)]
        assert positions == [(number, seq) for number in range(1, 11) for seq in (0, 1)]
        assert await store.count(topic.id, 0) == 20

"""The history through the gateway: partitions one after the other, places to go on, and readers that are cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import anyio
import pytest

from openstream_runtime.domain.errors import Gone, InvalidRequest, NotFound, Unavailable
from openstream_runtime.domain.history import Place, Span
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import Topic
from openstream_runtime.gateway import reading as module
from openstream_runtime.gateway.results import HistoryPage
from openstream_runtime.ports.store import HistoryPage as StoredPage
from support.actors import Rig, settle
from support.desk import Desk, open_desk
from support.fake_history import outlive

pytestmark = pytest.mark.anyio


async def filled(rig: Rig, *counts: int) -> Topic:
    """A topic with so many events in each partition, numbered through."""
    topic = await rig.topic(partitions=len(counts))
    for partition, count in enumerate(counts):
        if count:
            await rig.append(topic, *(f"{partition}-{n}" for n in range(count)), partition=partition)
    return topic


def texts(*pages: HistoryPage) -> list[str]:
    return [event.payload.decode() for page in pages for _, event in page.events]


async def whole(desk: Desk, partition: int | None = None, span: Span | None = None, *, limit: int) -> list[HistoryPage]:
    pages = [await desk.gateway.history("orders", partition, span or Span(), limit=limit)]
    while (at := pages[-1].next) is not None:
        pages.append(await desk.gateway.history("orders", partition, span or Span(), limit=limit, at=at))
    return pages


async def test_partitions_follow_one_another_also_where_one_has_nothing(rig: Rig) -> None:
    await filled(rig, 3, 0, 5, 0)
    everything = [f"0-{n}" for n in range(3)] + [f"2-{n}" for n in range(5)]
    async with open_desk(rig) as desk:
        for limit in (1, 2, 3, 4, 8, 100):
            pages = await whole(desk, limit=limit)
            assert texts(*pages) == everything
            assert all(len(page.events) <= limit for page in pages)
        assert texts(*await whole(desk, 2, limit=2)) == everything[3:]
        assert await desk.gateway.history("orders", 3, Span(), limit=5) == HistoryPage([], None)
        streamed = [page async for page in desk.gateway.history_pages("orders", None, Span())]
        assert texts(*streamed) == everything


async def test_a_place_is_where_the_first_event_not_given_stands(rig: Rig) -> None:
    topic = await filled(rig, 3, 3)
    second = [at.position for at in rig.redis.streams[topic.all_partitions()[0]].entries.values()][1]
    async with open_desk(rig) as desk:
        page = await desk.gateway.history("orders", None, Span(), limit=1)
        assert page.next is not None
        assert page.next.partition == 0
        assert page.next.position <= second
        # The time still bounds the partitions behind the place.
        late = Span(second.next())
        at = Place(0, second.next())
        assert texts(await desk.gateway.history("orders", None, late, limit=9, at=at)) == ["0-2", "1-2"]


async def test_what_was_found_before_something_went_wrong_is_given(rig: Rig) -> None:
    topic = await filled(rig, 2, 2)
    outlive(rig.store, topic.id, 1, Position(10**15, 0))
    rig.redis.streams[topic.all_partitions()[1]].leave_to_store(Position(10**14, 0))
    first = next(iter(rig.redis.streams[topic.all_partitions()[0]].entries))
    async with open_desk(rig) as desk:
        page = await desk.gateway.history("orders", None, Span(first), limit=9)
        assert texts(page) == ["0-0", "0-1"]
        assert page.next == Place(1, first)
        with pytest.raises(Gone) as gone:
            await desk.gateway.history("orders", None, Span(first), limit=9, at=page.next)
        assert gone.value.facts["partition"] == 1


async def test_an_answer_that_takes_long_leaves_with_what_there_is(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    await filled(rig, 3, 3)
    async with open_desk(rig) as desk:
        pages = await whole(desk, span=Span(event_type="other"), limit=9)
        assert len(pages) == 2, "one look at each partition"
        assert texts(*pages) == []
        streamed = [page async for page in desk.gateway.history_pages("orders", None, Span(event_type="other"))]
        assert len(streamed) == 2, "a stream shows that it lives"


async def test_large_events_make_small_pages(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES", 1_000)
    monkeypatch.setattr(module, "STREAM_BYTES", 1_000)
    topic = await rig.topic()
    await rig.append(topic, *["x" * 400] * 20)
    async with open_desk(rig) as desk:
        for pages in (
            await whole(desk, limit=100),
            [page async for page in desk.gateway.history_pages("orders", None, Span())],
        ):
            assert max(len(page.events) for page in pages) == 3
            assert sum(len(page.events) for page in pages) == 20


async def test_what_is_not_there(rig: Rig) -> None:
    await filled(rig, 1, 1)
    async with open_desk(rig) as desk:
        with pytest.raises(NotFound):
            await desk.gateway.history("nothing", None, Span(), limit=1)
        for partition in (2, -1):
            with pytest.raises(NotFound):
                await desk.gateway.history("orders", partition, Span(), limit=1)
        with pytest.raises(InvalidRequest):
            await desk.gateway.history("orders", None, Span(), limit=1, at=Place(2, Position(1, 0)))


async def test_streams_end_when_the_node_drains_and_pages_do_not(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STREAM_EVENTS", 2)
    await filled(rig, 5)
    async with open_desk(rig) as desk:
        pages = desk.gateway.history_pages("orders", None, Span())
        assert texts(await anext(pages)) == ["0-0", "0-1"]
        desk.gateway.begin_draining()
        with pytest.raises(Unavailable):
            await anext(pages)
        assert len((await desk.gateway.history("orders", None, Span(), limit=9)).events) == 5


async def test_a_stream_does_not_go_on_in_the_next_topic_of_that_name(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STREAM_EVENTS", 2)
    topic = await filled(rig, 5)
    async with open_desk(rig) as desk:
        for gone in (replace(topic, deleting=True), replace(topic, id=topic.id + 1)):
            rig.world.board.add_topic(topic)
            pages = desk.gateway.history_pages("orders", None, Span())
            assert len((await anext(pages)).events) == 2
            rig.world.board.add_topic(gone)
            with pytest.raises(NotFound):
                await anext(pages)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_a_request_is_cancelled_with_does_not_reach_the_ports(rig: Rig) -> None:
    """Quart cancels by asyncio's means, which no shield stops: a query so cancelled would lose its connection."""
    topic = await filled(rig, 1)
    through: list[bool] = []

    async def page(*_: object, **__: object) -> StoredPage:
        with anyio.CancelScope(shield=True):
            try:
                await anyio.sleep(1)
            finally:
                through.append(anyio.current_time() >= began + 1)
        raise AssertionError("nobody waits for this")

    history = rig.world.history
    rig.redis.streams[topic.all_partitions()[0]].leave_to_store(Position(10**14, 0))
    history.page = page  # type: ignore[method-assign]
    async with open_desk(rig) as desk:
        began = anyio.current_time()
        task = asyncio.ensure_future(desk.gateway.history("orders", None, Span(), limit=1))
        await settle()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    assert through == [True]

"""Live tails: everything from now on, in order, or the number of what is missing; and no watcher costs another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from openstream_runtime.actors import broadcaster as module
from openstream_runtime.actors.audience import SEAT_BYTES, SEAT_EVENTS, Audience, Heard, Seat
from openstream_runtime.actors.broadcaster import Broadcaster
from openstream_runtime.domain.errors import Overloaded, Unavailable
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import Span
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.topics import Topic
from support.actors import Rig, eventually, supervised, tailer

pytestmark = pytest.mark.anyio
A, B = TopicPartition("orders", 0), TopicPartition("orders", 1)


@asynccontextmanager
async def broadcasting(rig: Rig) -> AsyncIterator[None]:
    async with supervised(tailer(rig), Broadcaster.spec(rig.world), events=rig.events):
        yield


async def seated(rig: Rig, *partitions: TopicPartition, wanted: Span | None = None) -> Seat:
    seat = rig.world.audience.sit(partitions or (A,), wanted or Span())
    with anyio.fail_after(10):
        await seat.until_ready()
    assert seat.ready
    return seat


async def taken(seat: Seat, count: int) -> list[str]:
    """Payloads, as many as asked for; none of them dropped."""
    found: list[str] = []
    with anyio.fail_after(30):
        while len(found) < count:
            heard = await seat.take()
            assert heard.dropped == 0
            found += [event.payload.decode() for _, event in heard.events]
    return found


async def a_topic(rig: Rig, partitions: int = 2) -> Topic:
    topic = await rig.topic(partitions=partitions)
    await rig.verify(topic)
    return topic


async def test_a_watcher_sees_what_comes_from_now_on_and_nothing_from_before(rig: Rig) -> None:
    topic = await a_topic(rig)
    await rig.append(topic, "old")
    async with broadcasting(rig):
        seat = await seated(rig)
        for n in range(20):
            await rig.append(topic, n)
            await anyio.sleep(0.07 * (n % 5))
        assert await taken(seat, 20) == [str(n) for n in range(20)]


async def test_everybody_sees_everything_and_it_is_read_once(rig: Rig) -> None:
    topic = await a_topic(rig)
    async with broadcasting(rig):
        seats = [await seated(rig, A, B) for _ in range(5)]
        before = rig.redis.calls["read_after"]
        await rig.append(topic, "x")
        await rig.append(topic, "y", partition=1)
        for seat in seats:
            assert sorted(await taken(seat, 2)) == ["x", "y"]
        assert rig.redis.calls["read_after"] - before <= 4


async def test_a_watcher_of_one_partition_or_one_type_sees_that(rig: Rig) -> None:
    topic = await a_topic(rig)
    async with broadcasting(rig):
        one, typed = await seated(rig, B), await seated(rig, A, B, wanted=Span(event_type="other"))
        both = await seated(rig, A, B)
        await rig.append(topic, "a")
        await rig.append(topic, "b", partition=1)
        assert sorted(await taken(both, 2)) == ["a", "b"]
        assert await taken(one, 1) == ["b"]
        assert typed._queue == typed._queue.__class__()


async def test_more_than_fits_into_a_look_is_left_out_and_counted(rig: Rig) -> None:
    topic = await a_topic(rig)
    async with broadcasting(rig):
        seat = await seated(rig)
        many = module.LOOK_EVENTS + 1_234
        await rig.append(topic, *range(many))
        seen, dropped = 0, 0
        with anyio.fail_after(30):
            while seen + dropped < many:
                heard = await seat.take()
                seen, dropped = seen + len(heard.events), dropped + heard.dropped
        assert (seen, dropped) == (module.LOOK_EVENTS, 1_234)
        await rig.append(topic, "after")
        assert await taken(seat, 1) == ["after"], "and it goes on at the end"


async def test_while_redis_is_away_nothing_is_lost(rig: Rig) -> None:
    topic = await a_topic(rig)
    async with broadcasting(rig):
        seat = await seated(rig)
        await rig.append(topic, 1)
        assert await taken(seat, 1) == ["1"]
        rig.redis.unavailable = True
        await anyio.sleep(20)
        rig.redis.unavailable = False
        await rig.append(topic, 2)
        assert await taken(seat, 1) == ["2"]


async def test_a_deleted_topic_ends_its_tails_and_no_others(rig: Rig) -> None:
    await a_topic(rig)
    other = await rig.topic("other")
    await rig.verify(other)
    async with broadcasting(rig):
        seat, stays = await seated(rig), await seated(rig, TopicPartition("other", 0))
        rig.world.board.topics = {"other": other}
        rig.world.audience.changed.tell()
        with anyio.fail_after(30):
            assert await seat.take() == Heard([], 0)
        assert seat.ended == "the topic is gone"
        await rig.append(other, "x")
        assert await taken(stays, 1) == ["x"]


async def test_when_the_last_watcher_leaves_nothing_is_read_any_more(rig: Rig) -> None:
    topic = await a_topic(rig)
    async with broadcasting(rig):
        seat = await seated(rig, A, B)
        await eventually(lambda: len(rig.world.watch) == 1)
        seat.close()
        seat.close()
        await eventually(lambda: len(rig.world.watch) == 0)
        before = rig.redis.calls["read_after"]
        await rig.append(topic, "x")
        await anyio.sleep(30)
        assert rig.redis.calls["read_after"] == before


# ------------------------------------------------------------------------------------------------ the seats alone


def stored(n: int, size: int = 2) -> StoredEvent:
    return StoredEvent(Position(n, 0), "t", None, b"x" * size, 1)


async def test_a_seat_holds_so_many_events_and_says_how_many_more_there_were() -> None:
    seat = Audience().sit([A], Span())
    for n in range(SEAT_EVENTS + 5):
        seat.offer(0, stored(n))
    heard = await seat.take()
    assert [event.position.ms for _, event in heard.events] == list(range(SEAT_EVENTS))
    assert heard.dropped == 5
    seat.offer(0, stored(1))
    assert (await seat.take()).dropped == 0


async def test_a_seat_is_bounded_in_bytes_and_one_event_always_fits() -> None:
    seat = Audience().sit([A], Span())
    seat.offer(0, stored(1, 2 * SEAT_BYTES))
    seat.offer(0, stored(2, 10))
    heard = await seat.take()
    assert ([event.position.ms for _, event in heard.events], heard.dropped) == ([1], 1)


async def test_a_taker_that_is_cancelled_has_taken_nothing() -> None:
    seat = Audience().sit([A], Span())
    with anyio.move_on_after(1) as scope:
        await seat.take()
    assert scope.cancelled_caught
    seat.offer(0, stored(1))
    assert len((await seat.take()).events) == 1


async def test_when_the_audience_ends_what_waits_is_still_taken_and_nobody_sits_down() -> None:
    audience = Audience()
    seat = audience.sit([A], Span())
    seat.offer(0, stored(1))
    audience.end("the node is draining")
    assert len((await seat.take()).events) == 1
    assert await seat.take() == Heard([], 0)
    assert seat.ended == "the node is draining"
    with pytest.raises(Unavailable, match="draining"):
        audience.sit([A], Span())


def test_seats_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openstream_runtime.actors.audience.MAX_SEATS", 2)
    audience = Audience()
    first = audience.sit([A], Span())
    audience.sit([A], Span())
    with pytest.raises(Overloaded):
        audience.sit([A], Span())
    first.close()
    audience.sit([A], Span())
    assert len(audience) == 2

"""What every Tail does, in memory as on Redis."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping

import anyio
import pytest

from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.ports.log import TailNews
from support.log_harness import Log, appended, at, cursor, events, new_topic, verified

pytestmark = pytest.mark.anyio
LONG = 30.0


async def during(
    log: Log, positions: Mapping[TopicPartition, Position], act: Callable[[], Awaitable[object]], timeout: float = LONG
) -> TailNews:
    """What a wait says while something happens; the wait has begun, though it may not block yet."""
    news = TailNews()

    async def wait() -> None:
        nonlocal news
        news = await log.tail.wait(positions, timeout)

    with anyio.fail_after(LONG / 2):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.sleep(secrets.randbelow(20) / 1000)
            await act()
    return news


async def test_what_stands_after_a_position_already_is_told_at_once(log: Log) -> None:
    topic = await verified(log, 3)
    positions = [await appended(log, topic, events(3), partition) for partition in range(2)]
    news = await log.tail.wait({at(topic, 0): ZERO, at(topic, 1): positions[1][0], at(topic, 2): ZERO}, LONG)
    assert news == TailNews({at(topic, 0): positions[0][-1], at(topic, 1): positions[1][-1]}, ())


async def test_an_append_wakes_the_wait_and_only_for_its_partition(log: Log) -> None:
    topic = await verified(log, 2)
    [first] = await appended(log, topic, events(1))
    found: list[Position] = []

    async def append() -> None:
        found.extend(await appended(log, topic, events(2), 1))

    news = await during(log, {at(topic, 0): first, at(topic, 1): ZERO}, append)
    assert list(news.moved) == [at(topic, 1)]
    assert news.moved[at(topic, 1)] == found[-1]


async def test_a_stream_that_is_not_there_yet_wakes_when_it_comes(log: Log) -> None:
    topic = new_topic()

    async def begin() -> None:
        await log.events.verify(topic, 0, cursor())
        await appended(log, topic, events(1))

    assert list((await during(log, {at(topic): ZERO}, begin)).moved) == [at(topic)]


async def test_time_runs_out_when_nothing_happens(log: Log) -> None:
    topic = await verified(log)
    with anyio.fail_after(LONG):
        assert await log.tail.wait({at(topic): ZERO}, 0.02) == TailNews()
        assert await log.tail.wait({at(topic): ZERO}, 0) == TailNews()
        assert await log.tail.wait({}, 0.02) == TailNews()


async def test_no_time_still_tells_what_is_there(log: Log) -> None:
    topic = await verified(log)
    [position] = await appended(log, topic, events(1))
    assert (await log.tail.wait({at(topic): ZERO}, 0)).moved == {at(topic): position}


async def test_a_bell_wakes_a_wait_that_listens_to_nothing_else(log: Log) -> None:
    bell = f"group:{secrets.token_hex(8)}"
    await log.tail.wait({}, 0)  # from here on it listens
    assert list((await during(log, {}, lambda: log.tail.ring(bell))).bells) == [bell]


async def test_bells_rung_between_two_waits_are_heard_once_each(log: Log) -> None:
    await log.tail.wait({}, 0)
    names = [secrets.token_hex(8) for _ in range(3)]
    for name in (*names, names[0]):
        await log.tail.ring(name)
    assert list((await log.tail.wait({}, LONG)).bells) == names
    assert await log.tail.wait({}, 0) == TailNews()


async def test_bells_from_before_the_first_wait_are_not_heard(log: Log) -> None:
    await log.tail.ring("early")
    assert await log.tail.wait({}, 0) == TailNews()


async def test_an_interrupt_ends_the_wait_at_any_moment_of_it(log: Log) -> None:
    topic = await verified(log)
    for _ in range(30):
        assert await during(log, {at(topic): ZERO}, log.tail.interrupt) == TailNews()


async def test_an_interrupt_when_nobody_waits_is_forgotten(log: Log) -> None:
    topic = await verified(log)
    await log.tail.interrupt()
    begin = anyio.current_time()
    assert await log.tail.wait({at(topic): ZERO}, 0.2) == TailNews()
    assert anyio.current_time() - begin >= 0.15


async def test_an_interrupt_ends_no_later_wait(log: Log) -> None:
    """Waits that end by themselves while they are interrupted, each followed by one that nobody interrupts."""
    topic = await verified(log)
    for _ in range(30):
        await during(log, {at(topic): ZERO}, log.tail.interrupt, timeout=0.005)
        begin = anyio.current_time()
        assert await log.tail.wait({at(topic): ZERO}, 0.03) == TailNews()
        assert anyio.current_time() - begin >= 0.02


async def test_many_streams_are_waited_for_at_once(log: Log) -> None:
    topic = new_topic(1000)
    positions = dict.fromkeys(topic.all_partitions(), ZERO)

    async def begin() -> None:
        await log.events.verify(topic, 777, cursor())
        await appended(log, topic, events(1), 777)

    assert list((await during(log, positions, begin)).moved) == [at(topic, 777)]


async def test_a_wait_that_is_cancelled_leaves_the_tail_usable(log: Log) -> None:
    topic = await verified(log)
    for _ in range(20):
        with anyio.move_on_after(secrets.randbelow(5) / 1000):
            await log.tail.wait({at(topic): ZERO}, LONG)
    [position] = await appended(log, topic, events(1))
    assert (await log.tail.wait({at(topic): ZERO}, LONG)).moved == {at(topic): position}

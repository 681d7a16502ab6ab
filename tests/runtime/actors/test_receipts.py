"""Receipts: a share is settled by commits that had its ends, and nothing stays behind of who has gone."""

from __future__ import annotations

import anyio
import pytest

from openstream_runtime.actors.receipts import Receipts, Share
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import Topic
from support.actors import settle

pytestmark = pytest.mark.anyio
TOPIC = Topic(1, "orders", 4)


def positions(first: int, last: int) -> list[Position]:
    return [Position(number, 0) for number in range(first, last + 1)]


def events(first: int, last: int) -> list[StoredEvent]:
    return [StoredEvent(position, "t", None, b"1", 1, None) for position in positions(first, last)]


def share(first: int, last: int, *, partition: int = 0, topic: Topic = TOPIC) -> Share:
    return Share(topic, partition, positions(first, last), since=0.0)


async def test_a_commit_of_all_of_it_settles_it_and_nobody_waits_any_more() -> None:
    receipts, one = Receipts(), share(3, 5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receipts.wait, [one], 30)
        await settle()
        assert len(receipts) == 1
        receipts.committed(TOPIC, 0, events(1, 5))
        assert receipts.lines == {}
    assert one.held == positions(3, 5)


async def test_a_share_of_several_commits_waits_for_the_last_one() -> None:
    receipts, one = Receipts(), share(3, 9)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receipts.wait, [one], 30)
        await settle()
        for first, last in ((1, 4), (5, 6), (7, 8)):
            receipts.committed(TOPIC, 0, events(first, last))
            assert one.held is None
        receipts.committed(TOPIC, 0, events(9, 12))
    assert one.held is not None


@pytest.mark.parametrize("gap", ["before it", "its end", "its beginning"])
async def test_a_commit_that_passes_without_it_settles_nothing_and_is_doubted(gap: str) -> None:
    receipts, one = Receipts(), share(3, 5)
    seen = {
        "before it": events(1, 2) + events(6, 7),
        "its end": events(1, 4) + events(6, 7),
        "its beginning": events(5, 7),
    }
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receipts.wait, [one], 30)
        await settle()
        grown = receipts.grown.mark()
        receipts.committed(TOPIC, 0, seen[gap])
        assert one.held is None
        [line] = receipts.lines.values()
        assert line.doubtful
        assert line.passed == Position(7, 0)
        assert grown.is_set()
        tasks.cancel_scope.cancel()


async def test_who_begins_to_wait_behind_a_commit_is_doubted_at_once() -> None:
    receipts = Receipts()
    receipts.committed(TOPIC, 0, events(1, 5))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receipts.wait, [share(4, 5), share(4, 5, partition=1)], 30)
        await settle()
        assert [line.doubtful for line in receipts.lines.values()] == [True, False]
        tasks.cancel_scope.cancel()
    async with anyio.create_task_group() as tasks:
        receipts.keep_only({2})
        tasks.start_soon(receipts.wait, [share(4, 5)], 30)
        await settle()
        assert [line.doubtful for line in receipts.lines.values()] == [False]
        tasks.cancel_scope.cancel()


async def test_a_topic_made_again_under_its_name_is_another_one() -> None:
    receipts, one = Receipts(), share(3, 5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receipts.wait, [one], 30)
        await settle()
        receipts.committed(Topic(2, "orders", 4), 0, events(1, 5))
        assert one.held is None
        receipts.committed(TOPIC, 0, events(1, 5))


async def test_a_request_waits_for_all_of_its_partitions_and_what_is_settled_is_not_looked_after() -> None:
    receipts, shares = Receipts(), [share(3, 5, partition=number) for number in range(3)]
    waited: list[bool] = []

    async def wait() -> None:
        await receipts.wait(shares, 30)
        waited.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await settle()
        for number in (2, 0, 1):
            assert not waited
            receipts.committed(TOPIC, number, events(3, 5))
            assert len(receipts) == len([one for one in shares if one.held is None])
            await settle()
    assert waited


async def test_the_end_of_the_time_is_the_end_of_the_waiting() -> None:
    receipts, one = Receipts(), share(3, 5)
    began = anyio.current_time()
    await receipts.wait([one], 30)
    assert anyio.current_time() - began == pytest.approx(30)
    assert one.held is None
    assert receipts.lines == {}


async def test_who_is_cancelled_is_forgotten_and_the_others_wait_on() -> None:
    receipts, stays = Receipts(), share(3, 5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receipts.wait, [stays], 30)
        async with anyio.create_task_group() as leaving:
            for _ in range(100):
                leaving.start_soon(receipts.wait, [share(3, 5), share(1, 1, partition=3)], 30)
            await settle()
            assert len(receipts) == 201
            leaving.cancel_scope.cancel()
        assert len(receipts) == 1
        assert list(receipts.lines) == [(1, 0)]
        receipts.committed(TOPIC, 0, events(3, 5))


async def test_a_draining_node_lets_nobody_wait_long_now_or_later() -> None:
    receipts, began = Receipts(), anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receipts.wait, [share(3, 5)], 30)
        await anyio.sleep(5)
        receipts.hurry(1.2)
    assert anyio.current_time() - began == pytest.approx(6.2)
    await receipts.wait([share(6, 7)], 30)
    assert anyio.current_time() - began == pytest.approx(7.4)


async def test_to_wait_for_nothing_is_no_waiting() -> None:
    await Receipts().wait([], 30)

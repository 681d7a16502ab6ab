"""asyncio's own `task.cancel()`, which is what a web framework does to a request whose client left.

It is delivered once, at any await, even after the thing awaited has happened. No message may be lost or doubled by it,
and no room may leak.
"""

import asyncio
import random
from collections import Counter

import anyio
import pytest

from supervisors import Envelope, Mailbox

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)]


async def test_a_caller_that_hangs_up_leaves_an_abandoned_envelope_and_answering_it_is_harmless() -> None:
    box = Mailbox[str, int](10)
    caller = asyncio.get_running_loop().create_task(box.call("x", timeout=None))
    await anyio.wait_all_tasks_blocked()
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    envelope = await box.receive()
    assert envelope.abandoned
    assert not envelope.answer(1)


async def test_a_caller_cancelled_after_it_was_answered_hurts_nobody() -> None:
    box = Mailbox[str, int](10)
    caller = asyncio.get_running_loop().create_task(box.call("x"))
    envelope = await box.receive()
    assert envelope.answer(1)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert not envelope.answer(2)


async def test_a_sender_cancelled_after_it_was_promised_room_gives_the_room_to_the_next() -> None:
    box = Mailbox[str, int](1)
    loop = asyncio.get_running_loop()
    box.offer("a")
    first, second = loop.create_task(box.cast("b")), loop.create_task(box.cast("c"))
    await anyio.wait_all_tasks_blocked()
    assert (await box.receive()).message == "a"
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert [envelope.message for envelope in box.drain()] == ["c"]


async def test_a_receiver_cancelled_after_a_message_came_leaves_it_to_the_next() -> None:
    box = Mailbox[str, int](10)
    loop = asyncio.get_running_loop()
    first, second = loop.create_task(box.receive()), loop.create_task(box.receive())
    await anyio.wait_all_tasks_blocked()
    box.offer("a")
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert second.result().message == "a"


@pytest.mark.parametrize("seed", range(5))
async def test_under_a_hail_of_cancellations_nothing_is_lost_or_doubled_and_no_room_leaks(seed: int) -> None:
    chance = random.Random(seed)
    box = Mailbox[int, int](8, max_bytes=64, size=lambda message: message % 20)
    loop = asyncio.get_running_loop()
    received: Counter[int] = Counter()
    sent: set[int] = set()
    tried: set[int] = set()

    def take(batch: list[Envelope[int, int]]) -> None:
        for envelope in batch:
            received[envelope.message] += 1
            envelope.answer(envelope.message)

    async def receive() -> None:
        while True:
            take([await box.receive()] if chance.random() < 0.5 else await box.receive_all(max_count=3))
            if chance.random() < 0.3:
                await asyncio.sleep(0)

    async def send(message: int) -> None:
        tried.add(message)
        if message % 2:
            await box.cast(message)
        else:
            assert await box.call(message, timeout=None) == message
        sent.add(message)

    receivers = [loop.create_task(receive()) for _ in range(2)]
    senders: list[asyncio.Task[None]] = []
    for message in range(600):
        senders.append(loop.create_task(send(message)))
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        chance.choice(senders[-10:]).cancel()
        if chance.random() < 0.1:
            victim = chance.randrange(2)
            receivers[victim].cancel()
            receivers[victim] = loop.create_task(receive())
    await asyncio.wait(senders)
    await anyio.wait_all_tasks_blocked()
    for receiver in receivers:
        receiver.cancel()
    await asyncio.wait(receivers)
    take(box.drain())

    assert not [message for message, times in received.items() if times > 1], "doubled"
    assert sent <= received.keys() <= tried, "lost"
    assert len(sent) > 50
    assert sum(box.offer(0) for _ in range(20)) == 8, "room by count leaked"
    box.drain()
    assert box.offer(0, size=64), "room by bytes leaked"
    assert box.statistics().senders == box.statistics().receivers == 0

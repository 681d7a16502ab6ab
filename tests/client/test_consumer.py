"""Consuming: the loop, its acks, its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio
import httpx2
import pytest

from openstream_client import NotFound, OpenStream
from support.fake_service import FakeService, Fault, problem

pytestmark = pytest.mark.anyio


async def test_the_loop_gives_events_as_they_come_and_acks_reach_the_node(
    client: OpenStream, service: FakeService
) -> None:
    service.group("orders", "billing")
    service.put("orders", 1, 2, 3)
    seen = []
    async with client.consume("orders", "billing", consumer="c1") as messages:
        async for message in messages:
            seen.append(message.payload)
            await message.ack()
            if len(seen) == 3:
                service.put("orders", 4)
            if len(seen) == 4:
                messages.stop()
    assert seen == [1, 2, 3, 4]
    assert len(service.acked) == 4
    assert service.pending["orders", "billing"] == {}


async def test_acks_travel_together(client: OpenStream, service: FakeService) -> None:
    service.group("orders", "billing")
    service.put("orders", *range(100))
    async with client.consume("orders", "billing", prefetch=100, ack_linger=60) as messages:
        for _ in range(100):
            await (await anext(messages)).ack()
    assert len(service.acked) == 100
    assert len(service.paths("/ack")) == 1


async def test_an_ack_does_not_wait_for_the_next_message(client: OpenStream, service: FakeService) -> None:
    service.group("orders", "billing")
    service.put("orders", 1)
    async with client.consume("orders", "billing") as messages:
        await (await anext(messages)).ack()
        with anyio.fail_after(5):
            await messages.flush()
        assert service.acked == [(0, "1-0")]


async def test_what_was_not_worked_on_stays_with_the_group(client: OpenStream, service: FakeService) -> None:
    service.group("orders", "billing")
    service.put("orders", *range(10))
    async with client.consume("orders", "billing") as messages:
        async for message in messages:
            await message.ack()
            break
    assert service.acked == [(0, "1-0")]
    assert len(service.pending["orders", "billing"]) == 9


async def test_auto_ack_acks_a_message_when_the_next_is_asked_for(client: OpenStream, service: FakeService) -> None:
    service.group("orders", "billing")
    service.put("orders", *range(5))
    async with client.consume("orders", "billing", auto_ack=True) as messages:
        for _ in range(3):
            await anext(messages)
    assert [one for _, one in service.acked] == ["1-0", "2-0"]


async def test_reading_ahead_is_bounded(client: OpenStream, service: FakeService) -> None:
    service.group("orders", "billing")
    service.put("orders", *range(1_000))
    async with client.consume("orders", "billing", prefetch=20) as messages:
        for _ in range(30):
            await anext(messages)
            await anyio.wait_all_tasks_blocked()
            held = len(service.pending["orders", "billing"])
        assert held <= 30 + 20


async def test_the_loop_outlives_nodes_that_are_away_and_overloaded(client: OpenStream, service: FakeService) -> None:
    service.group("orders", "billing")
    service.put("orders", 1)
    service.faults["read"] = _faults()
    service.faults["ack"] = _faults()
    async with client.consume("orders", "billing") as messages:
        with anyio.fail_after(20):
            message = await anext(messages)
            await message.ack()
            await messages.flush()
    assert service.acked == [(0, "1-0")]


async def test_what_waits_and_what_is_worked_on_is_extended_and_what_is_done_is_not(
    client: OpenStream, service: FakeService
) -> None:
    service.group("orders", "billing")
    service.put("orders", 1, 2, 3)
    async with client.consume("orders", "billing", extend_every=0.01) as messages:
        done = await anext(messages)
        await done.ack()
        slow = await anext(messages)
        await until(lambda: min(service.extended[0, "2-0"], service.extended[0, "3-0"]) >= 3)
        assert service.extended[0, "1-0"] < 3
        await slow.ack()


async def test_an_extension_comes_three_times_within_the_time_the_group_gives(
    client: OpenStream, service: FakeService
) -> None:
    service.group("orders", "billing")
    service.claim_idle_ms = 60
    service.put("orders", 1)
    service.faults["extend"] = deque([problem(503, "unavailable")] * 2)
    async with client.consume("orders", "billing") as messages:
        await anext(messages)
        await until(lambda: service.extended[0, "1-0"] > 0)


async def test_what_another_consumer_has_got_meanwhile_is_passed_over_and_marked(
    client: OpenStream, service: FakeService
) -> None:
    service.group("orders", "billing")
    service.put("orders", 1, 2, 3)
    async with client.consume("orders", "billing", extend_every=0.01) as messages:
        first = await anext(messages)
        assert not first.lost
        service.lost |= {(0, "1-0"), (0, "2-0")}
        await until(lambda: first.lost)
        with anyio.fail_after(15):
            assert (await anext(messages)).payload == 3


async def test_a_message_nobody_settles_is_left_to_others_when_the_loop_goes_on_or_after_a_time(
    client: OpenStream, service: FakeService
) -> None:
    service.group("orders", "billing")
    service.put("orders", 1, 2, 3)
    async with client.consume("orders", "billing", extend_every=0.01, keep_for=0.5) as messages:
        await anext(messages)
        await anext(messages)
        await until(lambda: service.extended[0, "3-0"] >= 5)
        before, calls = service.extended.copy(), -1
        with anyio.fail_after(15):
            while calls != len(service.paths("/extend")):  # until it has fallen silent
                calls = len(service.paths("/extend"))
                await anyio.sleep(0.2)
        assert service.extended[0, "1-0"] == before[0, "1-0"]


async def test_a_block_acks_at_its_end_keeps_its_message_beside_the_loop_and_gives_back_what_it_failed_at(
    client: OpenStream, service: FakeService
) -> None:
    service.group("orders", "billing")
    service.put("orders", 1, 2, 3)
    async with client.consume("orders", "billing", extend_every=0.01, nack_delay=2.5) as messages:
        async with await anext(messages):
            assert (await anext(messages)).payload == 2
            before = service.extended[0, "1-0"]
            await until(lambda: service.extended[0, "1-0"] >= before + 3)
        with pytest.raises(ZeroDivisionError):
            async with await anext(messages) as failing:
                raise ZeroDivisionError
        assert failing.settled
    assert service.acked == [(0, "1-0")]
    assert service.nacked == [(0, "3-0", 2_500)]


async def test_a_loop_that_fails_gives_back_the_message_it_was_at_and_no_other(
    client: OpenStream, service: FakeService
) -> None:
    service.group("orders", "billing")
    service.put("orders", 1, 2, 3)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the loop is what raises
        async with client.consume("orders", "billing", auto_ack=True) as messages:
            async for message in messages:
                if message.payload == 2:
                    raise ZeroDivisionError
    assert service.acked == [(0, "1-0")]
    assert service.nacked == [(0, "2-0", 1_000)]


async def test_a_message_is_settled_once_whoever_does_it_first(client: OpenStream, service: FakeService) -> None:
    service.group("orders", "billing")
    service.put("orders", 1)
    service.faults["nack"] = deque([httpx2.ReadError("broke"), problem(503, "busy"), problem(429, "overloaded")])
    async with client.consume("orders", "billing") as messages, await anext(messages) as message:
        await message.nack(5)
        await message.nack()
        await message.ack()
    assert service.nacked == [(0, "1-0", 5_000)]
    assert service.acked == []


async def test_a_group_that_is_not_there_ends_the_loop_with_its_error(client: OpenStream) -> None:
    with pytest.raises(NotFound):  # noqa: PT012 - the loop is what raises
        async for _ in client.consume("orders", "nobody"):
            raise AssertionError("there is nothing to read")


async def test_an_abandoned_loop_is_closed_with_the_client(service: FakeService) -> None:
    service.group("orders", "billing")
    service.put("orders", 1, 2)
    async with OpenStream("http://a", http=service.transport) as client:
        async for message in client.consume("orders", "billing", ack_linger=60):
            await message.ack()
            break
    assert service.acked == [(0, "1-0")]


async def test_what_others_hold_too_long_is_claimed(client: OpenStream, service: FakeService) -> None:
    service.group("orders", "billing")
    service.put("orders", 1)
    await client.read("orders", "billing", "gone")
    async with client.consume("orders", "billing", claim_idle_ms=60) as messages:
        with anyio.fail_after(10):
            message = await anext(messages)
    assert message.payload == 1
    assert service.paths("/claim")


async def test_an_error_of_the_caller_comes_out_of_the_client_as_it_is(service: FakeService) -> None:
    service.group("orders", "billing")
    service.put("orders", 1)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - leaving the client must not change it
        async with OpenStream("http://a", http=service.transport) as client:
            async for _ in client.consume("orders", "billing"):
                raise ZeroDivisionError


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(15):
        while not condition():  # noqa: ASYNC110 (what the service counts rings no bell)
            await anyio.sleep(0.01)


def _faults() -> deque[Fault]:
    return deque([problem(429, "overloaded", retry_after_ms=10), httpx2.ReadError("broke"), problem(503, "busy")] * 2)

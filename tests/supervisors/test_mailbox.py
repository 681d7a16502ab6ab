"""Bounds by count and bytes, backpressure, calls and their answers, batches, and the end of a mailbox."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio
import pytest
from anyio import CancelScope

from supervisors import (
    ActorGone,
    CallTimeout,
    ChildSpec,
    Context,
    Envelope,
    Mailbox,
    MailboxClosed,
    MailboxFull,
    MessageTooLarge,
    Supervisor,
)

pytestmark = pytest.mark.anyio
Spec = Callable[..., ChildSpec]
Running = Callable[[Supervisor], AbstractAsyncContextManager[None]]


def messages(envelopes: list[Envelope[str, int]]) -> list[str]:
    return [envelope.message for envelope in envelopes]


async def serve(box: Mailbox[str, int]) -> None:
    """Answer every message with its length."""
    while True:
        with await box.receive() as envelope:
            envelope.answer(len(envelope.message))


async def test_messages_come_out_in_the_order_they_went_in() -> None:
    box = Mailbox[str, int](10)
    for message in "abc":
        await box.cast(message)
    assert box.offer("d")
    assert [(await box.receive()).message for _ in range(4)] == list("abcd")


async def test_a_full_mailbox_refuses_an_offer_and_keeps_a_cast_waiting() -> None:
    box = Mailbox[str, int](2)
    assert box.offer("a")
    assert box.offer("b")
    assert not box.offer("c")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(box.cast, "d")
        await anyio.wait_all_tasks_blocked()
        assert (box.depth, box.statistics().senders) == (2, 1)
        assert (await box.receive()).message == "a"
        assert not box.offer("overtaking"), "the room is promised to the one who waited"
        await anyio.wait_all_tasks_blocked()
    assert messages(box.drain()) == ["b", "d"]
    assert box.statistics().refused == 2


async def test_the_bound_in_bytes_holds_exactly() -> None:
    box = Mailbox[str, int](100, max_bytes=10, size=len)
    assert box.offer("aaaa")
    assert box.offer("bbbbbb")
    assert not box.offer("c")
    assert box.offer("", size=0)
    assert box.bytes == 10
    await box.receive()
    assert box.bytes == 6
    assert not box.offer("short", size=5), "a size given with the message wins"
    assert box.offer("a long one", size=4)


async def test_a_message_that_can_never_fit_is_refused_clearly() -> None:
    box = Mailbox[str, int](100, max_bytes=10, size=len)
    with pytest.raises(MessageTooLarge, match="a message of 11 bytes for a mailbox of 10"):
        box.offer("a" * 11)
    with pytest.raises(MessageTooLarge):
        await box.cast("a" * 11)
    with pytest.raises(MessageTooLarge):
        await box.call("a" * 11)
    with pytest.raises(ValueError, match="zero bytes or more"):
        box.offer("a", size=-1)


async def test_a_large_message_first_in_line_is_not_overtaken_by_small_ones() -> None:
    box = Mailbox[str, int](100, max_bytes=10, size=len)
    box.offer("a" * 8)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(box.cast, "b" * 9)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(box.cast, "c")
        await anyio.wait_all_tasks_blocked()
        assert not box.offer("d")
        await box.receive()
        await anyio.wait_all_tasks_blocked()
    assert sorted(messages(box.drain())) == ["b" * 9, "c"]


async def test_those_who_wait_are_let_in_together_so_that_batches_stay_large() -> None:
    box = Mailbox[str, int](50)
    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(box.cast, str(number))
        await anyio.wait_all_tasks_blocked()
        assert len(await box.receive_all()) == 50
        await anyio.wait_all_tasks_blocked()
        assert len(await box.receive_all()) == 50


async def test_receive_all_waits_for_one_and_takes_all_that_waits_within_its_bounds() -> None:
    box = Mailbox[str, int](100, size=len)
    batches: list[list[str]] = []

    async def receive() -> None:
        batches.append(messages(await box.receive_all()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        assert box.statistics().receivers == 1
        for message in ("a", "bb", "ccc"):
            box.offer(message)
    assert batches == [["a", "bb", "ccc"]]
    for message in ("dddd", "e", "f", "g"):
        box.offer(message)
    assert messages(await box.receive_all(max_count=3, max_bytes=2)) == ["dddd"], "the first comes whatever its size"
    assert messages(await box.receive_all(max_count=2)) == ["e", "f"]
    assert messages(box.drain(max_bytes=1)) == ["g"]
    assert box.drain() == []


async def test_a_call_returns_the_answer_or_raises_what_it_was_failed_with() -> None:
    box = Mailbox[str, int](10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, box)
        assert await box.call("four") == 4
        assert await box.call("four", timeout=None, wait=False) == 4
        tasks.cancel_scope.cancel()
    for error in (LookupError("no"), TimeoutError("the actor's own")):
        async with anyio.create_task_group() as tasks:

            async def fail(error: Exception = error) -> None:
                assert (await box.receive()).fail(error)

            tasks.start_soon(fail)
            with pytest.raises(type(error)) as caught:
                await box.call("x")
            assert caught.value is error


async def test_a_call_that_nobody_answers_times_out_and_its_envelope_is_abandoned() -> None:
    box = Mailbox[str, int](10)
    begun = anyio.current_time()
    with pytest.raises(CallTimeout) as caught:
        await box.call("x", timeout=3.0)
    assert anyio.current_time() - begun == pytest.approx(3)
    assert caught.value.delivered
    assert isinstance(caught.value, TimeoutError)
    envelope = await box.receive()
    assert envelope.abandoned
    assert not envelope.wants_answer
    assert not envelope.answer(1), "a no-op, never an error"
    assert not envelope.fail(ValueError())


async def test_a_call_that_finds_no_room_in_time_was_not_delivered() -> None:
    box = Mailbox[str, int](1)
    box.offer("a")
    with pytest.raises(CallTimeout) as caught:
        await box.call("b", timeout=3.0)
    assert not caught.value.delivered
    with pytest.raises(MailboxFull):
        await box.call("c", wait=False)
    assert messages(box.drain()) == ["a"]
    assert box.statistics().refused == 1


async def test_only_the_first_answer_counts_and_a_cast_has_nobody_to_answer() -> None:
    box = Mailbox[str, int](10)
    async with anyio.create_task_group() as tasks:
        answers: list[int] = []

        async def call() -> None:
            answers.append(await box.call("x"))

        tasks.start_soon(call)
        envelope = await box.receive()
        assert envelope.wants_answer
        assert envelope.answer(1)
        assert not envelope.answer(2)
        assert envelope.done
    assert answers == [1]
    assert not envelope.abandoned
    box.offer("cast")
    with await box.receive() as cast:
        assert not cast.wants_answer
        assert not cast.answer(1)


async def test_a_block_that_ends_without_an_answer_fails_the_call() -> None:
    box = Mailbox[str, int](10)

    async def forget(error: Exception | None) -> None:
        with pytest.raises(ValueError, match="over it") if error else CancelScope(), await box.receive():
            if error:
                raise error

    for error, text in ((None, "gone without an answer"), (ValueError("over it"), r"\(ValueError: over it\)")):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(forget, error)
            with pytest.raises(ActorGone, match=text):
                await box.call("x")


async def test_an_actor_that_dies_fails_the_calls_it_has_taken_and_the_rest_waits_for_its_next_life(
    spec: Spec, running: Running
) -> None:
    box = Mailbox[str, int](10)
    outcomes: dict[str, object] = {}

    async def fragile(ctx: Context) -> None:
        ctx.ready()
        if ctx.incarnation == 1:
            assert len(await box.receive_all(max_count=2)) == 2
            raise ValueError("over two of them")
        await serve(box)

    async def call(message: str) -> None:
        try:
            outcomes[message] = await box.call(message, timeout=100.0)
        except ActorGone as error:
            outcomes[message] = error

    async with anyio.create_task_group() as tasks:
        for message in ("a", "b", "ccc"):
            tasks.start_soon(call, message)
            await anyio.wait_all_tasks_blocked()
        begun = anyio.current_time()
        async with running(Supervisor([spec("actor", fragile)], backoff=lambda attempt: 10.0)):
            await anyio.sleep(1)
            assert {message: type(outcome) for message, outcome in outcomes.items()} == {
                "a": ActorGone,
                "b": ActorGone,
            }
            await anyio.sleep(15)
            assert outcomes["ccc"] == 3
        assert anyio.current_time() - begun == pytest.approx(17, abs=1.1)


async def test_an_actor_that_is_stopped_over_a_call_fails_it(spec: Spec, running: Running) -> None:
    box = Mailbox[str, int](10)

    async def ponders(ctx: Context) -> None:
        ctx.ready()
        envelope = await box.receive()
        assert envelope.wants_answer
        await anyio.sleep_forever()

    async def call() -> None:
        with pytest.raises(ActorGone):
            await box.call("x", timeout=None)

    async with anyio.create_task_group() as tasks, running(Supervisor([spec("actor", ponders, grace=2.0)])):
        tasks.start_soon(call)
        await anyio.sleep(1)


async def test_closing_drops_what_waits_and_fails_everybody_who_waits() -> None:
    box = Mailbox[str, int](2)
    failed: list[str] = []

    async def expect_closed(name: str, wait: Callable[[], object]) -> None:
        with pytest.raises(MailboxClosed):
            await wait()  # type: ignore[misc]
        failed.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(expect_closed, "call", lambda: box.call("a", timeout=None))
        await anyio.wait_all_tasks_blocked()
        box.offer("b")
        tasks.start_soon(expect_closed, "cast", lambda: box.cast("c"))
        await anyio.wait_all_tasks_blocked()
        assert box.close() == 2
    assert sorted(failed) == ["call", "cast"]
    assert box.closed
    for wait in (lambda: box.cast("d"), lambda: box.call("e"), box.receive, box.receive_all):
        await expect_closed("late", wait)
    with pytest.raises(MailboxClosed):
        box.offer("f")
    assert box.close() == 0
    assert (box.depth, box.bytes) == (0, 0)


async def test_closing_wakes_an_idle_receiver() -> None:
    box = Mailbox[str, int]()

    async def receive() -> None:
        with pytest.raises(MailboxClosed):
            await box.receive()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        box.close()


async def test_a_mailbox_that_drains_takes_nothing_in_and_gives_everything_out() -> None:
    box = Mailbox[str, int](10)
    box.offer("a")
    box.offer("b")
    assert box.close(drain=True) == 0
    with pytest.raises(MailboxClosed):
        box.offer("c")
    assert messages(await box.receive_all()) == ["a", "b"]
    with pytest.raises(MailboxClosed):
        await box.receive()


async def test_closing_between_the_promise_of_room_and_its_use_keeps_the_message_out() -> None:
    box = Mailbox[str, int](1)
    box.offer("a")

    async def cast() -> None:
        with pytest.raises(MailboxClosed):
            await box.cast("b")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cast)
        await anyio.wait_all_tasks_blocked()
        box.drain()
        box.close()
    assert (box.depth, box.statistics().accepted) == (0, 1)


async def test_a_cancelled_cast_has_not_sent_and_gives_its_place_back() -> None:
    box = Mailbox[str, int](100, max_bytes=10, size=len)
    box.offer("a" * 8)
    async with anyio.create_task_group() as tasks:
        with CancelScope() as scope:
            async with anyio.create_task_group() as first:
                first.start_soon(box.cast, "b" * 9)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(box.cast, "c")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
    assert messages(box.drain()) == ["a" * 8, "c"]


async def test_statistics_and_their_plain_form() -> None:
    box = Mailbox[str, int](3, size=len)
    box.offer("four")
    assert box.describe() == {
        "depth": 1,
        "bytes": 4,
        "max_count": 3,
        "max_bytes": None,
        "senders": 0,
        "receivers": 0,
        "accepted": 1,
        "refused": 0,
    }


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 0), (float("nan"), 1)])
def test_a_mailbox_without_room_is_refused(count: float, size: float) -> None:
    with pytest.raises(ValueError, match="room for at least one"):
        Mailbox[str, int](count, max_bytes=size)

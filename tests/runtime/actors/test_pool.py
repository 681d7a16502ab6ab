"""The pool: actors on first use, mailboxes that outlive them, and no key without somebody behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import anyio
import pytest

from openstream_runtime.actors.pool import ABSENCES, Pool
from supervisors import Context, Mailbox, MailboxClosed, StartFailed, SupervisorError, TreeEvent
from support.actors import eventually, settle, supervised

pytestmark = pytest.mark.anyio
Box = Mailbox[str, str]


class Echo:
    """Answers with its key; crashes and refuses to be built on demand; takes its time to stop."""

    broken: ClassVar[set[str]] = set()
    slow_stop = 0.0

    def __init__(self, key: str, box: Box) -> None:
        if key in self.broken:
            raise ValueError(key)
        self.key, self.box = key, box

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        while not ctx.stopping.is_set():
            with ctx.interruptible():
                envelope = await self.box.receive()
                if envelope.message == "crash":
                    raise RuntimeError("asked to")
                envelope.answer(f"{self.key}: {envelope.message}")
        await anyio.sleep(self.slow_stop)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Echo.broken, Echo.slow_stop = set(), 0.0


@asynccontextmanager
async def pool(events: list[TreeEvent] | None = None) -> AsyncIterator[Pool[str, str]]:
    pool = Pool[str, str]("echo", Echo, lambda: Mailbox(100), grace=10.0)
    async with supervised(pool.spec(), events=events):
        yield pool


async def test_an_actor_is_started_on_first_use_and_found_afterwards() -> None:
    async with pool() as echoes:
        assert echoes.peek("a") is None
        box = await echoes.mailbox("a")
        assert await box.call("hi") == "a: hi"
        assert await echoes.mailbox("a") is box is echoes.peek("a")
        assert [key for key, _ in echoes.mailboxes()] == ["a"]


async def test_many_at_once_share_one_actor() -> None:
    async with pool() as echoes:
        boxes: list[Box] = []

        async def ask() -> None:
            boxes.append(await echoes.mailbox("a"))
            assert await boxes[-1].call("hi") == "a: hi"

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)
        assert len({id(box) for box in boxes}) == 1


async def test_a_message_survives_the_crash_of_the_actor_and_of_the_whole_pool() -> None:
    async with pool() as echoes:
        box = await echoes.mailbox("a")
        for _ in range(8):  # more often than the pool's own budget allows
            box.offer("crash")
        async with anyio.create_task_group() as tasks:
            answers: list[str] = []

            async def ask() -> None:
                answers.append(await box.call("still there?", timeout=60))

            tasks.start_soon(ask)
        assert answers == ["a: still there?"]
        assert await echoes.mailbox("a") is box


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("ticks", range(8))
async def test_a_first_request_cancelled_natively_at_any_moment_leaves_an_actor_that_answers(
    anyio_backend: str, ticks: int
) -> None:
    async with pool() as echoes:
        first = asyncio.ensure_future(echoes.mailbox("a"))
        for _ in range(ticks):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        box = await echoes.mailbox("a")
        assert await box.call("hi", timeout=5) == "a: hi"


async def test_an_actor_that_cannot_be_built_is_an_error_and_the_next_request_tries_again() -> None:
    async with pool() as echoes:
        Echo.broken = {"a"}
        with pytest.raises(StartFailed):
            await echoes.mailbox("a")
        assert echoes.peek("a") is None
        Echo.broken = set()
        assert await (await echoes.mailbox("a")).call("hi") == "a: hi"


async def test_who_waits_on_an_actor_that_cannot_be_built_is_told() -> None:
    async with pool() as echoes:
        Echo.broken = {"a"}
        heard: list[type[SupervisorError]] = []

        async def ask() -> None:
            try:
                await (await echoes.mailbox("a")).call("hi", timeout=60)
            except SupervisorError as error:
                heard.append(type(error))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
        assert set(heard) <= {StartFailed, MailboxClosed}
        assert len(heard) == 5


async def test_an_actor_goes_when_its_key_was_absent_for_a_few_looks_and_not_before() -> None:
    async with pool() as echoes:
        box, _ = await echoes.mailbox("a"), await echoes.mailbox("b")
        for _ in range(ABSENCES - 1):
            await echoes.keep_only(["b"])
        await echoes.keep_only(["a", "b"])
        for _ in range(ABSENCES - 1):
            await echoes.keep_only(["b"])
        assert await box.call("hi") == "a: hi"
        await echoes.keep_only(["b"])
        assert box.closed
        assert echoes.peek("a") is None
        assert echoes.peek("b") is not None


async def test_ending_an_actor_is_no_crash() -> None:
    events: list[TreeEvent] = []
    async with pool(events) as echoes:
        await echoes.mailbox("a")
        for _ in range(ABSENCES):
            await echoes.keep_only([])
    lives = [type(event).__name__ for event in events if event.path == "node/echo/a"]
    assert lives == [
        "Started",
        "Stopped",
        "Removed",
    ]


async def test_a_request_for_a_key_that_is_being_ended_gets_a_new_actor() -> None:
    Echo.slow_stop = 3.0
    async with pool() as echoes, anyio.create_task_group() as tasks:
        old = await echoes.mailbox("a")
        for _ in range(ABSENCES - 1):
            await echoes.keep_only([])
        tasks.start_soon(echoes.keep_only, [])
        await settle()
        assert echoes.peek("a") is None
        new = await echoes.mailbox("a")
        assert new is not old
        assert await new.call("hi", timeout=5) == "a: hi"
        Echo.slow_stop = 0.0


async def test_what_waits_for_an_actor_that_is_ended_is_refused() -> None:
    async with pool() as echoes, anyio.create_task_group() as tasks:
        Echo.slow_stop = 1.0
        box = await echoes.mailbox("a")
        for _ in range(ABSENCES - 1):
            await echoes.keep_only([])
        tasks.start_soon(echoes.keep_only, [])
        await settle()
        with pytest.raises(MailboxClosed):
            await box.call("too late", timeout=30)
        Echo.slow_stop = 0.0


async def test_without_a_running_supervisor_a_message_waits_for_it() -> None:
    echoes = Pool[str, str]("echo", Echo, lambda: Mailbox(100), grace=1.0)
    box = await echoes.mailbox("a")
    box.offer("early")
    async with supervised(echoes.spec()):
        assert await box.call("hi") == "a: hi"
    await echoes.keep_only(["a"])
    for _ in range(ABSENCES):
        await echoes.keep_only([])
    await eventually(lambda: box.closed)

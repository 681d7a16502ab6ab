"""Cancellations nobody asked for, and errors that no supervisor may keep to itself."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio
import pytest

from supervisors import (
    Backoff,
    ChildSpec,
    Context,
    Exited,
    RestartLimitExceeded,
    StrayCancellation,
    Supervisor,
    TreeEvent,
    run,
)

pytestmark = pytest.mark.anyio
Spec = Callable[..., ChildSpec]
Running = Callable[[Supervisor], AbstractAsyncContextManager[None]]

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


@on_asyncio
@pytest.mark.parametrize("stray", ["raised", "native", "in a group"])
async def test_a_stray_cancellation_is_a_crash_of_that_child_alone(
    stray: str, log: list[str], events: list[TreeEvent], spec: Spec, running: Running
) -> None:
    async def strays(ctx: Context) -> None:
        ctx.ready()
        if ctx.incarnation > 1:
            await ctx.stopping.wait()
        elif stray == "raised":
            raise asyncio.CancelledError
        elif stray == "in a group":
            raise BaseExceptionGroup("mixed", [asyncio.CancelledError(), ValueError("and more")])
        else:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await anyio.sleep_forever()

    async with running(Supervisor([spec("a"), spec("b", strays)], backoff=Backoff(base=0))):
        await anyio.sleep(1)
        assert log == ["+a", "+b", "-b", "+b"]
    error = next(event.error for event in events if isinstance(event, Exited))
    if stray == "in a group":
        assert isinstance(error, BaseExceptionGroup)
    else:
        assert isinstance(error, StrayCancellation)
        assert isinstance(error.__cause__, asyncio.CancelledError)


@on_asyncio
async def test_a_stray_cancellation_of_a_child_that_was_asked_to_stop_is_just_its_end(
    log: list[str], events: list[TreeEvent], spec: Spec, running: Running
) -> None:
    async def strays(ctx: Context) -> None:
        ctx.ready()
        await ctx.stopping.wait()
        raise asyncio.CancelledError

    async with running(Supervisor([spec("a"), spec("b", strays)])):
        log.clear()
    assert log == ["-b", "-a"]
    assert [event for event in events if isinstance(event, Exited)] == []


@on_asyncio
async def test_a_stray_cancellation_before_readiness_is_a_failed_start(spec: Spec) -> None:
    async def strays(ctx: Context) -> None:
        raise asyncio.CancelledError

    with pytest.raises(Exception, match="root/a did not start: StrayCancellation"):
        await run(Supervisor([spec("a", strays)]))


@on_asyncio
async def test_a_native_cancellation_of_the_root_is_an_ordered_stop(log: list[str], spec: Spec) -> None:
    async def leisurely(ctx: Context) -> None:
        ctx.ready()
        await ctx.stopping.wait()
        await anyio.sleep(2)

    tree = Supervisor([spec("a", leisurely, grace=5.0), spec("b", leisurely, grace=5.0)])
    task = asyncio.get_running_loop().create_task(run(tree))
    await anyio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["+a", "+b", "-b", "-a"]


@on_asyncio
async def test_a_second_native_cancellation_cuts_the_graces_short_and_never_hangs(log: list[str], spec: Spec) -> None:
    async def stubborn(ctx: Context) -> None:
        ctx.ready()
        await anyio.sleep_forever()

    tree = Supervisor([spec("a", stubborn, grace=1000.0), spec("b", stubborn, grace=1000.0)])
    task = asyncio.get_running_loop().create_task(run(tree))
    await anyio.sleep(1)
    task.cancel()
    await anyio.sleep(1)
    begun = anyio.current_time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert anyio.current_time() - begun < 1
    assert sorted(log[2:]) == ["-a", "-b"]


async def test_a_keyboard_interrupt_in_a_group_passes_out_after_an_ordered_stop(log: list[str], spec: Spec) -> None:
    async def interrupted(ctx: Context) -> None:
        ctx.ready()
        await anyio.sleep(1)
        raise BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError("no")])

    inner = Supervisor([spec("x", interrupted), spec("y")])
    tree = Supervisor([spec("a"), ChildSpec(id="inner", actor=lambda: inner), spec("b")])
    with pytest.raises(BaseExceptionGroup) as caught:
        await run(tree)
    assert caught.value.subgroup(KeyboardInterrupt) is not None
    assert log == ["+a", "+x", "+y", "+b", "-x", "-y", "-b", "-a"]
    with pytest.raises(Exception, match="not running"):
        await tree.add(spec("late"))


async def test_an_exception_group_is_a_crash_and_stays_whole(spec: Spec) -> None:
    async def two_errors(ctx: Context) -> None:
        ctx.ready()
        async with anyio.create_task_group():
            raise ExceptionGroup("both", [ValueError("one"), KeyError("two")])

    with pytest.raises(RestartLimitExceeded, match=r"ValueError: one; KeyError: 'two'") as caught:
        await run(Supervisor([spec("a", two_errors)], max_restarts=0))
    assert isinstance(caught.value.__cause__, ExceptionGroup)


async def test_a_backoff_that_raises_is_a_bug_and_comes_out_after_an_ordered_stop(log: list[str], spec: Spec) -> None:
    async def crashes(ctx: Context) -> None:
        ctx.ready()
        raise ValueError

    with pytest.raises(ExceptionGroup) as caught:
        await run(Supervisor([spec("a"), spec("b", crashes)], backoff=lambda attempt: 1 // 0))
    assert caught.value.subgroup(ZeroDivisionError) is not None
    assert log == ["+a", "+b", "-b", "-a"]

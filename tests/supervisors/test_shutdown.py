"""Ordered stop: ask, wait for the grace, cancel, wait. Asked or cancelled, the order is the same."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio
import pytest
from anyio import CancelScope

from supervisors import ChildSpec, Context, Exited, Stopped, Supervisor, TreeEvent

pytestmark = pytest.mark.anyio
Spec = Callable[..., ChildSpec]
Running = Callable[[Supervisor], AbstractAsyncContextManager[None]]


async def stubborn(ctx: Context) -> None:
    """Never listens; only a cancellation ends it."""
    ctx.ready()
    await anyio.sleep_forever()


async def leisurely(ctx: Context) -> None:
    """Asked to stop, it takes two seconds."""
    ctx.ready()
    await ctx.stopping.wait()
    await anyio.sleep(2)


async def test_children_stop_in_reverse_order_one_by_one(log: list[str], spec: Spec, running: Running) -> None:
    async with running(Supervisor([spec(name, leisurely, grace=5.0) for name in "abc"])):
        log.clear()
        begun = anyio.current_time()
    assert log == ["-c", "-b", "-a"]
    assert anyio.current_time() - begun == pytest.approx(6)


async def test_cancelling_the_supervisor_is_the_same_ordered_stop(log: list[str], spec: Spec, running: Running) -> None:
    with CancelScope() as scope:
        async with running(Supervisor([spec(name, leisurely, grace=5.0) for name in "abc"])):
            log.clear()
            begun = anyio.current_time()
            scope.cancel()
            await anyio.sleep_forever()
    assert log == ["-c", "-b", "-a"]
    assert anyio.current_time() - begun == pytest.approx(6)


async def test_a_stubborn_child_is_cancelled_when_its_grace_is_over(spec: Spec, running: Running) -> None:
    async with running(Supervisor([spec("a", stubborn, grace=7.0)])):
        begun = anyio.current_time()
    assert anyio.current_time() - begun == pytest.approx(7)


async def test_without_grace_a_child_is_cancelled_at_once(spec: Spec, running: Running) -> None:
    async with running(Supervisor([spec("a", stubborn, grace=0.0)])):
        begun = anyio.current_time()
    assert anyio.current_time() == begun


async def test_a_child_that_cleans_up_after_its_cancellation_is_waited_for(
    log: list[str], spec: Spec, running: Running
) -> None:
    async def tidy(ctx: Context) -> None:
        ctx.ready()
        try:
            await anyio.sleep_forever()
        finally:
            with CancelScope(shield=True):
                await anyio.sleep(3)
                log.append("tidied up")

    async with running(Supervisor([spec("first"), spec("a", tidy, grace=0.0)])):
        log.clear()
    assert log == ["tidied up", "-a", "-first"]


async def test_an_interruptible_wait_ends_at_once_and_the_rest_has_the_whole_grace(
    log: list[str], spec: Spec, running: Running
) -> None:
    async def worker(ctx: Context) -> None:
        ctx.ready()
        while not ctx.stopping.is_set():
            with ctx.interruptible():
                await anyio.sleep_forever()
        await anyio.sleep(2)
        with ctx.interruptible() as late:
            await anyio.sleep_forever()
        assert late.cancelled_caught
        log.append("committed")

    async with running(Supervisor([spec("a", worker, grace=10.0)])):
        begun = anyio.current_time()
    assert log == ["+a", "committed", "-a"]
    assert anyio.current_time() - begun == pytest.approx(2)


async def test_the_graces_of_equals_do_not_add_up(log: list[str], spec: Spec, running: Running) -> None:
    async def very_stubborn(ctx: Context) -> None:
        ctx.ready()
        try:
            await anyio.sleep_forever()
        finally:
            with CancelScope(shield=True):
                await anyio.sleep(3)

    equals = [spec(f"p{number}", very_stubborn, grace=10.0) for number in range(20)]
    async with running(Supervisor(equals, stop_together=True)):
        begun = anyio.current_time()
    assert anyio.current_time() - begun == pytest.approx(13)
    assert len(log) == 40


async def test_a_nested_supervisor_is_waited_for_as_long_as_its_children_take(
    log: list[str], spec: Spec, running: Running
) -> None:
    inner = Supervisor([spec("x", leisurely, grace=5.0), spec("y", leisurely, grace=5.0)])
    tree = Supervisor([spec("before"), ChildSpec(id="inner", actor=lambda: inner), spec("after")])
    async with running(tree):
        log.clear()
        begun = anyio.current_time()
    assert log == ["-after", "-y", "-x", "-before"]
    assert anyio.current_time() - begun == pytest.approx(4)


async def test_a_child_that_crashes_or_returns_in_the_middle_of_an_ordered_stop_changes_nothing(
    log: list[str], events: list[TreeEvent], spec: Spec, running: Running
) -> None:
    async def crashes_later(ctx: Context) -> None:
        ctx.ready()
        await anyio.sleep(11)
        raise RuntimeError("in the middle")

    async def returns_later(ctx: Context) -> None:
        ctx.ready()
        await anyio.sleep(12)

    async def crashes_when_asked(ctx: Context) -> None:
        ctx.ready()
        await ctx.stopping.wait()
        raise RuntimeError("on the way out")

    children = [spec("a", crashes_when_asked), spec("b", crashes_later), spec("c", returns_later)]
    async with running(Supervisor([*children, spec("d", stubborn, grace=10.0)])):
        await anyio.sleep(5)
        log.clear()
    assert log == ["-b", "-c", "-d", "-a"]
    ends = {event.path: event for event in events if isinstance(event, Exited | Stopped)}
    assert isinstance(ends["root/b"], Exited)
    assert isinstance(ends["root/c"], Exited)
    last = ends["root/a"]
    assert isinstance(last, Stopped)
    assert str(last.error) == "on the way out"


async def test_a_stop_during_a_backoff_does_not_wait_for_it(
    log: list[str], spec: Spec, running: Running, crash: Callable[[str], None]
) -> None:
    async with running(Supervisor([spec("a"), spec("b")], backoff=lambda attempt: 3600.0)):
        crash("a")
        await anyio.sleep(1)
        begun = anyio.current_time()
    assert anyio.current_time() == begun
    assert log == ["+a", "+b", "-a", "-b"]

"""Ordered start, readiness, start timeouts, and what a failed start leaves behind."""

from collections.abc import Callable
from functools import partial

import anyio
import pytest
from anyio import CancelScope, Event

from supervisors import (
    Actor,
    Backoff,
    ChildSpec,
    Context,
    RestartLimitExceeded,
    ReturnedBeforeReady,
    StartFailed,
    StartTimedOut,
    State,
    Supervisor,
    run,
)

pytestmark = pytest.mark.anyio
Spec = Callable[..., ChildSpec]


async def test_each_child_starts_when_the_one_before_it_is_ready(log: list[str], spec: Spec) -> None:
    ready = {name: Event() for name in "ab"}

    async def waits(ctx: Context) -> None:
        await ready[ctx.name].wait()
        ctx.ready()
        await anyio.sleep_forever()

    tree = Supervisor([spec("a", waits), spec("b", waits), spec("c")])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, tree)
        for name, begun in (("a", ["+a"]), ("b", ["+a", "+b"])):
            await anyio.wait_all_tasks_blocked()
            assert log == begun
            ready[name].set()
        await anyio.wait_all_tasks_blocked()
        assert log == ["+a", "+b", "+c"]
        tasks.cancel_scope.cancel()


async def test_a_supervisor_is_ready_once_all_its_children_are(log: list[str], spec: Spec) -> None:
    async def slow(ctx: Context) -> None:
        await anyio.sleep(3)
        ctx.ready()
        await anyio.sleep_forever()

    inner = Supervisor([spec("x", slow), spec("y", slow)])
    tree = Supervisor([ChildSpec(id="inner", actor=lambda: inner), spec("after")])
    async with anyio.create_task_group() as tasks:
        begun = anyio.current_time()
        await tasks.start(partial(run, tree))
        assert anyio.current_time() - begun == pytest.approx(6)
        assert log == ["+x", "+y", "+after"]
        tasks.cancel_scope.cancel()


async def test_a_failed_start_stops_those_already_started_in_reverse(log: list[str], spec: Spec) -> None:
    async def fails(ctx: Context) -> None:
        raise OSError("no port")

    tree = Supervisor([spec("a"), spec("b"), spec("c", fails), spec("d")])
    with pytest.raises(StartFailed, match=r"root/c did not start: OSError: no port") as caught:
        await run(tree)
    assert isinstance(caught.value.__cause__, OSError)
    assert log == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert tree.snapshot().state is State.FAILED
    assert [child.state for child in tree.child_snapshots()] == ["stopped", "stopped", "failed", "stopped"]


async def test_a_child_that_is_not_ready_in_time_has_failed_to_start(log: list[str], spec: Spec) -> None:
    async def hangs(ctx: Context) -> None:
        await anyio.sleep_forever()

    begun = anyio.current_time()
    with pytest.raises(StartFailed, match="start timeout") as caught:
        await run(Supervisor([spec("a"), spec("b", hangs, start_timeout=4.0)]))
    assert isinstance(caught.value.__cause__, StartTimedOut)
    assert anyio.current_time() - begun == pytest.approx(4)
    assert log == ["+a", "+b", "-b", "-a"]


async def test_the_start_timeout_ends_with_readiness(log: list[str], spec: Spec) -> None:
    async def works(ctx: Context) -> None:
        await anyio.sleep(1)
        ctx.ready()
        ctx.ready()
        await anyio.sleep(100)
        log.append("still here")
        await anyio.sleep_forever()

    with anyio.move_on_after(200):
        await run(Supervisor([spec("a", works, start_timeout=2.0)]))
    assert log == ["+a", "still here", "-a"]


async def test_a_child_that_returns_before_it_is_ready_has_failed_to_start(spec: Spec) -> None:
    async def returns(ctx: Context) -> None:
        await anyio.lowlevel.checkpoint()

    with pytest.raises(StartFailed) as caught:
        await run(Supervisor([spec("a", returns)]))
    assert isinstance(caught.value.__cause__, ReturnedBeforeReady)


async def test_a_factory_that_raises_has_failed_to_start(log: list[str], spec: Spec) -> None:
    def broken() -> Actor:
        raise LookupError("no such actor")

    with pytest.raises(StartFailed, match="no such actor"):
        await run(Supervisor([spec("a"), ChildSpec(id="b", actor=broken)]))
    assert log == ["+a", "-a"]


async def test_a_restart_that_does_not_start_spends_the_budget_like_any_crash(log: list[str], spec: Spec) -> None:
    lives = 0

    async def once(ctx: Context) -> None:
        nonlocal lives
        lives += 1
        if lives == 1:
            ctx.ready()
        raise OSError(f"life {lives}")

    with pytest.raises(RestartLimitExceeded, match="OSError: life 3") as caught:
        await run(Supervisor([spec("a", once)], max_restarts=2, backoff=Backoff(base=0)))
    assert str(caught.value.__cause__) == "life 3"
    assert lives == 3


@pytest.mark.parametrize("started", [0, 1, 2])
async def test_cancelled_while_it_starts_it_stops_what_it_has_started(log: list[str], spec: Spec, started: int) -> None:
    async def hangs(ctx: Context) -> None:
        await anyio.sleep_forever()

    names = "abc"[:started]
    with CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, Supervisor([*map(spec, names), spec("z", hangs, grace=99.0)]))
            await anyio.wait_all_tasks_blocked()
            begun = anyio.current_time()
            scope.cancel()
    assert log == [*(f"+{name}" for name in names), "+z", "-z", *(f"-{name}" for name in reversed(names))]
    assert anyio.current_time() == begun, "a child that is not ready has no grace"


async def test_asked_to_stop_while_it_starts_it_stops_what_it_has_started(log: list[str], spec: Spec) -> None:
    async def hangs(ctx: Context) -> None:
        await anyio.sleep_forever()

    stop = Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(run, Supervisor([spec("a"), spec("b", hangs)]), stop=stop))
        await anyio.wait_all_tasks_blocked()
        stop.set()
    assert log == ["+a", "+b", "-b", "-a"]


async def test_ready_said_after_the_start_timeout_does_not_count(log: list[str], spec: Spec) -> None:
    async def late(ctx: Context) -> None:
        with CancelScope(shield=True):
            await anyio.sleep(5)
        ctx.ready()
        await anyio.sleep_forever()

    with pytest.raises(StartFailed, match="within its start timeout"):
        await run(Supervisor([spec("a", late, start_timeout=2.0)]))

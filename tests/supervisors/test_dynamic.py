"""Children added and removed while the supervisor runs, from any task of the same event loop."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import anyio
import pytest
from anyio import Event

from supervisors import (
    Backoff,
    ChildSpec,
    Context,
    DuplicateChild,
    NotRunning,
    Removed,
    Restart,
    StartFailed,
    State,
    Strategy,
    Supervisor,
    TreeEvent,
    UnknownChild,
    run,
)

pytestmark = pytest.mark.anyio
Spec = Callable[..., ChildSpec]
Running = Callable[[Supervisor], AbstractAsyncContextManager[None]]
Crash = Callable[[str], None]


async def slow(ctx: Context) -> None:
    """Five seconds to get ready."""
    await anyio.sleep(5)
    ctx.ready()
    await ctx.stopping.wait()


async def stubborn(ctx: Context) -> None:
    ctx.ready()
    await anyio.sleep_forever()


async def fails(ctx: Context) -> None:
    raise OSError("no")


async def test_a_supervisor_may_begin_empty_and_add_waits_until_the_child_is_ready(
    log: list[str], spec: Spec, running: Running
) -> None:
    pool = Supervisor()
    async with running(pool):
        begun = anyio.current_time()
        await pool.add(spec("a", slow))
        assert anyio.current_time() - begun == pytest.approx(5)
        await pool.add(spec("b"))
        assert list(pool.children) == ["a", "b"]
    assert log == ["+a", "+b", "-b", "-a"]


async def test_a_child_that_does_not_start_is_not_added_and_costs_no_budget(
    log: list[str], events: list[TreeEvent], spec: Spec, running: Running
) -> None:
    pool = Supervisor(max_restarts=0)
    async with running(pool):
        for restart in Restart:
            with pytest.raises(StartFailed, match="root/a did not start: OSError: no"):
                await pool.add(spec("a", fails, restart=restart))
        assert not pool.children
        await pool.add(spec("a"))
        assert list(pool.children) == ["a"]
    assert sum(isinstance(event, Removed) for event in events) == 3


async def test_an_id_that_is_taken_is_refused_until_its_child_is_removed(spec: Spec, running: Running) -> None:
    async def finishes(ctx: Context) -> None:
        ctx.ready()

    pool = Supervisor([spec("static")])
    async with running(pool):
        await pool.add(spec("job", finishes, restart=Restart.TRANSIENT))
        await anyio.wait_all_tasks_blocked()
        for child_id in ("static", "job"):
            with pytest.raises(DuplicateChild, match=f"root has a child '{child_id}' already"):
                await pool.add(spec(child_id))
            await pool.remove(child_id)
            await pool.add(spec(child_id))


async def test_remove_waits_until_the_child_is_gone_and_knows_no_strangers(
    log: list[str], events: list[TreeEvent], spec: Spec, running: Running
) -> None:
    async with running(pool := Supervisor([spec("a"), spec("b", stubborn, grace=10.0)])):
        begun = anyio.current_time()
        await pool.remove("b")
        assert anyio.current_time() - begun == pytest.approx(10)
        assert log == ["+a", "+b", "-b"]
        assert list(pool.children) == ["a"]
        assert events[-1] == Removed(path="root/b", incarnation=1)
        with pytest.raises(UnknownChild, match="root has no child 'b'"):
            await pool.remove("b")


async def test_two_may_remove_the_same_child_and_both_learn_of_its_end(spec: Spec, running: Running) -> None:
    async with running(pool := Supervisor([spec("a", stubborn, grace=10.0)])):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.remove, "a")
            tasks.start_soon(pool.remove, "a")
        assert not pool.children


async def test_a_removal_with_a_long_grace_holds_up_nobody(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    pool = Supervisor([spec("a"), spec("b", stubborn, grace=10.0)], backoff=Backoff(base=1.0, jitter=0))
    async with running(pool), anyio.create_task_group() as tasks:
        log.clear()
        tasks.start_soon(pool.remove, "b")
        await anyio.sleep(1)
        crash("a")
        await pool.add(spec("c"))
        await pool.remove("c")
        await anyio.sleep(2)
        assert log == ["-a", "+c", "-c", "+a"] or log == ["+c", "-a", "-c", "+a"]
        assert [child.state for child in pool.child_snapshots()] == [State.RUNNING, State.STOPPING]


async def test_a_slow_start_holds_up_nobody(log: list[str], spec: Spec, running: Running, crash: Crash) -> None:
    pool = Supervisor([spec("a")], backoff=Backoff(base=1.0, jitter=0))
    async with running(pool), anyio.create_task_group() as tasks:
        tasks.start_soon(pool.add, spec("slow", slow))
        await anyio.sleep(1)
        crash("a")
        await pool.add(spec("b"))
        await anyio.sleep(2)
        assert log == ["+a", "+slow", "-a", "+b", "+a"] or log == ["+a", "+slow", "+b", "-a", "+a"]


async def test_a_crash_while_it_is_being_removed_counts_as_removed(
    log: list[str], spec: Spec, running: Running
) -> None:
    async def crashes_when_asked(ctx: Context) -> None:
        ctx.ready()
        await ctx.stopping.wait()
        raise RuntimeError("on the way out")

    async with running(pool := Supervisor([spec("a", crashes_when_asked)], max_restarts=0)):
        await pool.remove("a")
        await anyio.sleep(100)
        assert log == ["+a", "-a"]


async def test_a_child_in_backoff_is_removed_at_once_and_never_comes_back(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    async with running(pool := Supervisor([spec("a"), spec("b")], backoff=lambda attempt: 60.0)):
        crash("a")
        await anyio.sleep(1)
        assert pool.child_snapshots()[0].state is State.BACKING_OFF
        begun = anyio.current_time()
        await pool.remove("a")
        assert anyio.current_time() == begun
        await anyio.sleep(1000)
        assert log == ["+a", "+b", "-a"]


async def test_removing_a_child_that_is_starting_fails_its_add(log: list[str], spec: Spec, running: Running) -> None:
    async def add() -> None:
        with pytest.raises(StartFailed, match="root/a was removed before it was ready"):
            await pool.add(spec("a", slow, grace=100.0))

    async with running(pool := Supervisor()), anyio.create_task_group() as tasks:
        tasks.start_soon(add)
        await anyio.sleep(1)
        begun = anyio.current_time()
        await pool.remove("a")
        assert anyio.current_time() == begun
    assert log == ["+a", "-a"]


async def test_a_member_of_a_wide_restart_may_be_removed_at_any_point_of_it(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    for moment in (1, 12, 16, 21, 27):  # stopping, backing off, starting the one, starting the next, all over
        children = [spec("a"), spec("b", slow, grace=10.0), spec("c", slow), spec("d", stubborn, grace=10.0)]
        pool = Supervisor(children, strategy=Strategy.REST_FOR_ONE, backoff=lambda attempt: 15.0)
        async with running(pool):
            log.clear()
            crash("a")
            await anyio.sleep(moment)
            await pool.remove("b")
            await anyio.sleep(60)
            assert list(pool.children) == ["a", "c", "d"], moment
            assert {child.state for child in pool.child_snapshots()} == {State.RUNNING}, moment
            assert log.count("+a") == log.count("+c") == log.count("+d") == 1, moment


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_the_rest_of_a_wide_restart_goes_on_when_the_one_that_failed_is_removed(
    steps: int, spec: Spec, running: Running, crash: Crash
) -> None:
    removed = Event()

    async def fails_and_is_removed(ctx: Context) -> None:
        if ctx.incarnation == 1:
            ctx.ready()
            await ctx.stopping.wait()
        else:
            tasks.start_soon(remove)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            raise OSError("again")

    async def remove() -> None:
        await pool.remove("b")
        removed.set()

    children = [spec("a"), spec("b", fails_and_is_removed), spec("c")]
    pool = Supervisor(children, strategy=Strategy.REST_FOR_ONE, backoff=Backoff(base=0))
    async with running(pool), anyio.create_task_group() as tasks:
        crash("a")
        await removed.wait()
        await anyio.sleep(5)
        assert [(child.id, child.state) for child in pool.child_snapshots()] == [("a", "running"), ("c", "running")]


async def test_a_child_added_during_a_wide_restart_starts_after_the_others(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    pool = Supervisor([spec("a"), spec("b")], strategy=Strategy.REST_FOR_ONE, backoff=lambda attempt: 10.0)
    async with running(pool), anyio.create_task_group() as tasks:
        log.clear()
        crash("a")
        await anyio.sleep(1)
        tasks.start_soon(pool.add, spec("c", restart=Restart.TEMPORARY))
        await anyio.sleep(1)
        with pytest.raises(StartFailed):
            await pool.add(spec("d", fails))
        assert log == ["-a", "-b", "+a", "+b", "+c", "+d", "-d"]
        assert list(pool.children) == ["a", "b", "c"]


async def test_a_child_that_is_being_added_takes_part_in_a_wide_restart(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    pool = Supervisor([spec("a")], strategy=Strategy.ONE_FOR_ALL, backoff=lambda attempt: 10.0)
    async with running(pool):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.add, spec("b", slow))
            await anyio.sleep(1)
            log.clear()
            crash("a")
        assert log == ["-a", "-b", "+a", "+b"]
        assert anyio.current_time() >= 15


async def test_nobody_can_add_or_remove_before_the_run_or_after_it(spec: Spec, running: Running) -> None:
    pool = Supervisor()
    for moment in ("before", "after"):
        with pytest.raises(NotRunning):
            await pool.add(spec(moment))
        with pytest.raises(NotRunning):
            await pool.remove(moment)
        if moment == "before":
            async with running(pool):
                pass


async def test_whoever_waits_when_the_supervisor_stops_is_told_at_once(
    log: list[str], spec: Spec, running: Running
) -> None:
    told: list[str] = []

    async def expect_not_running(name: str, wish: Callable[[], object]) -> None:
        with pytest.raises(NotRunning):
            await wish()  # type: ignore[misc]
        told.append(name)

    pool = Supervisor([spec("a", stubborn, grace=10.0), spec("b", stubborn, grace=10.0)])
    async with anyio.create_task_group() as tasks:
        async with running(pool):
            tasks.start_soon(expect_not_running, "add", partial(pool.add, spec("slow", slow)))
            tasks.start_soon(expect_not_running, "remove", partial(pool.remove, "b"))
            await anyio.sleep(1)
            tasks.start_soon(expect_not_running, "too late", partial(meanwhile, pool, spec("z")))
        assert sorted(told) == ["add", "remove", "too late"]


async def meanwhile(pool: Supervisor, child: ChildSpec) -> None:
    """Add while the supervisor is stopping."""
    while pool.snapshot().state is not State.STOPPING:  # noqa: ASYNC110 (there is no event for it)
        await anyio.sleep(0.1)
    await pool.add(child)


async def test_wishes_made_while_it_starts_are_fulfilled_once_it_runs(log: list[str], spec: Spec) -> None:
    pool = Supervisor([spec("a", slow)])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, pool)
        await anyio.sleep(1)
        await pool.add(spec("b"))
        assert log == ["+a", "+b"]
        tasks.cancel_scope.cancel()


async def test_wishes_made_while_it_starts_are_refused_when_it_does_not_get_there(spec: Spec) -> None:
    async def never(ctx: Context) -> None:
        await anyio.sleep(3)
        raise OSError

    async def expect_failure() -> None:
        with pytest.raises(StartFailed):
            await run(pool)

    pool = Supervisor([spec("a", never)])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(expect_failure)
        await anyio.sleep(1)
        with pytest.raises(NotRunning):
            await pool.add(spec("b"))


async def test_after_a_restart_by_its_parent_only_the_first_children_are_there(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    pool = Supervisor([spec("static")], max_restarts=0)
    async with running(Supervisor([ChildSpec(id="pool", actor=lambda: pool)], backoff=Backoff(base=0))):
        await pool.add(spec("added"))
        crash("added")
        await anyio.sleep(5)
        assert list(pool.children) == ["static"]
        await pool.add(spec("added"))
        assert list(pool.children) == ["static", "added"]


async def test_a_supervisor_cannot_run_twice_at_once(spec: Spec, running: Running) -> None:
    async with running(pool := Supervisor([spec("a")])):
        with pytest.raises(RuntimeError, match="runs already"):
            await run(pool)
        await pool.add(spec("b"))


async def test_a_child_may_remove_itself_and_its_grace_bounds_the_wait(
    log: list[str], spec: Spec, running: Running
) -> None:
    async def leaves(ctx: Context) -> None:
        ctx.ready()
        await pool.remove(ctx.name)

    async with running(pool := Supervisor([spec("a", leaves, grace=3.0)])):
        await anyio.sleep(5)
        assert (log, pool.children) == (["+a", "-a"], ())


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_caller_cancelled_natively_does_not_take_its_wish_back(spec: Spec, running: Running) -> None:
    async with running(pool := Supervisor([spec("a", stubborn, grace=10.0)])):
        loop = asyncio.get_running_loop()
        wishes = [loop.create_task(pool.add(spec("b", slow))), loop.create_task(pool.remove("a"))]
        await anyio.sleep(1)
        for wish in wishes:
            wish.cancel()
        await anyio.sleep(20)
        assert [wish.cancelled() for wish in wishes] == [True, True]
        assert [(child.id, child.state) for child in pool.child_snapshots()] == [("b", "running")]

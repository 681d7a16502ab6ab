"""When a child is started again, how often, and after which delay."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio
import pytest

from supervisors import (
    Backoff,
    ChildSpec,
    Context,
    Restart,
    Restarting,
    RestartLimitExceeded,
    State,
    Supervisor,
    TreeEvent,
    run,
)

pytestmark = pytest.mark.anyio
Spec = Callable[..., ChildSpec]
Running = Callable[[Supervisor], AbstractAsyncContextManager[None]]
Crash = Callable[[str], None]


async def returns(ctx: Context) -> None:
    ctx.ready()
    await anyio.sleep(1)


async def crashes(ctx: Context) -> None:
    ctx.ready()
    await anyio.sleep(1)
    raise ValueError("no")


@pytest.mark.parametrize(
    ("restart", "ending", "lives", "state"),
    [
        (Restart.PERMANENT, returns, 2, State.RUNNING),
        (Restart.PERMANENT, crashes, 2, State.RUNNING),
        (Restart.TRANSIENT, returns, 1, State.STOPPED),
        (Restart.TRANSIENT, crashes, 2, State.RUNNING),
        (Restart.TEMPORARY, returns, 1, None),
        (Restart.TEMPORARY, crashes, 1, None),
    ],
)
async def test_the_kind_of_a_child_says_whether_it_comes_back(
    restart: Restart,
    ending: Callable[[Context], object],
    lives: int,
    state: State | None,
    log: list[str],
    spec: Spec,
    running: Running,
) -> None:
    tree = Supervisor([spec("a", ending, restart=restart)], backoff=Backoff(base=0))
    async with running(tree):
        await anyio.sleep(1.5)
        assert log.count("+a") == lives
        assert [child.state for child in tree.child_snapshots()] == ([] if state is None else [state])


async def test_one_restart_too_many_stops_the_others_in_reverse_and_raises_bare(log: list[str], spec: Spec) -> None:
    tree = Supervisor([spec("a"), spec("b", crashes), spec("c")], max_restarts=2, backoff=Backoff(base=0))
    with pytest.raises(RestartLimitExceeded, match=r"root/b .*more than 2 in 5 s.*ValueError: no") as caught:
        await run(tree)
    assert isinstance(caught.value.__cause__, ValueError)
    assert log.count("+b") == 3
    assert log[-3:] == ["-b", "-c", "-a"]


async def test_a_permanent_child_that_keeps_returning_spends_the_budget_too(spec: Spec) -> None:
    with pytest.raises(RestartLimitExceeded, match="it returned") as caught:
        await run(Supervisor([spec("a", returns)], backoff=Backoff(base=0)))
    assert caught.value.__cause__ is None


async def test_restarts_spread_wider_than_the_window_go_on_for_ever(log: list[str], spec: Spec) -> None:
    tree = Supervisor([spec("a", crashes)], max_restarts=2, within=2.0, backoff=Backoff(base=0))
    with anyio.move_on_after(99.5):
        await run(tree)
    assert log.count("+a") == 100


async def test_a_budget_per_child_grows_with_the_number_of_children(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    tree = Supervisor(map(spec, "abcd"), max_restarts=1, within=60.0, per_child=True, backoff=Backoff(base=0))
    async with running(tree):
        for name in "abca":
            crash(name)
            await anyio.sleep(1)
        assert tree.snapshot().state is State.RUNNING
    assert log.count("+a") == 3


async def test_the_delay_grows_with_failures_in_a_row_and_a_good_while_begins_it_anew(
    events: list[TreeEvent], spec: Spec, running: Running, crash: Crash
) -> None:
    tree = Supervisor([spec("a")], max_restarts=100, within=30.0, backoff=Backoff(base=1.0, cap=60.0, jitter=0))
    async with running(tree):
        for pause in (5, 5, 40, 5, 5):
            crash("a")
            await anyio.sleep(pause)
    assert [event.delay for event in events if isinstance(event, Restarting)] == [1.0, 2.0, 4.0, 1.0, 2.0]


async def test_one_child_in_backoff_does_not_hold_up_another(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    delays = iter([3600.0, 1.0])
    async with running(Supervisor(map(spec, "ab"), backoff=lambda attempt: next(delays))):
        log.clear()
        crash("a")
        await anyio.sleep(5)
        crash("b")
        await anyio.sleep(5)
        assert log == ["-a", "-b", "+b"]


async def test_three_hundred_quick_restarts_leave_no_task_behind(spec: Spec, running: Running) -> None:
    calm = anyio.Event()

    async def restless(ctx: Context) -> None:
        ctx.ready()
        if ctx.incarnation > 300:
            calm.set()
            await ctx.stopping.wait()
        else:
            raise ValueError(ctx.incarnation)

    tree = Supervisor([spec("a", restless)], max_restarts=1000, backoff=Backoff(base=0))
    tasks_before = len(anyio.get_running_tasks())
    async with running(tree):
        await calm.wait()
        await anyio.wait_all_tasks_blocked()
        names = [task.name for task in anyio.get_running_tasks()]
        assert sum(str(name).endswith("root/a") for name in names) == 1
        assert len(names) <= tasks_before + 3, "the signal, the run and the child"
        node = tree.snapshot().find("a")
        assert node is not None
        assert (node.restarts, node.last_error) == (300, "ValueError: 300")

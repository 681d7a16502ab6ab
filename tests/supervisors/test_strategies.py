"""one_for_one, rest_for_one, one_for_all: who is started again, in which order, also when restarts overlap."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio
import pytest

from supervisors import Backoff, ChildSpec, Context, Restart, RestartLimitExceeded, State, Strategy, Supervisor, run

pytestmark = pytest.mark.anyio
Spec = Callable[..., ChildSpec]
Running = Callable[[Supervisor], AbstractAsyncContextManager[None]]
Crash = Callable[[str], None]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy.ONE_FOR_ONE, ["-b", "+b"]),
        (Strategy.REST_FOR_ONE, ["-b", "-d", "-c", "+b", "+c", "+d"]),
        (Strategy.ONE_FOR_ALL, ["-b", "-d", "-c", "-a", "+a", "+b", "+c", "+d"]),
    ],
)
async def test_those_who_share_its_fate_stop_in_reverse_and_start_in_order(
    strategy: Strategy, expected: list[str], log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    async with running(Supervisor(map(spec, "abcd"), strategy=strategy)):
        log.clear()
        crash("b")
        await anyio.sleep(1)
        assert log == expected


async def test_a_narrow_restart_in_backoff_is_taken_over_by_a_wider_one_in_order(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    delays = iter([50.0, 10.0])
    tree = Supervisor(map(spec, "abc"), strategy=Strategy.REST_FOR_ONE, backoff=lambda attempt: next(delays))
    async with running(tree):
        log.clear()
        crash("b")
        await anyio.sleep(1)
        assert log == ["-b", "-c"]
        crash("a")
        await anyio.sleep(30)
        assert log == ["-b", "-c", "-a", "+a", "+b", "+c"]
        await anyio.sleep(100)
        assert log[6:] == [], "the narrow restart is over for good"


async def test_a_wider_restart_overtakes_one_that_is_still_stopping_children(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    async def slow(ctx: Context) -> None:
        ctx.ready()
        await ctx.stopping.wait()
        await anyio.sleep(10)

    tree = Supervisor([spec("a"), spec("b"), spec("c", slow, grace=20.0)], strategy=Strategy.REST_FOR_ONE)
    async with running(tree):
        log.clear()
        crash("b")
        await anyio.sleep(5)
        crash("a")
        await anyio.sleep(30)
        assert log == ["-b", "-a", "-c", "+a", "+b", "+c"]


async def test_a_wider_restart_overtakes_one_that_is_starting_children(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    async def slow(ctx: Context) -> None:
        await anyio.sleep(4)
        ctx.ready()
        await ctx.stopping.wait()

    tree = Supervisor([spec("a"), spec("b"), spec("c", slow), spec("d")], strategy=Strategy.REST_FOR_ONE)
    async with running(tree):
        log.clear()
        crash("b")
        await anyio.sleep(2)
        assert log == ["-b", "-d", "-c", "+b", "+c"]
        log.clear()
        crash("b")  # it was ready again; c is not
        await anyio.sleep(2)
        assert log == ["-b", "-c", "+b", "+c"]
        log.clear()
        crash("a")
        await anyio.sleep(10)
        assert log == ["-a", "-c", "-b", "+a", "+b", "+c", "+d"]


async def test_children_that_crash_together_are_restarted_once(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    tree = Supervisor(map(spec, "abc"), strategy=Strategy.ONE_FOR_ALL, max_restarts=1)
    async with running(tree):
        log.clear()
        for name in "abc":
            crash(name)
        await anyio.sleep(2)
        assert sorted(log[:3]) == ["-a", "-b", "-c"]
        assert log[3:] == ["+a", "+b", "+c"]


async def test_a_start_that_fails_in_a_wide_restart_leaves_the_later_ones_for_the_next_try(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    async def second_fails(ctx: Context) -> None:
        if ctx.incarnation == 2:
            raise OSError("not yet")
        ctx.ready()
        await ctx.stopping.wait()

    tree = Supervisor([spec("a"), spec("b", second_fails), spec("c")], strategy=Strategy.REST_FOR_ONE)
    async with running(tree):
        log.clear()
        crash("a")
        await anyio.sleep(5)
        assert log == ["-a", "-c", "-b", "+a", "+b", "-b", "+b", "+c"]


async def test_a_temporary_sibling_is_stopped_with_the_others_and_never_comes_back(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    children = [spec("a"), spec("b", restart=Restart.TEMPORARY), spec("c")]
    tree = Supervisor(children, strategy=Strategy.ONE_FOR_ALL)
    async with running(tree):
        log.clear()
        crash("a")
        await anyio.sleep(2)
        assert log == ["-a", "-c", "-b", "+a", "+c"]
        assert tree.children == ("a", "c")


async def test_a_finished_transient_child_runs_again_in_a_wider_restart(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    async def prepares(ctx: Context) -> None:
        ctx.ready()

    children = [spec("a"), spec("prepare", prepares, restart=Restart.TRANSIENT), spec("c")]
    tree = Supervisor(children, strategy=Strategy.REST_FOR_ONE)
    async with running(tree):
        await anyio.wait_all_tasks_blocked()
        assert [child.state for child in tree.child_snapshots()] == [State.RUNNING, State.STOPPED, State.RUNNING]
        log.clear()
        crash("a")
        await anyio.sleep(2)
        assert log == ["-a", "-c", "+a", "+prepare", "-prepare", "+c"]


async def test_a_supervisor_that_gives_up_is_restarted_by_its_parent_with_a_new_budget(
    log: list[str], spec: Spec, running: Running, crash: Crash
) -> None:
    inner = Supervisor(map(spec, "xy"), max_restarts=1, backoff=Backoff(base=0))
    tree = Supervisor([spec("a"), ChildSpec(id="inner", actor=lambda: inner), spec("z")])
    async with running(tree):
        crash("x")
        await anyio.wait_all_tasks_blocked()
        log.clear()
        crash("x")
        await anyio.sleep(2)
        assert log == ["-x", "-y", "+x", "+y"]
        node = tree.snapshot().find("inner")
        assert node is not None
        assert node.restarts == 1
        assert "ended once too often" in str(node.last_error)
        crash("x")
        await anyio.sleep(2)
        assert tree.snapshot().find("inner", "x") is not None


async def test_trouble_that_does_not_go_away_climbs_to_the_root_with_its_cause(
    log: list[str], spec: Spec, running: Running
) -> None:
    async def cursed(ctx: Context) -> None:
        ctx.ready()
        raise ValueError("cursed")

    def level(name: str, child: ChildSpec) -> ChildSpec:
        return ChildSpec(
            id=name, actor=lambda: Supervisor([child], max_restarts=2, within=60.0, backoff=Backoff(base=0))
        )

    root = Supervisor([spec("bystander"), level("outer", level("inner", spec("c", cursed)))], max_restarts=0)
    with pytest.raises(RestartLimitExceeded, match="root/outer ended once too often") as caught:
        await run(root)
    assert log.count("+c") == 3 * 3, "budgets multiply up the tree"
    assert log[-1] == "-bystander"
    causes: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None:
        causes.append(error)
        error = error.__cause__
    assert [type(cause) for cause in causes] == [RestartLimitExceeded] * 3 + [ValueError]

"""Events for logs and metrics, snapshots for the dashboard: the tree seen from outside."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import anyio
import pytest

from supervisors import (
    Backoff,
    ChildSpec,
    Context,
    Exited,
    GaveUp,
    Mailbox,
    NodeSnapshot,
    Removed,
    Restarting,
    RestartLimitExceeded,
    Started,
    State,
    Stopped,
    Supervisor,
    TreeEvent,
    run,
)

pytestmark = pytest.mark.anyio
Spec = Callable[..., ChildSpec]
Running = Callable[[Supervisor], AbstractAsyncContextManager[None]]
Crash = Callable[[str], None]


async def test_the_whole_life_of_a_child_is_told_in_order(
    events: list[TreeEvent], spec: Spec, running: Running, crash: Crash
) -> None:
    pool = Supervisor([spec("a")], backoff=Backoff(base=2.0, jitter=0))
    async with running(Supervisor([ChildSpec(id="pool", actor=lambda: pool)])):
        crash("a")
        await anyio.sleep(5)
        await pool.remove("a")
    error = next(event.error for event in events if isinstance(event, Exited))
    assert isinstance(error, ValueError)
    path = "root/pool/a"
    assert events == [
        Started(path=path, incarnation=1),
        Started(path="root/pool", incarnation=1),
        Exited(path=path, incarnation=1, error=error),
        Restarting(path=path, incarnation=1, error=error, delay=2.0),
        Started(path=path, incarnation=2),
        Stopped(path=path, incarnation=2, error=None),
        Removed(path=path, incarnation=2),
        Stopped(path="root/pool", incarnation=1, error=None),
    ]


async def test_giving_up_is_told_with_the_child_and_the_error(events: list[TreeEvent], spec: Spec) -> None:
    async def crashes(ctx: Context) -> None:
        ctx.ready()
        raise ValueError("no")

    tree = Supervisor([spec("a", crashes)], max_restarts=0)
    with pytest.raises(RestartLimitExceeded) as caught:
        await run(tree, name="node", observer=events.append)
    assert GaveUp(path="node", incarnation=1, child="a", error=caught.value.__cause__) in events
    node = tree.snapshot()
    assert (node.id, node.state) == ("node", State.FAILED)
    assert node.last_error == f"RestartLimitExceeded: {caught.value}"


async def test_an_observer_that_raises_does_not_hurt_the_tree(
    log: list[str], spec: Spec, crash: Crash, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: TreeEvent) -> None:
        raise ZeroDivisionError

    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tree = Supervisor([spec("a")], backoff=Backoff(base=0))
        await tasks.start(partial(run, tree, stop=stop, observer=broken))
        crash("a")
        await anyio.sleep(1)
        stop.set()
    assert log == ["+a", "-a", "+a", "-a"]
    assert len(caplog.records) == 5
    assert "an observer of the supervision tree failed on Started" in caplog.text


async def test_a_supervisor_with_an_observer_of_its_own_tells_that_one(
    events: list[TreeEvent], spec: Spec, running: Running
) -> None:
    own: list[TreeEvent] = []
    inner = Supervisor([spec("x")], observer=own.append)
    async with running(Supervisor([ChildSpec(id="inner", actor=lambda: inner)])):
        pass
    assert [event.path for event in own] == ["root/inner/x"] * 2
    assert [event.path for event in events] == ["root/inner"] * 2


async def test_a_snapshot_shows_the_whole_tree_with_what_actors_tell_of_themselves(
    spec: Spec, running: Running, crash: Crash
) -> None:
    box = Mailbox[str, int](5)

    class Ingestor:
        async def run(self, ctx: Context) -> None:
            ctx.ready()
            await ctx.stopping.wait()

        def describe(self) -> dict[str, object]:
            return {"mailbox": box.describe()}

    class Shy(Ingestor):
        def describe(self) -> dict[str, object]:
            raise LookupError("nothing to say")

    inner = Supervisor([ChildSpec(id="ingestor", actor=Ingestor, grace=1.0), ChildSpec(id="shy", actor=Shy)])
    tree = Supervisor(
        [spec("a"), ChildSpec(id="inner", actor=lambda: inner)], backoff=Backoff(base=30.0, cap=30.0, jitter=0)
    )
    assert tree.snapshot() == NodeSnapshot(id="", state=State.STOPPED, restarts=0, last_error=None)
    async with running(tree):
        box.offer("hello")
        await anyio.sleep(10)
        crash("a")
        await anyio.sleep(1)
        node = tree.snapshot()
        assert (node.id, node.state) == ("root", State.RUNNING)
        backing_off = node.find("a")
        assert backing_off is not None
        assert backing_off.state is State.BACKING_OFF
        assert backing_off.last_error == "ValueError: a"
        assert (backing_off.started_at, backing_off.uptime) == (None, None)
        ingestor = node.find("inner", "ingestor")
        assert ingestor is not None
        assert ingestor.state is State.RUNNING
        assert ingestor.uptime == pytest.approx(11, abs=0.5)
        assert ingestor.started_at is not None
        mailbox = ingestor.details["mailbox"]
        assert isinstance(mailbox, dict)
        assert mailbox["depth"] == 1
        shy = node.find("inner", "shy")
        assert shy is not None
        assert shy.details == {"describe_failed": "LookupError: nothing to say"}
        assert node.find("inner", "nobody") is None
        assert node.find("nobody", "at", "all") is None
        plain = json.loads(json.dumps(node.to_dict()))
        assert plain["children"][1]["children"][0]["id"] == "ingestor"
        assert plain["children"][0]["state"] == "backing_off"
        await anyio.sleep(60)
        restarted = tree.snapshot().find("a")
        assert restarted is not None
        assert (restarted.state, restarted.restarts) == (State.RUNNING, 1)
    assert [child.state for child in tree.child_snapshots()] == [State.STOPPED, State.STOPPED]


async def test_a_snapshot_may_be_taken_at_any_moment_of_a_start_and_a_stop(spec: Spec) -> None:
    async def slow(ctx: Context) -> None:
        await anyio.sleep(2)
        ctx.ready()
        await ctx.stopping.wait()
        await anyio.sleep(2)

    stop = anyio.Event()
    tree = Supervisor([spec("a", slow, grace=9.0)])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(run, tree, stop=stop))
        seen: list[tuple[str, str]] = []
        for pause in (1, 2, 1):
            await anyio.sleep(pause)
            node = tree.snapshot()
            seen.append((node.state.value, node.children[0].state.value))
            if len(seen) == 2:
                stop.set()
    assert seen == [("starting", "starting"), ("running", "running"), ("stopping", "stopping")]

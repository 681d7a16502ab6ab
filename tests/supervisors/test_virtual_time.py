"""Long waits on trio's own terms: pytest-trio and its autojump clock, no anyio plugin in between."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from supervisors import Backoff, ChildSpec, Context, Mailbox, RestartLimitExceeded, Strategy, Supervisor, run

pytestmark = pytest.mark.trio
Spec = Callable[..., ChildSpec]


async def test_an_hour_of_backoff_and_a_restart_after_it(
    autojump_clock: MockClock, log: list[str], spec: Spec, crash: Callable[[str], None]
) -> None:
    tree = Supervisor([spec("a"), spec("b")], strategy=Strategy.REST_FOR_ONE, backoff=lambda attempt: 3600.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, tree)
        await trio.testing.wait_all_tasks_blocked()
        crash("a")
        await trio.sleep(3599)
        assert log == ["+a", "+b", "-a", "-b"]
        await trio.sleep(2)
        assert log == ["+a", "+b", "-a", "-b", "+a", "+b"]
        nursery.cancel_scope.cancel()
    assert trio.current_time() == pytest.approx(3601)


async def test_a_day_of_rare_crashes_never_spends_the_budget(autojump_clock: MockClock, spec: Spec) -> None:
    lives = 0

    async def daily(ctx: Context) -> None:
        nonlocal lives
        lives += 1
        ctx.ready()
        await trio.sleep(600)
        raise ValueError

    with trio.move_on_after(86_400):
        await run(Supervisor([spec("a", daily)], max_restarts=1, within=300.0))
    assert 140 <= lives <= 144


async def test_a_storm_spends_it_within_seconds(autojump_clock: MockClock, spec: Spec) -> None:
    async def cursed(ctx: Context) -> None:
        ctx.ready()
        raise ValueError

    with pytest.raises(RestartLimitExceeded):
        await run(Supervisor([spec("a", cursed)], max_restarts=3, within=5.0, backoff=Backoff(random=lambda: 0.0)))
    assert trio.current_time() == pytest.approx(0.7)


async def test_stubborn_equals_in_a_subtree_stop_within_the_longest_grace(
    autojump_clock: MockClock, log: list[str], spec: Spec
) -> None:
    async def stubborn(ctx: Context) -> None:
        ctx.ready()
        await trio.sleep_forever()

    pool = Supervisor([spec(f"p{number}", stubborn, grace=10.0 + number) for number in range(10)], stop_together=True)
    tree = Supervisor([spec("first"), ChildSpec(id="pool", actor=lambda: pool), spec("last")])
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run(tree, stop=stop))
        await trio.testing.wait_all_tasks_blocked()
        stop.set()
    assert trio.current_time() == pytest.approx(19)
    assert log[-1] == "-first"


async def test_a_call_waits_out_the_backoff_of_its_actor(autojump_clock: MockClock, spec: Spec) -> None:
    box = Mailbox[str, str](10)

    async def echo(ctx: Context) -> None:
        ctx.ready()
        if ctx.incarnation == 1:
            raise ValueError
        with ctx.interruptible():
            while True:
                envelope = await box.receive()
                envelope.answer(envelope.message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, Supervisor([spec("echo", echo)], backoff=lambda attempt: 60.0))
        assert await box.call("hello", timeout=61.0) == "hello"
        nursery.cancel_scope.cancel()
    assert trio.current_time() == pytest.approx(60)

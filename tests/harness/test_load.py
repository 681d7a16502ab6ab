"""The load against a broker in memory: what it records is what happened, through every fault; and bugs are found."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import anyio
import anyio.to_thread
import pytest

from harness.fake_broker import Broker, Faults
from support.checks import Report, check
from support.history import History, Outcome
from support.load import Consumer, Plan, Producer, run_load
from support.nodes import Nodes

pytestmark = pytest.mark.anyio

PLAN = Plan(
    events=2_000, producers=4, consumers=3, groups=("load", "other"), batch=25, keys=16, deadline_s=60, quiet_s=0.3
)
FAULTS = Faults(refuse=0.05, unavailable=0.05, unknown=0.05, drop=0.05, partly=0.1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_without_faults_every_event_is_ok_and_comes_once_to_every_group() -> None:
    history, report, drained = await run(Broker(), PLAN, calm=True)
    assert drained
    assert not report.violations, report
    assert report.figures["ok"] == 2_000
    assert report.figures["deliveries[load]"] == report.figures["deliveries[other]"] == 2_000
    assert history.notes == []


async def test_faults_are_recorded_as_what_they_are_and_break_no_rule() -> None:
    history, report, drained = await run(Broker(faults=FAULTS), PLAN)
    assert drained
    assert not report.violations, report
    assert report.figures["unknown"] > 0
    assert 0 < report.figures["unknown_stored"] < report.figures["unknown"]
    assert report.figures["ok"] + report.figures["unknown"] == 2_000, (
        "what was refused was sent again until it was kept"
    )
    assert report.figures["unanswered[load]"] > 0
    assert report.figures["again[load]"] >= 0
    assert {outcome for outcome in Outcome if list(history.with_outcome(outcome))} == {Outcome.OK, Outcome.UNKNOWN}


async def test_a_node_that_goes_away_in_the_middle_is_survived() -> None:
    broker, history = Broker(), History("orders")
    with broker.serving(1) as staying, ExitStack() as other:
        leaving = other.enter_context(broker.serving(1))
        async with Nodes([*staying, *leaving], "token") as nodes:

            async def leave() -> None:
                await until(lambda: len(history.sent) > 500)
                await anyio.to_thread.run_sync(other.close)

            drained = await run_load(history, nodes, PLAN, leave)
    assert drained
    report = check(history, *broker.dumps(), groups=PLAN.groups)
    assert not report.violations, report
    assert report.figures["ok"] + report.figures["unknown"] == PLAN.events


@pytest.mark.parametrize(
    ("faults", "rules"),
    [
        (Faults(double_every=20), {"C5 duplicate"}),
        (Faults(forget_every=20), {"C1 lost", "C11 hole", "C2 group lost"}),
    ],
)
async def test_a_broker_with_a_bug_is_found_out(faults: Faults, rules: set[str]) -> None:
    plan = Plan(events=800, producers=2, consumers=2, batch=20, deadline_s=3, quiet_s=0.2)
    _, report, _ = await run(Broker(faults=faults), plan)
    assert rules <= report.broken, report


async def test_what_is_refused_to_the_end_is_recorded_as_failed() -> None:
    broker, history = Broker(faults=Faults(refuse=1.0)), History("orders")
    with broker.serving(1) as urls:
        async with Nodes(urls, "token") as nodes:
            producer = Producer(history, nodes, "p0", ["k"], events=100, batch=10)
            await producer.run(time.monotonic() + 0.3, anyio.Event())
    assert len(list(history.with_outcome(Outcome.FAIL))) == 10
    assert len(history.sent) == 10, "nothing is sent after the deadline"
    assert not check(history, *broker.dumps()).violations


async def test_a_producer_that_is_cancelled_in_flight_leaves_unknown_events() -> None:
    broker, history = Broker(), History("orders")
    with broker.serving(1) as urls:
        async with Nodes(urls, "token") as nodes:
            producer = Producer(history, nodes, "p0", ["k"], events=1_000_000, batch=10)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(producer.run, time.monotonic() + 30, anyio.Event())
                await until(lambda: len(history.sent) > 100)
                tasks.cancel_scope.cancel()
    assert list(history.with_outcome(Outcome.INVOKED)) == []
    assert not check(history, *broker.dumps()).violations


async def test_no_node_at_all_ends_with_the_deadline() -> None:
    history = History("orders")
    async with Nodes(["http://127.0.0.1:9"], "token") as nodes:
        await Producer(history, nodes, "p0", ["k"], events=10, batch=10).run(time.monotonic() + 0.3, anyio.Event())
        await Consumer(history, nodes, "g", "c0").run(time.monotonic() + 0.3, anyio.Event())
    assert len(list(history.with_outcome(Outcome.FAIL))) == 10
    assert all(read.ok for read in history.reads), "a read that reached nobody handed nothing out"


async def test_a_mistake_of_the_client_ends_the_run_at_once() -> None:
    history = History("orders with spaces")
    with Broker().serving(1) as urls:
        async with Nodes([url + "/nowhere" for url in urls], "token") as nodes:
            with pytest.raises(AssertionError, match="404"):
                await run_load(history, nodes, PLAN)


async def run(broker: Broker, plan: Plan, *, calm: bool = False) -> tuple[History, Report, bool]:
    history = History("orders")
    with broker.serving(2) as urls:
        async with Nodes(urls, "token") as nodes:
            drained = await run_load(history, nodes, plan)
    return history, check(history, *broker.dumps(), groups=plan.groups, calm=calm), drained


async def until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        await anyio.sleep(0.005)

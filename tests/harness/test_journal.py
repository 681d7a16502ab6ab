"""Journals: what clients did is on disk as they do it, and a history read back from them is judged like the first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.fake_broker import Broker, Faults
from support.checks import check
from support.history import Ack, Delivered, History, Outcome, Read, payload_of, seen
from support.journal import Journal, merge, read_back
from support.load import Plan, run_load
from support.nodes import Nodes

PLAN = Plan(events=600, producers=3, consumers=2, groups=("load",), batch=20, keys=8, deadline_s=60, quiet_s=0.3)
FAULTS = Faults(refuse=0.05, unavailable=0.05, unknown=0.05, drop=0.05, partly=0.1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_run_read_back_is_the_run_and_is_judged_alike(tmp_path: Path) -> None:
    broker, path = Broker(faults=FAULTS), tmp_path / "run.jsonl"
    with broker.serving(2) as urls, Journal(path) as journal:
        history = History("orders", recorder=journal)
        async with Nodes(urls, "token") as nodes:
            assert await run_load(history, nodes, PLAN)
    told = read_back("orders", [path])
    assert told.sent == history.sent
    reads = sorted(history.reads, key=lambda read: read.ended)
    assert told.reads == [replace(read, items=list(read.items)) for read in reads]
    assert (told.acks, told.notes, told.delivered) == (history.acks, history.notes, history.delivered)
    redis, pg = broker.dumps()
    first, again = (check(one, redis, pg, groups=PLAN.groups) for one in (history, told))
    assert not first.violations, first
    assert again.figures == first.figures
    assert "C1 lost" in check(told, {}, {}, groups=PLAN.groups).broken


def test_what_a_killed_process_had_begun_is_unknown_and_its_last_line_may_be_half(tmp_path: Path) -> None:
    path = tmp_path / "killed.jsonl"
    with Journal(path) as journal:
        history = History("orders", recorder=journal)
        history.invoke(("p0", 0), "k", payload_of(("p0", 0), "k"))
        history.succeed(("p0", 0), 2, (7, 1))
        history.invoke(("p0", 1), "k", payload_of(("p0", 1), "k"))
        history.asks(Read("g", "c0", 5.0, 5.0, ok=False))
        history.asks(Ack("g", "c0", 6.0, 6.0, ok=False, items=[(2, (7, 1))]))
    path.write_text(path.read_text() + '{"t":9,"op":"rea')
    told = read_back("orders", [path])
    assert (told.sent["p0", 0].outcome, told.sent["p0", 0].id) == (Outcome.OK, (7, 1))
    assert told.sent["p0", 1].outcome is Outcome.UNKNOWN
    assert [(read.consumer, read.ok) for read in told.reads] == [("c0", False)]
    assert [(ack.items, ack.ok) for ack in told.acks] == [([(2, (7, 1))], False)]


def test_processes_are_merged_into_one_history(tmp_path: Path) -> None:
    history = History("orders")
    paths = []
    for number in range(2):
        paths.append(tmp_path / f"{number}.jsonl")
        with Journal(paths[-1]) as journal:
            one = History("orders", recorder=journal)
            payload = payload_of((f"p{number}", 0), "k")
            one.invoke((f"p{number}", 0), "k", payload)
            read = Read("g", f"c{number}", 5.0, 6.0, ok=True, items=[Delivered(seen(0, (1, number), "k", payload), 1)])
            one.asks(read)
            one.saw(read)
    merge(history, read_back("orders", paths))
    assert set(history.sent) == history.delivered_to("g") == {("p0", 0), ("p1", 0)}

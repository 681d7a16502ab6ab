"""`openstream produce` of files and pipes: every line once, whatever happens in between, and nothing guessed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.scripted_node import ScriptedNode, serving

LINES = 20_000


@pytest.fixture
def node() -> Iterator[ScriptedNode]:
    with serving(ScriptedNode()) as node:
        yield node


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "orders.ndjson"
    path.write_text("".join(line(number) + "\n" for number in range(LINES)))
    return path


def line(number: int) -> str:
    return json.dumps({"event_type": "test", "payload": number, "partition_key": f"k{number % 7}"})


def start(node: ScriptedNode, *arguments: str | Path, stdin: int | None = None) -> subprocess.Popen[str]:
    env = {**os.environ, "OPENSTREAM_URL": node.url, "OPENSTREAM_TOKEN": "good", "XDG_STATE_HOME": "/nonexistent"}
    return subprocess.Popen(
        [sys.executable, "-m", "openstream_ops", "produce", "orders", *map(str, arguments)],
        env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(node: ScriptedNode, *arguments: str | Path, stdin: str = "") -> tuple[int, str]:
    """Exit code and what was said on standard error."""
    process = start(node, *arguments, stdin=subprocess.PIPE)
    _, said = process.communicate(stdin, timeout=60)
    return process.returncode, said


def payloads(node: ScriptedNode) -> list[int]:
    return [event["payload"] for event in node.kept]


def hold_a_request(node: ScriptedNode, process: subprocess.Popen[str], after: int) -> None:
    """Until `after` events are in and one more request stands at the node."""
    deadline = time.monotonic() + 60
    while len(node.kept) < after:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    node.open.clear()
    node.arrived.clear()
    assert node.arrived.wait(60) or process.poll() is not None


def test_a_file_goes_in_whole_and_in_order_and_leaves_nothing_behind(node: ScriptedNode, file: Path) -> None:
    code, said = run(node, "-f", file)
    assert code == 0, said
    assert payloads(node) == list(range(LINES))
    assert f"{LINES:,} events" in said
    assert list(file.parent.iterdir()) == [file]


def test_ctrl_c_and_the_same_command_again_give_each_line_once(node: ScriptedNode, file: Path) -> None:
    process = start(node, "-f", file)
    hold_a_request(node, process, after=4_000)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)  # the signal goes first, whichever way it ends is right
    node.open.set()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "goes on from there" in said
    assert 4_000 <= len(node.kept) < LINES
    code, said = run(node, "-f", file)
    assert code == 0, said
    assert "going on after line" in said
    assert payloads(node) == list(range(LINES))


def kill_at_a_request(node: ScriptedNode, file: Path) -> int:
    """A run that was killed while a request was on its way, which the node then keeps. How many events are in."""
    process = start(node, "-f", file)
    hold_a_request(node, process, after=4_000)
    process.kill()
    process.communicate(timeout=60)
    before = len(node.kept)
    node.open.set()
    deadline = time.monotonic() + 20
    while len(node.kept) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(node.kept)


def test_a_run_that_was_killed_goes_on_and_doubles_nothing(node: ScriptedNode, file: Path) -> None:
    kill_at_a_request(node, file)
    code, said = run(node, "-f", file)
    assert code == 0, said
    assert "going on after line" in said
    assert payloads(node) == list(range(LINES))


def test_a_lost_answer_is_asked_for_again_and_doubles_nothing(node: ScriptedNode, file: Path) -> None:
    node.faults += ["lost", (503, "outcome-unknown", {"repeatable": True, "retry_after_ms": 10})]
    code, said = run(node, "-f", file)
    assert code == 0, said
    assert payloads(node) == list(range(LINES))


def test_an_answer_that_stays_lost_stops_the_run_and_the_next_one_asks_again(node: ScriptedNode, file: Path) -> None:
    node.faults += ["lost", (503, "unavailable", {"retry_after_ms": 60_000})]
    code, said = run(node, "-f", file)
    assert code == 1
    assert "lines 1 to 2,000 may be in or not" in said
    code, said = run(node, "-f", file)
    assert code == 0, said
    assert payloads(node) == list(range(LINES))


@pytest.mark.parametrize("unknown", ["skip", "repeat"])
def test_when_the_nodes_have_forgotten_it_the_lines_are_named_and_it_is_a_decision(
    node: ScriptedNode, file: Path, unknown: str
) -> None:
    before = kill_at_a_request(node, file)
    node.producers.clear()
    code, said = run(node, "-f", file)
    assert code == 1
    assert f"to {before:,} may be in or not" in said
    assert "--unknown" in said
    assert len(node.kept) == before
    code, said = run(node, "-f", file, "--unknown", unknown)
    assert code == 0, said
    again = list(range(before - 2_000, before)) if unknown == "repeat" else []
    assert payloads(node) == list(range(before)) + again + list(range(before, LINES))


def test_a_run_that_was_forgotten_with_nothing_open_just_goes_on(node: ScriptedNode, file: Path) -> None:
    process = start(node, "-f", file)
    hold_a_request(node, process, after=4_000)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)  # the signal goes first, whichever way it ends is right
    node.open.set()
    process.communicate(timeout=60)
    node.producers.clear()
    code, said = run(node, "-f", file)
    assert code == 0, said
    assert payloads(node) == list(range(LINES))


def test_a_file_that_was_changed_where_an_answer_was_open_is_not_taken_for_what_it_was(
    node: ScriptedNode, file: Path
) -> None:
    before = kill_at_a_request(node, file)
    text = file.read_text()
    file.write_text(text.replace(f'"payload": {before - 1},', f'"payload": {before - 2},'))
    code, said = run(node, "-f", file)
    assert code == 1
    assert "were not taken now: it is sequence-reused" in said
    assert len(node.kept) == before


def test_overload_is_waited_out(node: ScriptedNode, file: Path) -> None:
    node.faults += [(429, "overloaded", {"retry_after_ms": 20}), (503, "unavailable", {"retry_after_ms": 20})]
    code, said = run(node, "-f", file)
    assert code == 0, said
    assert payloads(node) == list(range(LINES))


def test_overload_that_lasts_gives_up_with_5_and_goes_on_later(node: ScriptedNode, file: Path) -> None:
    node.faults += [(429, "overloaded", {"retry_after_ms": 60_000})] * 2
    code, said = run(node, "-f", file, "--give-up", "1s")
    assert code == 5
    assert "error: " in said
    node.faults.clear()
    assert run(node, "-f", file)[0] == 0
    assert payloads(node) == list(range(LINES))


def test_lines_that_are_no_events_are_shown_and_set_aside(node: ScriptedNode, tmp_path: Path) -> None:
    lines = [line(0), "nonsense", '{"event_type":"x"}', '{"event_type":"x","payload":1,"partion_key":"a"}', "", line(1)]
    (tmp_path / "mixed").write_text("\n".join(lines))
    rejects = tmp_path / "rejects"
    code, said = run(node, "-f", tmp_path / "mixed", "--rejects", rejects)
    assert code == 1
    assert payloads(node) == [0, 1]
    assert [f"line {number}: " in said for number in (2, 3, 4)] == [True] * 3
    assert "partion_key" in said
    assert rejects.read_text().splitlines() == lines[1:4]


def test_a_line_the_node_refuses_is_set_aside_and_the_others_go(node: ScriptedNode, tmp_path: Path) -> None:
    node.faults.append((422, "invalid-request", {"errors": [{"loc": ["events", 1], "msg": "no"}]}))
    (tmp_path / "three").write_text("\n".join(map(line, range(3))))
    code, said = run(node, "-f", tmp_path / "three", "--rejects", tmp_path / "rejects")
    assert code == 1
    assert "line 2: " in said
    assert payloads(node) == [0, 2]
    assert (tmp_path / "rejects").read_text() == line(1) + "\n"


def test_another_file_under_the_same_name_does_not_go_on_in_the_middle(node: ScriptedNode, file: Path) -> None:
    node.faults += ["lost", (503, "unavailable", {"retry_after_ms": 60_000})]
    run(node, "-f", file)
    file.write_text(line(5) + "\n")
    code, said = run(node, "-f", file)
    assert code == 1
    assert "another file" in said


def test_a_pipe_of_events_as_consume_prints_them(node: ScriptedNode) -> None:
    printed = {"event_type": "test", "payload": 1, "partition": 3, "redis_id": "5-0", "deliveries": 1, "headers": {}}
    code, said = run(node, stdin=json.dumps(printed) + "\n" + line(2))
    assert code == 0, said
    assert payloads(node) == [1, 2]
    assert set(node.kept[0]) <= {"event_type", "payload", "headers"}


def test_a_pipe_of_payloads_keeps_their_bytes(node: ScriptedNode) -> None:
    code, said = run(node, "--payloads", "--type", "reading", "--key", "k", stdin='1\n{"a":  1.50}\n')
    assert code == 0, said
    assert node.kept == [
        {"event_type": "reading", "partition_key": "k", "payload": 1},
        {"event_type": "reading", "partition_key": "k", "payload": {"a": 1.5}},
    ]


def test_ctrl_c_ends_a_pipe_that_says_nothing(node: ScriptedNode) -> None:
    process = start(node, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(line(1) + "\n")
    process.stdin.flush()
    assert node.arrived.wait(30)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.communicate()
    assert payloads(node) == [1]

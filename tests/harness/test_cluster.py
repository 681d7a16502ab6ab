"""Node processes come and go as a test says, and none outlives it. Nodes here are fakes; the processes are real."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import harness.fake_broker
from support.cluster import Cluster

COMMAND = (sys.executable, harness.fake_broker.__file__)
# The fake imports `support` and the runtime, wherever it is started.
PYTHONPATH = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])


@dataclass
class NoServers:
    redis_url: str = "redis://nowhere"
    database_url: str = "postgresql://nowhere"


def cluster(tmp_path: Path, nodes: int = 1, **environment: str) -> Cluster:
    return Cluster(
        NoServers(), tmp_path, nodes=nodes, environment={"PYTHONPATH": PYTHONPATH, **environment}, command=COMMAND
    )


def test_nodes_are_ready_answer_mint_tokens_and_are_gone_afterwards(tmp_path: Path) -> None:
    with cluster(tmp_path, nodes=2) as nodes:
        assert len(set(nodes.urls)) == 2
        assert nodes.token() == "t"
        assert nodes.request(1, "GET", "/livez")[0] == 200
        pids = [nodes.pid(0), nodes.pid(1)]
        assert "REDIS_URL=redis://nowhere" in nodes.log(0)
    assert not [pid for pid in pids if is_alive(pid)]


def test_a_killed_node_is_gone_and_comes_back_on_its_port(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        url, pid = nodes.url(0), nodes.pid(0)
        nodes.kill(0)
        assert not is_alive(pid)
        assert not nodes.is_ready(0)
        assert not nodes.is_running(0)
        nodes.start(0)
        nodes.wait_ready(0)
        assert (nodes.url(0), nodes.pid(0) != pid) == (url, True)
        assert nodes.log(0).count("says hello") == 2


def test_a_stop_must_end_with_zero_and_in_time(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        assert nodes.stop(0) < 10
        assert not nodes.is_running(0)
    with cluster(tmp_path, FAKE_NODE="crashes") as nodes, pytest.raises(AssertionError, match="stopped with 4"):
        nodes.stop(0)
    with cluster(tmp_path, FAKE_NODE="stubborn") as nodes:
        with pytest.raises(AssertionError, match=r"did not stop within 0\.2 s"):
            nodes.stop(0, within_s=0.2)
        nodes.kill(0)


def test_a_paused_node_answers_nothing_until_it_goes_on(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        nodes.pause(0)
        state = Path(f"/proc/{nodes.pid(0)}/stat")
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
        nodes.resume(0)
        nodes.wait_ready(0)


def test_a_node_left_paused_does_not_hang_the_end(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        nodes.pause(0)
        pid = nodes.pid(0)
    assert not is_alive(pid)


def test_a_node_that_dies_before_it_is_ready_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"ended with 3 before it was ready:[\s\S]*the last words"):
        cluster(tmp_path, FAKE_NODE="dies").__enter__()


def test_a_failing_test_sees_the_end_of_every_log_and_leaves_no_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pids: list[int] = []

    def fail() -> None:
        with cluster(tmp_path, nodes=2) as nodes:
            pids.extend([nodes.pid(0), nodes.pid(1)])
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert capsys.readouterr().out.count("says hello") == 2
    assert not [pid for pid in pids if is_alive(pid)]


def test_a_node_has_the_settings_of_a_node_and_none_of_the_developers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENSTREAM_PORT", "1")
    monkeypatch.setenv("AUTH_JWT_ISSUER", "mine")
    with cluster(tmp_path, OPENSTREAM_LEASE_MS="700") as nodes:
        raw = Path(f"/proc/{nodes.pid(0)}/environ").read_bytes().split(b"\0")
    environment: dict[Any, Any] = dict(pair.split(b"=", 1) for pair in raw if pair)
    assert environment[b"OPENSTREAM_LEASE_MS"] == b"700"
    assert environment[b"OPENSTREAM_DEV"] == b"1"
    assert b"OPENSTREAM_PORT" not in environment
    assert b"AUTH_JWT_ISSUER" not in environment


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(holds: Any, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)

"""Picking ports: what one process has picked, no other one picks, although nobody listens there yet."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from openstream_ops import ports

HOST = "127.0.0.1"
PICK = """
import sys
from openstream_ops import ports
ports.PICK_FROM = range(int(sys.argv[1]), int(sys.argv[1]) + 200)
print(*(ports.pick("127.0.0.1") for _ in range(60)), flush=True)
sys.stdin.read()
"""


def test_two_processes_that_pick_from_a_few_never_pick_the_same() -> None:
    first = random.SystemRandom().choice(ports.PICK_FROM[:-200])
    pickers = [
        subprocess.Popen(
            [sys.executable, "-c", PICK, str(first)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        picked = [port for one in pickers if one.stdout is not None for port in one.stdout.readline().split()]
    finally:
        for one in pickers:
            one.communicate()
    assert len(set(picked)) == len(picked) == 3 * 60


def test_a_port_that_is_picked_is_given_to_nobody_again_and_can_be_listened_on() -> None:
    picked = [ports.pick(HOST) for _ in range(50)]
    assert len(set(picked)) == 50
    with socket.create_server((HOST, picked[0])):
        assert not ports.is_free(HOST, picked[0])
    assert ports.pick(HOST, picked[0]) == picked[0], "it is ours still"


def test_where_claims_cannot_be_noted_one_process_still_picks_no_port_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    monkeypatch.setattr(ports, "_claims", ports._Claims())
    monkeypatch.setattr(ports, "PICK_FROM", ports.PICK_FROM[:200])
    picked = [ports.pick(HOST) for _ in range(60)]
    assert len(set(picked)) == 60


def test_seeded_chance_does_not_repeat_a_pick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_claims", ports._Claims())
    random.seed(1)
    first = [ports.pick(HOST) for _ in range(5)]
    monkeypatch.setattr(ports, "_claims", ports._Claims())
    random.seed(1)
    assert first != [ports.pick(HOST) for _ in range(5)]


def test_a_port_somebody_listens_on_is_not_the_preferred_one() -> None:
    with socket.create_server((HOST, 0)) as server:
        assert ports.pick(HOST, server.getsockname()[1]) != server.getsockname()[1]

"""Launchers for the tests, taken down whatever happens."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openstream_ops import ports
from ops.dev_process import Dev

HERE = Path(__file__).parent


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Dev]]:
    """Starts `openstream dev ARGUMENTS`, with fake nodes unless `real`; takes down what a failed test leaves."""
    started: list[Dev] = []

    def start(*arguments: str, behaviour: str = "", real: bool = False) -> Dev:
        program = (
            [sys.executable, "-m", "openstream_ops"] if real else [sys.executable, f"{HERE}/dev_with_fake_nodes.py"]
        )
        started.append(Dev(list(arguments), tmp_path / "journal", behaviour, program))
        return started[-1]

    yield start
    for dev in started:
        if dev.process.poll() is None:
            dev.process.kill()  # its guardian does the rest
        dev.end()


@pytest.fixture
def free_port() -> int:
    return ports.pick("127.0.0.1")

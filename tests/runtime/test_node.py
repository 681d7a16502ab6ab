"""A node as a process: backends that come late or never, signals at any moment, and the exit code."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from openstream_runtime import node
from openstream_runtime.settings import Settings

TESTS = Path(__file__).parents[1]


class Process:
    """A bare node; what it wrote is in `output`."""

    def __init__(self, fault: str, environ: dict[str, str]) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "support.bare_node", fault],
            cwd=TESTS,
            env={**os.environ, "AUTH_JWT_SECRET": "Zb3hQ9vJx0sW7kLm2pRt5uYc8dFg1aHe", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.output += line

    def says(self, text: str, within: float = 30.0) -> None:
        deadline = time.monotonic() + within
        while text not in self.output and time.monotonic() < deadline and self.popen.poll() is None:
            time.sleep(0.02)
        assert text in self.output, self.output

    def ends(self, within: float) -> int:
        code = self.popen.wait(within)
        self._reader.join(5)
        return code


Start = Callable[..., Process]


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    processes: list[Process] = []

    def start(fault: str = "none", **environ: str) -> Process:
        processes.append(Process(fault, environ))
        return processes[-1]

    yield start
    for process in processes:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait(10)
        assert process.popen.stdout is not None
        process._reader.join(5)
        process.popen.stdout.close()


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_with_exit_code_0(
    start: Start, redis_url: str, database_url: str, number: signal.Signals
) -> None:
    process = start(REDIS_URL=redis_url, DATABASE_URL=database_url)
    process.says("ready")
    process.popen.send_signal(number)
    assert process.ends(10) == 0
    assert "draining" in process.output
    assert "node stopped" in process.output


def test_a_redis_that_never_comes_is_an_exit_with_1(start: Start, nobody: str, database_url: str) -> None:
    process = start(REDIS_URL=f"redis://{nobody}/0", DATABASE_URL=database_url, OPENSTREAM_STARTUP_MS="1500")
    assert process.ends(30) == 1
    assert "waiting for Redis" in process.output
    assert "Redis did not answer within" in process.output
    assert "Traceback" not in process.output


def test_a_postgresql_that_never_comes_is_an_exit_with_1(start: Start, redis_url: str, nobody: str) -> None:
    process = start(
        REDIS_URL=redis_url, DATABASE_URL=f"postgresql://postgres:hush-hush@{nobody}/x", OPENSTREAM_STARTUP_MS="1500"
    )
    assert process.ends(30) == 1
    assert "PostgreSQL did not answer within" in process.output
    assert "hush-hush" not in process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize("away", ["REDIS_URL", "DATABASE_URL"])
def test_a_signal_while_it_waits_for_a_backend_ends_it_with_0(
    start: Start, redis_url: str, database_url: str, nobody: str, away: str
) -> None:
    environ = {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
    environ[away] = f"redis://{nobody}/0" if away == "REDIS_URL" else f"postgresql://postgres@{nobody}/x"
    process = start(**environ)
    process.says("waiting for")
    process.popen.send_signal(signal.SIGTERM)
    assert process.ends(10) == 0
    assert "Traceback" not in process.output


@pytest.mark.parametrize("away", ["REDIS_URL", "DATABASE_URL"])
def test_a_signal_while_a_backend_does_not_answer_at_all_ends_it(
    start: Start, redis_url: str, database_url: str, silent: str, away: str
) -> None:
    environ = {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
    environ[away] = f"redis://{silent}/0" if away == "REDIS_URL" else f"postgresql://postgres@{silent}/x"
    process = start(**environ)
    process.says("node starting")
    time.sleep(0.5)  # somewhere inside of connecting; any moment will do
    process.popen.send_signal(signal.SIGTERM)
    assert process.ends(10) == 0
    assert "Traceback" not in process.output


def test_a_redis_that_comes_late_is_waited_for(start: Start, redis_url: str, database_url: str) -> None:
    with socket.socket() as late:
        late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        late.bind(("127.0.0.1", 0))
        port = late.getsockname()[1]
    late_url = redis_url.replace(f":{urlsplit(redis_url).port}/", f":{port}/")
    process = start(REDIS_URL=late_url, DATABASE_URL=database_url)
    process.says("waiting for Redis")
    relay = Relay(port, redis_url)
    try:
        process.says("ready")
        process.popen.send_signal(signal.SIGTERM)
        assert process.ends(10) == 0
    finally:
        relay.close()


class Relay:
    """Connections to a port, passed on to where a URL points: a backend that comes up late."""

    def __init__(self, port: int, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, sink):
                one.close()

    def close(self) -> None:
        self._listener.close()


def test_a_hopeless_persister_ends_it_with_1_a_clear_line_and_no_hang(
    start: Start, redis_url: str, database_url: str
) -> None:
    process = start("persister", REDIS_URL=redis_url, DATABASE_URL=database_url)
    process.says("ready")
    assert process.ends(60) == 1
    assert "node failed" in process.output
    assert "a hopeless persister" in process.output


def test_a_front_that_cannot_start_ends_it_with_1_and_says_why(start: Start, redis_url: str, database_url: str) -> None:
    process = start("front", REDIS_URL=redis_url, DATABASE_URL=database_url)
    assert process.ends(30) == 1
    assert "cannot listen" in process.output


def test_a_stop_that_hangs_is_cut_off_and_a_second_signal_does_not_wait(
    start: Start, redis_url: str, database_url: str
) -> None:
    environ = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "OPENSTREAM_GRACE_MS": "1000"}
    hangs, again = start("deaf", **environ), start("deaf", **environ)
    hangs.says("ready")
    again.says("ready")
    hangs.popen.send_signal(signal.SIGTERM)
    again.popen.send_signal(signal.SIGTERM)
    again.says("draining")
    again.popen.send_signal(signal.SIGTERM)
    assert again.ends(1.5) == 130
    assert hangs.ends(10) == 1
    assert "did not stop within its grace" in hangs.output


# ------------------------------------------------------------------------------------------------------- in process


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_what_comes_first_is_done_once_also_when_the_stop_has_begun_already() -> None:
    stopping, done = node.Stopping(60), list[str]()
    stopping.first(lambda: done.append("early"))
    stopping.begin()
    stopping.begin()
    stopping.first(lambda: done.append("late"))
    stopping.called_off()
    assert done == ["early", "late"]
    assert not stopping.event.is_set()


def test_the_limits_of_the_actors_are_those_of_the_settings() -> None:
    settings = Settings.from_env(
        {
            "REDIS_URL": "redis://x",
            "DATABASE_URL": "postgresql://x",
            "AUTH_JWT_SECRET": "Zb3hQ9vJx0sW7kLm2pRt5uYc8dFg1aHe",
            "OPENSTREAM_GRACE_MS": "20000",
            "OPENSTREAM_LEASE_MS": "7000",
        }
    )
    limits = node.limits_of(settings)
    assert (limits.grace_ms, limits.lease_ms, limits.max_unpersisted) == (20_000, 7_000, 100_000)
    assert node.front_grace(settings) == pytest.approx(4.0)


def test_its_clock_counts_on() -> None:
    clock = node.SystemClock()
    assert clock.monotonic() <= clock.monotonic()
    assert abs(clock.now_ms() - time.time() * 1000) < 5_000

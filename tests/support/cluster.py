"""Node processes for tests: started, killed, paused, stopped and started again, each with its log in a file.

    with Cluster(servers, tmp_path, nodes=3) as cluster:
        async with Nodes(cluster.urls, cluster.token()) as nodes: …
        cluster.kill(1); cluster.start(1); cluster.wait_ready(1)

Only processes started here are ever signalled, by their own pid. If the test run dies, the servers' guardian ends them.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from openstream_ops import ports
from openstream_ops.guard import NODES, Guard

HOST = "127.0.0.1"
ADMIN_SECRET = "tests-admin-secret-0123456789-abcdefghij"
JWT_SECRET = "tests-jwt-secret-9876543210-zyxwvutsrqponm"
READY_S = 30.0
STOP_S = 10.0
TAIL_LINES = 30


class Servers(Protocol):
    """What a cluster stands on: `EmbeddedServers`, for one."""

    @property
    def redis_url(self) -> str: ...

    @property
    def database_url(self) -> str: ...


@dataclass(slots=True)
class _Node:
    port: int
    log: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    paused: bool = False


class Cluster:
    """N nodes over one Redis and one PostgreSQL. Nodes are numbered from 0 and keep their ports through restarts."""

    def __init__(
        self,
        servers: Servers,
        log_dir: Path,
        *,
        nodes: int = 2,
        environment: Mapping[str, str] | None = None,
        each: Sequence[Mapping[str, str]] = (),
        command: Sequence[str] = (sys.executable, "-m", "openstream_ops", "node"),
    ) -> None:
        """`environment` is added to what a development node needs, and wins; `command` gets `--host` and `--port`.

        `each`: more of the environment, for every node its own.
        """
        self._command = command
        guard = getattr(servers, "guard", None)
        self._guard = guard if isinstance(guard, Guard) else None
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("OPENSTREAM_", "AUTH_"))},
            "REDIS_URL": servers.redis_url,
            "DATABASE_URL": servers.database_url,
            "AUTH_JWT_SECRET": JWT_SECRET,
            "AUTH_ADMIN_SECRET": ADMIN_SECRET,
            "OPENSTREAM_DEV": "1",
            "OPENSTREAM_LEASE_MS": "1500",
            "OPENSTREAM_CLAIM_IDLE_MS": "3000",
            "OPENSTREAM_LOG_LEVEL": "debug",
            "OPENSTREAM_LOG_FORMAT": "json",
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            **(environment or {}),
        }
        self._nodes: list[_Node] = []
        for number in range(nodes):
            self._nodes.append(_Node(ports.pick(HOST), log_dir / f"node-{number}.log", each[number] if each else {}))

    def __enter__(self) -> Self:
        try:
            for number in range(len(self._nodes)):
                self.start(number)
            for number in range(len(self._nodes)):
                self.wait_ready(number)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            for number in range(len(self._nodes)):
                print(f"---- the end of the log of node {number} ({self._nodes[number].log})\n{self.tail(number)}")
        self._end()

    # ---- what there is

    @property
    def urls(self) -> list[str]:
        """The base URL of every node, running or not."""
        return [self.url(number) for number in range(len(self._nodes))]

    def url(self, number: int) -> str:
        return f"http://{HOST}:{self._nodes[number].port}"

    def pid(self, number: int) -> int:
        return self._running(number).pid

    def is_running(self, number: int) -> bool:
        process = self._nodes[number].process
        return process is not None and process.poll() is None

    def token(self, role: str = "admin", *, sub: str = "tests", ttl_s: int = 3_600, number: int = 0) -> str:
        """A token, minted by a node."""
        wish = {"sub": sub, "role": role, "admin_secret": ADMIN_SECRET, "ttl_s": ttl_s}
        status, body = self.request(number, "POST", "/v1/auth/token", json.dumps(wish).encode())
        if status != 200:
            raise AssertionError(f"node {number} mints no token: {status} {body[:300]!r}")
        return str(json.loads(body)["token"])

    def request(
        self, number: int, method: str, path: str, body: bytes | None = None, token: str | None = None
    ) -> tuple[int, bytes]:
        """One request to one node; OSError or HTTPException when it does not answer."""
        connection = http.client.HTTPConnection(HOST, self._nodes[number].port, timeout=5)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def is_ready(self, number: int) -> bool:
        try:
            return self.request(number, "GET", "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def tail(self, number: int, lines: int = TAIL_LINES) -> str:
        """The last lines of a node's log."""
        log = self._nodes[number].log
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"

    def log(self, number: int) -> str:
        """All of a node's log, through all its lives."""
        return self._nodes[number].log.read_text(errors="replace")

    # ---- life and death

    def start(self, number: int) -> None:
        """Start a node that does not run; it is not ready yet."""
        if self.is_running(number):
            raise AssertionError(f"node {number} runs already")
        node = self._nodes[number]
        with node.log.open("ab") as log:
            node.process = subprocess.Popen(
                [*self._command, "--host", HOST, "--port", str(node.port)],
                env={**self._environment, **node.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the tests is for the tests
            )
        node.paused = False
        if self._guard is not None:
            self._guard.watch(node.process.pid, stage=NODES, stop_signal=signal.SIGKILL, grace=0.1)

    def wait_ready(self, number: int, within_s: float = READY_S) -> float:
        """Wait until /readyz says 200; how many seconds that took."""
        began = time.monotonic()
        while not self.is_ready(number):
            if not self.is_running(number):
                code = self._running(number).returncode
                raise AssertionError(f"node {number} ended with {code} before it was ready:\n{self.tail(number)}")
            if time.monotonic() - began > within_s:
                raise AssertionError(f"node {number} was not ready within {within_s} s:\n{self.tail(number)}")
            time.sleep(0.05)
        return time.monotonic() - began

    def kill(self, number: int) -> None:
        """SIGKILL, and gone."""
        process = self._running(number)
        process.kill()
        process.wait(timeout=10)
        self._forget(process.pid)

    def stop(self, number: int, within_s: float = STOP_S) -> float:
        """SIGTERM; it must exit 0 in time. How many seconds that took."""
        self.ask_to_stop(number)
        return self.wait_stopped(number, within_s)

    def ask_to_stop(self, number: int) -> None:
        self._running(number).send_signal(signal.SIGTERM)

    def wait_stopped(self, number: int, within_s: float = STOP_S) -> float:
        """Wait for a node that was asked to stop: it must exit 0 in time. How many seconds that took."""
        process, began = self._running(number), time.monotonic()
        try:
            code = process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"node {number} did not stop within {within_s} s:\n{self.tail(number)}") from None
        self._forget(process.pid)
        if code != 0:
            raise AssertionError(f"node {number} stopped with {code}:\n{self.tail(number)}")
        return time.monotonic() - began

    def wait_ended(self, number: int, within_s: float) -> int:
        """Wait for a node to end by itself; its exit code."""
        process = self._running(number)
        try:
            code = process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"node {number} still runs after {within_s} s:\n{self.tail(number)}") from None
        self._forget(process.pid)
        return code

    def pause(self, number: int) -> None:
        """SIGSTOP: it holds its connections and does nothing."""
        self._running(number).send_signal(signal.SIGSTOP)
        self._nodes[number].paused = True

    def resume(self, number: int) -> None:
        self._running(number).send_signal(signal.SIGCONT)
        self._nodes[number].paused = False

    def _running(self, number: int) -> subprocess.Popen[bytes]:
        process = self._nodes[number].process
        if process is None:
            raise AssertionError(f"node {number} was never started")
        return process

    def _forget(self, pid: int) -> None:
        if self._guard is not None:
            self._guard.forget(pid)

    def _end(self) -> None:
        """Ask all that run to stop, all at once; kill what does not in time."""
        running = [(number, node) for number, node in enumerate(self._nodes) if self.is_running(number)]
        for number, node in running:
            if node.paused:
                self.resume(number)
            self.ask_to_stop(number)
        deadline = time.monotonic() + STOP_S
        for number, _ in running:
            process = self._running(number)
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                print(f"node {number} had to be killed:\n{self.tail(number)}")
                process.kill()
                process.wait(timeout=10)
            self._forget(process.pid)

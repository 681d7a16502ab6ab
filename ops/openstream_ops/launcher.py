"""`openstream dev`: servers up, nodes up, a banner; then it watches, and takes everything down in the reverse order."""

import dataclasses
import functools
import ipaddress
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from openstream_ops import banner, context, environment, guard, ports
from openstream_ops.errors import NodeFailed, OpsError, ServerFailed, StartCancelled, UsageError
from openstream_ops.node_process import STOP_GRACE, NodeProcess
from openstream_ops.screen import Screen
from openstream_ops.server_process import ServerProcess
from openstream_ops.servers import EmbeddedServers
from openstream_ops.stop_signals import StopSignals

POLL_EVERY = 0.05
# A node's first start also creates the schema; it gives up by itself after OPENSTREAM_STARTUP_MS (60 s).
READY_TIMEOUT = 70.0
# -P: a file in the directory where the user happens to be must not shadow a module of the node.
NODE_COMMAND = (sys.executable, "-P", "-m", "openstream_ops", "node")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to launch."""

    data_dir: Path | None  # None: a new one, removed at the end
    host: str = "127.0.0.1"
    port: int = 8000
    nodes: int = 1
    servers_only: bool = False
    node_command: Sequence[str] = NODE_COMMAND  # `--host H --port P` is appended; tests put a small stand-in here

    def ports(self) -> range:
        return range(self.port, self.port + self.nodes)


class Launcher:
    """One launch, from `run` to its exit code."""

    def __init__(self, plan: Plan, screen: Screen) -> None:
        self._plan = plan
        self._screen = screen
        self._signals = StopSignals()
        if not plan.servers_only:
            _check_address(plan)  # before anything is made that would have to be taken down again
        data_dir = plan.data_dir or Path(tempfile.mkdtemp(prefix="openstream-"))
        self._servers = EmbeddedServers(data_dir, ephemeral=plan.data_dir is None)
        self._nodes: list[NodeProcess] = []

    def run(self) -> int:
        """Blocks until asked to stop (0) or until something ended that should not have (OpsError)."""
        self._signals.listen()
        version = metadata.version("openstream-runtime")
        self._screen.line(f"OpenStream {version} · development mode, not for production", "bold")
        try:
            self._start_servers()
        except (StartCancelled, ServerFailed) as end:
            self._ended_on_request(end)
            return 0
        try:
            env = self._write_env_file()
            if not self._plan.servers_only:
                self._start_nodes(env)
            self._show_banner()
            self._watch()
        except (StartCancelled, ServerFailed, NodeFailed) as end:
            self._ended_on_request(end)
        finally:
            self._stop()
            self._signals.ignore()
        return 0

    def _ended_on_request(self, end: OpsError) -> None:
        """Raise what was not asked for. A child is of our process group until it has a session of its own, and dies of
        the terminal's Ctrl-C should that come in between."""
        if not self._signals.requested:
            raise end

    # ---- up

    def _start_servers(self) -> None:
        def on_ready(server: ServerProcess, seconds: float) -> None:
            self._screen.done(f"{server.name} {server.version()}", f"127.0.0.1:{server.port}", seconds)

        with self._screen.waiting("starting Valkey and PostgreSQL"):
            self._servers.start(on_ready, cancelled=lambda: self._signals.requested)

    def _write_env_file(self) -> dict[str, str]:
        env = environment.dev_environment(
            redis_url=self._servers.redis_url,
            database_url=self._servers.database_url,
            jwt_secret=self._servers.state.jwt_secret,
            environ=os.environ,
        )
        environment.write_env_file(self._servers.data_dir.env_file, env)
        return env

    def _start_nodes(self, dev_environment: dict[str, str]) -> None:
        env = environment.node_environment(os.environ, dev_environment, colour=self._screen.is_terminal)
        begin = time.monotonic()
        for number, port in enumerate(self._plan.ports(), start=1):
            name = f"node-{number}"
            on_log = functools.partial(self._screen.log, name if self._plan.nodes > 1 else "")
            node = NodeProcess(name, self._plan.host, port, on_log)
            node.start(self._plan.node_command, env)
            self._nodes.append(node)
            self._servers.guard.watch(node.pid, stage=guard.NODES, stop_signal=signal.SIGTERM, grace=STOP_GRACE)
        for node in self._nodes:
            while not node.is_ready():
                self._check_processes()
                if self._signals.requested:
                    raise StartCancelled("asked to stop while the nodes were starting")
                if time.monotonic() - begin > READY_TIMEOUT:
                    raise NodeFailed(f"{node.name} was not ready within {READY_TIMEOUT:.0f} s{_tail(node.log_tail())}")
                time.sleep(POLL_EVERY)
            self._screen.done(node.name, node.url, time.monotonic() - begin)

    def _show_banner(self) -> None:
        where = self._servers.data_dir
        if self._plan.servers_only:
            banner.for_servers(self._screen, where.env_file, self._plan.port)
            return
        urls = [node.url for node in self._nodes]
        token = self._nodes[0].mint_token(environment.DEV_ADMIN_SECRET)
        if token is not None:
            self._write_context(urls, token)
        banner.for_nodes(
            self._screen,
            urls=urls,
            token=token,
            data_dir=None if self._plan.data_dir is None else where.path,
            env_file=where.env_file,
            next_port=self._plan.ports().stop,
        )

    def _write_context(self, urls: list[str], token: str) -> None:
        """So that `openstream status` and the others need neither URL nor token. Without it they can be told both."""
        try:
            context.write(context.context_file(os.environ), urls, token)
        except OSError as error:
            self._screen.hint(f"commands will need OPENSTREAM_URL and OPENSTREAM_TOKEN: {error}")

    # ---- steady

    def _watch(self) -> None:
        while not self._signals.requested:
            self._check_processes()
            time.sleep(POLL_EVERY)

    def _check_processes(self) -> None:
        """Raises when something ended by itself. It is not restarted: here a person should see it."""
        for node in self._nodes:
            if node.exit_code is not None:
                raise NodeFailed(f"{node.name} ended by itself ({_how(node.exit_code)}){_tail(node.log_tail())}")
        for server in (self._servers.valkey, self._servers.postgres):
            if server.exit_code is not None:
                raise ServerFailed(
                    f"{server.name} ended by itself ({_how(server.exit_code)}){_tail(server.log_tail())}",
                    f"its whole log: {server.log_path}",
                )

    # ---- down

    def _stop(self) -> None:
        """Nodes first: they still have to write what they have acknowledged. Then the servers."""
        begin = time.monotonic()
        if self._nodes:
            context.forget(context.context_file(os.environ), [node.url for node in self._nodes])
            self._screen.line("  stopping; Ctrl-C once more does not wait for the nodes", "dim")
            for node in self._nodes:
                node.ask_to_stop()
            deadline = begin + STOP_GRACE
            while any(node.exit_code is None for node in self._nodes):
                if self._signals.hurry or time.monotonic() > deadline:
                    for node in self._nodes:
                        node.kill()
                time.sleep(POLL_EVERY)
            for node in self._nodes:
                node.finish_log()
                self._servers.guard.forget(node.pid)
            self._screen.done("nodes stopped", "", time.monotonic() - begin)
            begin = time.monotonic()
        self._servers.stop()
        self._screen.done("servers stopped", "", time.monotonic() - begin)


def _check_address(plan: Plan) -> None:
    if not _is_loopback(plan.host):
        raise UsageError(
            f"`openstream dev` listens on loopback only, not on {plan.host}: everyone knows its admin secret",
            "use `openstream node --host` with secrets of your own",
        )
    for port in plan.ports():
        if not ports.is_free(plan.host, port):
            raise OpsError(
                f"port {port} on {plan.host} is taken by another program",
                f"choose another one: openstream dev --port {port + 1000}",
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _how(exit_code: int) -> str:
    """`exit code 3`, or the signal's name: a shell shows 137 and leaves the rest to the reader."""
    if exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"


def _tail(log: str) -> str:
    return f"; its last lines:\n{log}" if log else ""

"""Valkey and PostgreSQL for development and tests, without containers: two child processes and one data directory.

with EmbeddedServers(tmp_path) as servers:
    servers.redis_url, servers.database_url
    servers.postgres.stop(); ...; servers.postgres.start()      # same port, same data
    servers.valkey.kill(); servers.valkey.pause(); servers.valkey.resume()
"""

import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from openstream_ops import ports
from openstream_ops.data_dir import DataDir
from openstream_ops.guard import Guard
from openstream_ops.postgres import Postgres
from openstream_ops.server_process import HOST, ServerProcess
from openstream_ops.state import State
from openstream_ops.valkey import Valkey

Thing = TypeVar("Thing")


class EmbeddedServers:
    """Both servers. `start` and `stop` may be called once each; the single servers as often as you like in between."""

    def __init__(
        self,
        data_dir: Path,
        *,
        valkey_options: Mapping[str, str] | None = None,
        postgres_options: Mapping[str, str] | None = None,
        ephemeral: bool = False,
    ) -> None:
        self.data_dir = DataDir(data_dir)
        self._options = {"valkey": valkey_options or {}, "postgres": postgres_options or {}}
        self._ephemeral = ephemeral
        self._state: State | None = None
        self._valkey: Valkey | None = None
        self._postgres: Postgres | None = None
        self._guard: Guard | None = None

    # ---- what there is once started

    @property
    def valkey(self) -> Valkey:
        return _started(self._valkey)

    @property
    def postgres(self) -> Postgres:
        return _started(self._postgres)

    @property
    def guard(self) -> Guard:
        """What stops the servers should this process die; a launcher adds its nodes to it."""
        return _started(self._guard)

    @property
    def state(self) -> State:
        return _started(self._state)

    @property
    def redis_url(self) -> str:
        return self.valkey.url

    @property
    def database_url(self) -> str:
        return self.postgres.url

    # ---- life

    def start(
        self,
        on_ready: Callable[[ServerProcess, float], None] = lambda _server, _seconds: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Both at the same time. `on_ready` hears of each as soon as it answers; `cancelled` is asked while waiting."""
        self.data_dir.lock(cancelled)
        try:
            self._guard = Guard(self.data_dir.lock_fd)
            if self._ephemeral:
                self._guard.remove_at_end(self.data_dir.path)
            self._build()
            both: tuple[ServerProcess, ...] = (self.valkey, self.postgres)

            def start_one(server: ServerProcess) -> None:
                begin = time.monotonic()
                server.start(cancelled)
                on_ready(server, time.monotonic() - begin)

            with ThreadPoolExecutor(len(both), "server-start") as threads:
                for outcome in [threads.submit(start_one, server) for server in both]:
                    outcome.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Gracefully, Valkey first; afterwards the data directory is free for another launcher."""
        try:
            for server in (self._valkey, self._postgres):
                if server is not None:
                    server.stop()
        finally:
            if self._guard is not None:
                self._guard.close()  # stops what a failure above left running
                self._guard = None
            self.data_dir.unlock()
        if self._ephemeral:
            shutil.rmtree(self.data_dir.path, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _build(self) -> None:
        """The two server objects, on the ports of the last run where those are still free."""
        state = State.load(self.data_dir.state_file)
        valkey_port = ports.pick(HOST, state.valkey_port)
        postgres_port = ports.pick(HOST, state.postgres_port)
        known = state.with_ports(valkey=valkey_port, postgres=postgres_port)
        if known != state:
            known.save(self.data_dir.state_file)
        self._state = known
        path = self.data_dir.path
        self._valkey = Valkey(path, valkey_port, known.valkey_password, self._options["valkey"])
        self._postgres = Postgres(path, postgres_port, known.postgres_password, self._options["postgres"])
        self._valkey.guard = self._postgres.guard = self._guard


def _started(thing: Thing | None) -> Thing:
    if thing is None:
        raise RuntimeError("the servers are not started")
    return thing

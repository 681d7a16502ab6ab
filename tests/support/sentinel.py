"""A primary, two replicas and three Sentinels on loopback, for one test; every server can be killed or paused.

    with Sentinels(tmp_path) as redis:
        redis.url                          # redis+sentinel://…
        dead = redis.kill_primary()
        redis.wait_for_another(dead)

`replicas_follow` may name a proxy's port before the start: then their link can be cut, and nobody else's.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from openstream_ops import ports, private_file
from openstream_ops.guard import Guard
from openstream_ops.server_process import HOST
from openstream_ops.valkey import Valkey, binary
from support.partitions import redis_client, wait_for

PASSWORD = "only-for-these-tests"
SERVICE = "main"
DOWN_AFTER_S = 1.0
#: A Sentinel leaves a replica alone that follows another address than the primary's for this long: ours follow a proxy.
FAILOVER_TIMEOUT_S = 60


class SentinelServer(Valkey):
    """The same program, started as a Sentinel. It has no password."""

    name = "Sentinel"

    def __init__(self, data_dir: Path, port: int, primary_port: int) -> None:
        super().__init__(data_dir, port, "", {})
        self._primary_port = primary_port

    def _prepare(self) -> None:
        self.home.mkdir(mode=0o700, exist_ok=True)
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f"dir {self.home}",
            f"sentinel monitor {SERVICE} {HOST} {self._primary_port} 2",
            f"sentinel auth-pass {SERVICE} {PASSWORD}",
            f"sentinel down-after-milliseconds {SERVICE} {int(DOWN_AFTER_S * 1000)}",
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_S * 1000}",
        ]
        private_file.write(self._config_path, "\n".join(lines) + "\n")

    def _spawn(self, log_fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(binary()), str(self._config_path), "--sentinel"],
            cwd=self.home,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            start_new_session=True,
        )


class Sentinels:
    """Everything is made at once and started by `with`."""

    def __init__(self, directory: Path, *, replicas: int = 2, guard: Guard | None = None) -> None:
        def home(name: str) -> Path:
            (place := directory / name / "logs").mkdir(parents=True)
            return place.parent

        common = {"masterauth": PASSWORD, "repl-diskless-sync-delay": "0", "save": '""'}
        first = Valkey(home("primary"), ports.pick(HOST), PASSWORD, common)
        self.servers = [first]
        self.replicas_follow = first.port
        self._replicas = replicas
        self._make_replica: Callable[[int, int], Valkey] = lambda number, port: Valkey(
            home(f"replica-{number}"), ports.pick(HOST), PASSWORD, {**common, "replicaof": f"{HOST} {port}"}
        )
        self.sentinels = [
            SentinelServer(home(f"sentinel-{number}"), ports.pick(HOST), first.port) for number in range(3)
        ]
        self._guard = guard

    # ---- what there is

    @property
    def url(self) -> str:
        hosts = ",".join(f"{HOST}:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://:{PASSWORD}@{hosts}/{SERVICE}/0"

    @property
    def primary(self) -> Valkey:
        """Who the first Sentinel that lives says it is."""
        for sentinel in self.sentinels:
            if sentinel.pid is not None:
                with redis_client(f"redis://{HOST}:{sentinel.port}") as client:
                    _, port = ask(client, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
                return next(one for one in self.servers if one.port == int(port))
        raise AssertionError("no Sentinel lives")

    # ---- trouble

    def kill_primary(self) -> Valkey:
        """SIGKILL; which one it was."""
        dead = self.primary
        dead.kill()
        return dead

    def demote_primary(self) -> None:
        """A failover on demand: the primary lives, and is told some time later that it is none any more."""
        with redis_client(f"redis://{HOST}:{self.sentinels[0].port}") as client:
            ask(client, "SENTINEL", "FAILOVER", SERVICE)

    def wait_for_another(self, than: Valkey, within_s: float = 30.0) -> float:
        """Until another server is the primary and takes writes; how many seconds that took."""
        return wait_for(lambda: self.primary is not than and self._writes(self.primary), "a new primary", within_s)

    def _writes(self, server: Valkey) -> bool:
        try:
            with redis_client(server.url) as client:
                return bool(ask(client, "ROLE")[0] == b"master")
        except redis.RedisError:
            return False

    # ---- life

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _start(self) -> None:
        first = self.servers[0]
        self._watch(first)
        first.start()
        for number in range(self._replicas):
            replica = self._make_replica(number, self.replicas_follow)
            self.servers.append(replica)
            self._watch(replica)
            replica.start()
        with redis_client(first.url) as client:
            wait_for(lambda: self._in_step(client.info("replication")), "replicas follow", 30)
        for sentinel in self.sentinels:
            self._watch(sentinel)
            sentinel.start()
        for sentinel in self.sentinels:
            with redis_client(f"redis://{HOST}:{sentinel.port}") as client:
                wait_for(lambda client=client: self._knows_all(client), "Sentinels know each other", 30)  # type: ignore[misc]

    def _in_step(self, info: dict[str, object]) -> bool:
        states = [str(info.get(f"slave{number}")) for number in range(self._replicas)]
        return all("'online'" in state for state in states)

    def _knows_all(self, client: redis.Redis) -> bool:
        raw = ask(client, "SENTINEL", "MASTER", SERVICE)
        state = raw if isinstance(raw, dict) else dict(zip(raw[::2], raw[1::2], strict=True))
        told = {_text(name): _text(value) for name, value in state.items()}
        return (int(told["num-slaves"]), int(told["num-other-sentinels"])) == (self._replicas, 2)

    def _watch(self, server: Valkey) -> None:
        server.guard = self._guard

    def _end(self) -> None:
        for server in [*self.sentinels, *self.servers]:
            server.resume()
            server.kill()


def ask(client: redis.Redis, *command: str | int) -> Any:
    """A command as an operator would type it."""
    return client.execute_command(*command)  # type: ignore[no-untyped-call]


def _text(raw: object) -> str:
    return raw.decode() if isinstance(raw, bytes) else str(raw)

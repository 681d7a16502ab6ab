"""A Redis Cluster on loopback for one test: three primaries, a replica for each; every server can be killed or paused.

with RedisCluster(tmp_path) as redis:
    redis.url                        # redis+cluster://…
    dead = redis.kill_primary_of(b"os:stream:orders:0")
    redis.wait_for_another(dead)
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.crc import key_slot

from openstream_ops import ports
from openstream_ops.guard import Guard
from openstream_ops.server_process import HOST
from openstream_ops.valkey import Valkey
from support.partitions import redis_client, wait_for
from support.sentinel import ask

PASSWORD = "only-for-these-tests"
PRIMARIES = 3
NODE_TIMEOUT_S = 1.0
SLOTS = 16_384


class RedisCluster:
    """Everything is made at once and started by `with`."""

    def __init__(self, directory: Path, *, guard: Guard | None = None) -> None:
        options = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(int(NODE_TIMEOUT_S * 1000)),
            "cluster-replica-validity-factor": "0",
            "masterauth": PASSWORD,
            "repl-diskless-sync-delay": "0",
            "save": '""',
        }
        self.servers: list[Valkey] = []
        for number in range(2 * PRIMARIES):
            port, bus = ports.pick(HOST), ports.pick(HOST)
            home = directory / f"node-{number}"
            (home / "logs").mkdir(parents=True)
            server = Valkey(home, port, PASSWORD, {**options, "cluster-port": str(bus)})
            server.guard = guard
            self.servers.append(server)

    # ---- what there is

    @property
    def url(self) -> str:
        return f"redis+cluster://:{PASSWORD}@" + ",".join(f"{HOST}:{one.port}" for one in self.servers[:PRIMARIES])

    def primary_of(self, key: bytes) -> Valkey:
        """Who serves this key, as most nodes that live see it."""
        slot, told = key_slot(key), list[int]()
        for server in self.servers:
            told += [port for port, first, last in self._slots(server) if first <= slot <= last]
        port = max(told, key=told.count)
        return next(one for one in self.servers if one.port == port)

    def primary_url(self, key: bytes) -> str:
        return self.primary_of(key).url

    def _slots(self, server: Valkey) -> list[tuple[int, int, int]]:
        """Port of the primary, first and last slot; nothing from a node that does not answer."""
        if server.pid is None:
            return []
        with redis_client(server.url) as client:
            try:
                ranges = ask(client, "CLUSTER SLOTS")
            except redis.RedisError:
                return []
        if isinstance(ranges, dict):  # as redis-py reads them
            return [(one["primary"][1], first, last) for (first, last), one in ranges.items()]
        return [(one[2][1], one[0], one[1]) for one in ranges]

    # ---- trouble

    def kill_primary_of(self, key: bytes) -> Valkey:
        """SIGKILL; which one it was."""
        dead = self.primary_of(key)
        dead.kill()
        return dead

    def wait_for_another(self, key: bytes, than: Valkey, within_s: float = 30.0) -> float:
        """Until another server has the slots and the cluster is whole again; how many seconds that took."""
        return wait_for(lambda: self.primary_of(key) is not than and self._is_whole(), "a new primary", within_s)

    def _is_whole(self) -> bool:
        return all(self._info(one)["cluster_state"] == "ok" for one in self.servers if one.pid is not None)

    def _info(self, server: Valkey) -> dict[str, str]:
        with redis_client(server.url) as client:
            raw = ask(client, "CLUSTER INFO")
        if isinstance(raw, dict):
            return raw
        return dict(line.split(":", 1) for line in raw.decode().split("\r\n") if ":" in line)

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
        with ThreadPoolExecutor(len(self.servers)) as threads:
            list(threads.map(lambda server: server.start(), self.servers))
        first, *others = self.servers
        bus = first.options["cluster-port"]
        for other in others:
            self._tell(other, "CLUSTER", "MEET", HOST, first.port, bus)
        each = -(-SLOTS // PRIMARIES)
        for number, server in enumerate(self.servers[:PRIMARIES]):
            end = min(SLOTS, (number + 1) * each) - 1
            self._tell(server, "CLUSTER", "ADDSLOTSRANGE", number * each, end)
        self._wait(lambda info: int(info["cluster_known_nodes"]) == len(self.servers), "all know each other")
        for number, server in enumerate(self.servers[:PRIMARIES]):
            self._tell(self.servers[PRIMARIES + number], "CLUSTER", "REPLICATE", self._tell(server, "CLUSTER", "MYID"))
        self._wait(lambda info: info["cluster_state"] == "ok" and info["cluster_size"] == "3", "the cluster is whole")
        for server in self.servers[:PRIMARIES]:
            wait_for(partial(self._is_followed, server), "every primary has a replica", 30)

    def _is_followed(self, server: Valkey) -> bool:
        with redis_client(server.url) as client:
            return "'online'" in str(client.info("replication").get("slave0"))

    def _wait(self, holds: Callable[[dict[str, str]], bool], what: str) -> None:
        wait_for(lambda: all(holds(self._info(server)) for server in self.servers), what, 30)

    def _tell(self, server: Valkey, *command: str | int | bytes) -> Any:
        with redis_client(server.url) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def _end(self) -> None:
        for server in self.servers:
            server.resume()
            server.kill()

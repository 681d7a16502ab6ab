"""A broker in memory that speaks as much of the contract as the load needs, with faults on demand and bugs on demand.

It stands in for a cluster when the harness itself is tested: several HTTP servers over one `Broker` are its nodes. Run
as a program (`--port P`) it is one node, for the tests of support.cluster.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from openstream_runtime.domain.partitioning import partition_of
from support.dumps import PgDump, RedisDump, Row
from support.history import Id, parse_id, seen

ROUTE = re.compile(r"/v1/topics/([^/]+)(?:/(events|groups)(?:/([^/]+)/(read|ack|claim))?)?")


class Event(msgspec.Struct):
    partition_key: str
    payload: msgspec.Raw


class Produce(msgspec.Struct):
    events: list[Event]


@dataclass
class Faults:
    """How often what goes wrong, as probabilities of a request."""

    #: 429 with a Retry-After.
    refuse: float = 0.0
    #: 503 that says not_stored.
    unavailable: float = 0.0
    #: 503 that says unknown, with and without having stored.
    unknown: float = 0.0
    #: The connection is closed without an answer, before and after the work was done.
    drop: float = 0.0
    #: Only some partitions of a request are stored.
    partly: float = 0.0
    #: And bugs. Every so manieth batch is stored twice, or not at all in spite of its 200.
    double_every: int = 0
    forget_every: int = 0


@dataclass
class Pending:
    consumer: str
    since: float
    deliveries: int


@dataclass
class Group:
    """Of one partition."""

    last: Id = (0, 0)
    pending: dict[Id, Pending] = field(default_factory=dict)


class Broker:
    """One topic is enough."""

    def __init__(
        self, partitions: int = 4, faults: Faults | None = None, seed: int = 1, claim_idle_s: float = 0.5
    ) -> None:
        self.faults = faults or Faults()
        self.chance = random.Random(seed)
        self.claim_idle_s = claim_idle_s
        self.lock = threading.Condition()
        self.partitions = partitions
        self.logs: list[dict[Id, tuple[str, bytes]]] = [{} for _ in range(partitions)]
        self.groups: dict[str, list[Group]] = {}
        self.requests = 0

    def happens(self, probability: float) -> bool:
        return self.chance.random() < probability

    def append(self, partition: int, key: str, payload: bytes) -> Id:
        log = self.logs[partition]
        last = next(reversed(log), (0, 0))
        ms = max(time.time_ns() // 1_000_000, last[0])
        at = (ms, last[1] + 1 if ms == last[0] else 0)
        log[at] = (key, payload)
        return at

    def produce(self, body: bytes) -> tuple[int, dict[str, Any]]:
        events = msgspec.json.decode(body, type=Produce).events
        with self.lock:
            self.requests += 1
            partly = self.happens(self.faults.partly)
            results: list[dict[str, Any]] = []
            for event in events:
                partition = partition_of(event.partition_key, self.partitions)
                if partly and partition % 2:
                    results.append({"status": "not_stored", "partition": partition})
                    continue
                copies = 1
                if self.faults.double_every and self.requests % self.faults.double_every == 0:
                    copies = 2
                if self.faults.forget_every and self.requests % self.faults.forget_every == 0:
                    copies = 0
                at = (1, self.requests)
                for _ in range(copies):
                    at = self.append(partition, event.partition_key, bytes(event.payload))
                results.append({"status": "appended", "partition": partition, "redis_id": f"{at[0]}-{at[1]}"})
            self.lock.notify_all()
        if partly and any("redis_id" not in result for result in results):
            return 503, {"results": results, "retry_after_ms": 20}
        return 200, {"results": results}

    def read(self, group: str, consumer: str, count: int, block_s: float) -> list[dict[str, Any]]:
        deadline = time.monotonic() + block_s
        with self.lock:
            while True:
                found = self._hand_out(group, consumer, count)
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return found
                self.lock.wait(min(left, 0.1))

    def _hand_out(self, group: str, consumer: str, count: int) -> list[dict[str, Any]]:
        now = time.monotonic()
        found: list[dict[str, Any]] = []
        for partition, state in enumerate(self.groups[group]):
            log = self.logs[partition]
            idle = [at for at, one in state.pending.items() if now - one.since > self.claim_idle_s]
            fresh = [at for at in log if at > state.last]
            for at in [*sorted(idle), *fresh][: count - len(found)]:
                before = state.pending.get(at)
                state.pending[at] = Pending(consumer, now, 1 if before is None else before.deliveries + 1)
                state.last = max(state.last, at)
                key, payload = log[at]
                found.append(
                    {
                        "partition": partition,
                        "redis_id": f"{at[0]}-{at[1]}",
                        "event_type": "load",
                        "partition_key": key,
                        "payload": msgspec.Raw(payload),
                        "deliveries": state.pending[at].deliveries,
                    }
                )
        return found

    def ack(self, group: str, items: list[dict[str, Any]]) -> int:
        with self.lock:
            states = self.groups[group]
            return sum(
                states[item["partition"]].pending.pop(parse_id(text), None) is not None
                for item in items
                for text in item["redis_ids"]
            )

    def dumps(self, keep: int = 10) -> tuple[RedisDump, PgDump]:
        """PostgreSQL has all, Redis the last `keep` of each partition."""
        copies = {
            partition: [seen(partition, at, key, payload) for at, (key, payload) in log.items()]
            for partition, log in enumerate(self.logs)
        }
        return (
            {partition: found[-keep:] for partition, found in copies.items()},
            {partition: [Row(0, one) for one in found] for partition, found in copies.items()},
        )

    @contextmanager
    def serving(self, nodes: int = 2) -> Iterator[list[str]]:
        """The base URLs of so many nodes."""
        servers = [_Server(("127.0.0.1", 0), self) for _ in range(nodes)]
        threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
        for thread in threads:
            thread.start()
        try:
            yield [f"http://127.0.0.1:{server.server_port}" for server in servers]
        finally:
            for server in servers:
                server.closed = True  # connections that are kept alive get no answer any more
                server.shutdown()
                server.server_close()
            for thread in threads:
                thread.join(timeout=5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    closed = False

    def __init__(self, address: tuple[str, int], broker: Broker) -> None:
        self.broker = broker
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer(200 if self.path in ("/readyz", "/livez") else 404, {"pid": os.getpid()})

    def do_PUT(self) -> None:
        self._body()
        self._answer(200 if ROUTE.fullmatch(self.path) else 404, {})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/v1/auth/token":
            known = json.loads(body)["admin_secret"] == os.environ.get("AUTH_ADMIN_SECRET")
            return self._answer(200 if known else 403, {"token": "t"} if known else {})
        if self.server.closed:
            self.close_connection = True
            return None
        route = ROUTE.fullmatch(self.path)
        if route is None:
            return self._answer(404, {})
        broker, faults = self.server.broker, self.server.broker.faults
        with broker.lock:
            refused = broker.happens(faults.refuse)
            unavailable = broker.happens(faults.unavailable)
            unknown, dropped = broker.happens(faults.unknown), broker.happens(faults.drop)
            done = broker.happens(0.5)
        if route[2] == "groups" and route[4] is None:
            broker.groups.setdefault(json.loads(body)["group"], [Group() for _ in range(broker.partitions)])
            return self._answer(201, {})
        if refused:
            return self._answer(429, {"retry_after_ms": 20}, {"Retry-After": "1"})
        if unavailable:
            return self._answer(503, {"outcome": "not_stored", "retry_after_ms": 20})
        status, answer = self._work(route, body) if done or not (unknown or dropped) else (200, {})
        if dropped:
            self.close_connection = True
            return None
        return self._answer(503, {"outcome": "unknown"}) if unknown else self._answer(status, answer)

    def _work(self, route: re.Match[str], body: bytes) -> tuple[int, dict[str, Any]]:
        broker = self.server.broker
        if route[2] == "events":
            return broker.produce(body)
        wish = json.loads(body)
        if route[4] == "ack":
            return 200, {"acked": broker.ack(route[3], wish["items"])}
        found = broker.read(route[3], wish["consumer"], wish["count"], wish.get("block_ms", 0) / 1_000)
        return 200, {"events": found, "claimed": len(found)}

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        content = msgspec.json.encode(body)
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    """One node on `--port`. FAKE_NODE: `dies` before it is ready, `stubborn` about SIGTERM, `crashes` at it."""
    behaviour = os.environ.get("FAKE_NODE", "")
    print(f"a fake node says hello, REDIS_URL={os.environ.get('REDIS_URL')}", flush=True)
    if behaviour == "dies":
        print("the last words", flush=True)
        sys.exit(3)
    server = _Server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Broker())

    def on_term(*_: object) -> None:
        if behaviour != "stubborn":
            os._exit(4 if behaviour == "crashes" else 0)

    signal.signal(signal.SIGTERM, on_term)
    server.serve_forever()


if __name__ == "__main__":
    main()

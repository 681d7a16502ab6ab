"""A node that does what a test tells it, on a real port: faults that no real node has on demand."""

from __future__ import annotations

import http.server
import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

#: Instead of an answer to a produce request: a problem; `lost` (kept, and the connection breaks); `refused lines`.
Fault = tuple[int, str, dict[str, Any]] | str
Stamp = tuple[str | None, ...]


class ScriptedNode:
    """Keeps what is produced, in order."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.faults: deque[Fault] = deque()
        #: Of each producer its last request, epoch and number first, and the answer. A test may clear it.
        self.producers: dict[str, tuple[str | None, str | None, list[dict[str, Any]], tuple[int, dict[str, Any]]]] = {}
        #: A produce request waits for this; a test clears it to hold one on its way.
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Event()
        self.tokens: list[str | None] = []
        self.url = ""

    def produce(self, events: list[dict[str, Any]], stamp: Stamp) -> tuple[int, dict[str, Any]] | None:
        """`stamp`: what the three headers say. Of each producer only the last request is known again."""
        self.arrived.set()
        self.open.wait(30)
        fault = self.faults.popleft() if self.faults else None
        producer, epoch, seq = stamp
        known = self.producers.get(producer or "")
        if producer is not None and not isinstance(fault, tuple):
            if known is None and seq != "0":
                return self.problem(409, "unknown-producer")
            if known is not None and known[:2] == (epoch, seq):
                return known[3] if known[2] == events else self.problem(409, "sequence-reused")
        if isinstance(fault, tuple):
            return self.problem(*fault)
        first = len(self.kept)
        results = [{"partition": 0, "redis_id": f"{first + place}-0"} for place in range(len(events))]
        answer = 200, {"topic": "orders", "partitions": 1, "results": results}
        if producer is not None:
            self.producers[producer] = epoch, seq, events, answer
        self.kept += events  # last, for a test that sees them may make us forget the producer
        return None if fault == "lost" else answer

    @staticmethod
    def problem(status: int, slug: str, facts: Mapping[str, Any] = {}) -> tuple[int, dict[str, Any]]:
        return status, {"type": f"/problems/{slug}", "detail": f"it is {slug}", "status": status, **facts}


@contextmanager
def serving(node: ScriptedNode) -> Iterator[ScriptedNode]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            node.tokens.append(self.headers.get("Authorization"))
            stamp = tuple(self.headers.get(f"Producer-{name}") for name in ("Id", "Epoch", "Seq"))
            answer = node.produce(body["events"], stamp)
            if answer is None:
                self.close_connection = True
                self.connection.close()
                return
            self.answer(*answer)

        def do_GET(self) -> None:
            node.tokens.append(self.headers.get("Authorization"))
            if self.headers.get("Authorization") != "Bearer good":
                self.answer(401, {"type": "/problems/unauthenticated", "detail": "no or bad token"})
            else:
                self.answer(404, {"type": "/problems/not-found", "detail": "there is nothing"})

        def answer(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if status == 200 else "application/problem+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, ValueError):
                self.close_connection = True  # a client that was killed, or a connection we broke ourselves

        def finish(self) -> None:
            try:
                super().finish()
            except (ConnectionError, ValueError):
                self.close_connection = True

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        node.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield node
        finally:
            node.open.set()
            server.shutdown()
            thread.join(10)

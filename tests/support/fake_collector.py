"""A collector that speaks real OTLP over HTTP: it decodes what comes with the protocol's own messages and keeps it."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True, slots=True)
class Span:
    """As it came. Ids are hex, as in a `traceparent`."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: list[tuple[str, str]]
    attributes: dict[str, Any]
    failed: bool
    began_ns: int
    ended_ns: int

    def is_linked_to(self, other: Span) -> bool:
        return (other.trace_id, other.span_id) in self.links


@dataclass(frozen=True, slots=True)
class LogLine:
    body: str
    severity: str
    logger: str
    trace_id: str
    span_id: str
    attributes: dict[str, Any]


class FakeCollector:
    """Listens at `url` until its block is left."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.logs: list[LogLine] = []
        self.resource: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        #: Everything that came, as it came: for what must be nowhere in it.
        self.bytes = b""
        #: What it answers.
        self.status = 200
        self._lock = threading.Lock()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if collector.status == 200:
                    collector._take(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> FakeCollector:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def named(self, name: str) -> list[Span]:
        with self._lock:
            return [span for span in self.spans if span.name == name]

    def wait_for(self, condition: Callable[[], object], *, within: float = 20.0) -> None:
        """Until it holds; what came so far is told when it does not."""
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"it did not come within {within} s; what did:\n{self.picture()}")
            time.sleep(0.02)

    def picture(self) -> str:
        """Every trace as a tree, with links. Ids are cut to eight places."""
        with self._lock:
            spans = sorted(self.spans, key=lambda span: span.began_ns)
        lines: list[str] = []

        def draw(span: Span, depth: int) -> None:
            about = {name.rpartition(".")[2]: value for name, value in span.attributes.items() if name in _SHOWN}
            took = (span.ended_ns - span.began_ns) / 1e6
            lines.append(f"  {'   ' * depth}{span.kind.lower()} `{span.name}` {span.span_id[:8]} {took:.1f} ms {about}")
            lines.extend(f"  {'   ' * depth}  ↪ links to {t[:8]}/{s[:8]}" for t, s in span.links)
            for child in spans:
                if (child.trace_id, child.parent_id) == (span.trace_id, span.span_id):
                    draw(child, depth + 1)

        known = {(span.trace_id, span.span_id) for span in spans}
        for trace_id in dict.fromkeys(span.trace_id for span in spans):
            lines.append(f"trace {trace_id[:8]}")
            for span in spans:
                if span.trace_id == trace_id and (trace_id, span.parent_id) not in known:
                    if span.parent_id:
                        lines.append(f"  (client's span {span.parent_id[:8]})")
                    draw(span, 1 if span.parent_id else 0)
        return "\n".join(lines)

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        with self._lock:
            self.bytes += body
            self.headers = headers
            if path == "/v1/traces":
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    self.resource = {one.key: _value(one.value) for one in resource.resource.attributes}
                    self.spans += [_span(one) for scope in resource.scope_spans for one in scope.spans]
            elif path == "/v1/logs":
                for logs in ExportLogsServiceRequest.FromString(body).resource_logs:
                    for scope in logs.scope_logs:
                        self.logs += [_line(scope.scope.name, one) for one in scope.log_records]
            else:
                raise AssertionError(f"nothing is exported to {path}")


_SHOWN = (
    "messaging.operation.type",
    "messaging.destination.partition.id",
    "messaging.consumer.group.name",
    "messaging.batch.message_count",
)


def _span(message: SpanMessage) -> Span:
    return Span(
        name=message.name,
        kind=SpanMessage.SpanKind.Name(message.kind).removeprefix("SPAN_KIND_"),
        trace_id=message.trace_id.hex(),
        span_id=message.span_id.hex(),
        parent_id=message.parent_span_id.hex(),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in message.links],
        attributes={one.key: _value(one.value) for one in message.attributes},
        failed=message.status.code == Status.STATUS_CODE_ERROR,
        began_ns=message.start_time_unix_nano,
        ended_ns=message.end_time_unix_nano,
    )


def _line(logger: str, message: Any) -> LogLine:
    return LogLine(
        body=message.body.string_value,
        severity=message.severity_text,
        logger=logger,
        trace_id=message.trace_id.hex(),
        span_id=message.span_id.hex(),
        attributes={one.key: _value(one.value) for one in message.attributes},
    )


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    if kind == "kvlist_value":
        return {one.key: _value(one.value) for one in value.kvlist_value.values}
    return None if kind is None else getattr(value, kind)


@contextmanager
def black_hole() -> Iterator[str]:
    """A URL where everybody is let in and nobody is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"

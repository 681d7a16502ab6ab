"""The guard: what is refused before any route runs, what is put on every answer, and what is counted.

A plain ASGI middleware. Hypercorn lets through what makes two servers disagree about where a request ends (both
lengths at once), other versions of HTTP, and any size of headers; none of it comes further than here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any

from anyio import Event, create_task_group, move_on_after

from openstream_http.access import ROUTE
from openstream_http.connection import LINGER
from openstream_http.problems import (
    BUSY,
    HEADERS_TOO_LARGE,
    HTTP_VERSION,
    MALFORMED,
    TARGET_TOO_LONG,
    UPGRADE_REFUSED,
    Problem,
)
from openstream_runtime.domain.tracing import TRACEPARENT, TRACESTATE, TraceContext, parse
from openstream_runtime.ports.tracing import NO_TRACER, Span, Tracer

MAX_PATH_BYTES = 1_024
#: A key of 1,024 bytes in percent encoding, and what else a query says.
MAX_QUERY_BYTES = 4_096
#: Names, values and about what separates them, as RFC 7541 counts.
MAX_HEADER_BYTES = 16_384
_HEADER_OVERHEAD = 4
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
#: A node that is full is not a node that is dead: these are answered whatever the load.
_ALWAYS = frozenset({"/livez", "/healthz", "/readyz", "/metrics", "/metrics/"})
#: Every open dashboard asks for these each second, or for hours: as spans they would bury the rest.
_UNTRACED = frozenset({"/v1/metrics/summary", "/v1/cluster", "/v1/live"})
_TAIL = "/tail"
#: The status that is counted when the client left before there was one.
_CLIENT_GONE = 499
_SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_CSP = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'")
_NO_STORE = (b"cache-control", b"no-store")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]
#: method, route template, status, seconds.
Observe = Callable[[str, str, int, float], None]


class Guard:
    """Around the whole app."""

    def __init__(self, app: App, *, max_requests: int, observe: Observe | None, tracer: Tracer = NO_TRACER) -> None:
        self._app = app
        self._tracer = tracer
        self._max_requests = max_requests
        self._observe = observe
        #: Requests that have begun and not ended.
        self.in_flight = 0
        #: The server is about to stop: every answer ends its connection.
        self.ending = False

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _refuse_websocket(scope, receive, send)
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._tracer.enabled and _is_traced(scope["path"]):
            method = scope["method"] if scope["method"] in _METHODS else "_OTHER"  # as the conventions spell it
            with self._tracer.serve(method, _client_of(scope["headers"])) as span:
                await self._http(scope, receive, send, span)
        else:
            await self._http(scope, receive, send, None)

    async def _http(self, scope: Any, receive: Receive, send: Send, span: Span | None) -> None:
        began = perf_counter()
        answer = _Answer(send, scope["path"], self, span)
        problem = fault(scope)
        if problem is None and self.in_flight >= self._max_requests and scope["path"] not in _ALWAYS:
            problem = Problem(BUSY)
        self.in_flight += 1
        try:
            if problem is None:
                await self._app(scope, receive, answer)
            else:
                await _refuse(problem, receive, answer)
        finally:
            self.in_flight -= 1
            route = scope.get(ROUTE, "unmatched")  # a path of the client's own making is no label
            if span is not None:
                span.answered(route, answer.status or _CLIENT_GONE)
            if self._observe is not None:
                method = scope["method"] if scope["method"] in _METHODS else "OTHER"
                self._observe(method, route, answer.status or _CLIENT_GONE, perf_counter() - began)


class _Answer:
    """`send`, with the headers that every answer carries."""

    def __init__(self, send: Send, path: str, guard: Guard, span: Span | None) -> None:
        self._send = send
        self._path = path
        self._guard = guard
        self._span = span
        self.status: int | None = None

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message["headers"])
            names = {name.lower() for name, _ in headers}
            headers.extend(_SECURITY)
            if _CSP[0] not in names:
                headers.append(_CSP)
            if _NO_STORE[0] not in names and self._path.startswith("/v1/"):
                headers.append(_NO_STORE)
            if self._guard.ending and b"connection" not in names:
                headers.append((b"connection", b"close"))
            if self._span is not None and (context := self._span.context) is not None:
                headers.append((b"traceresponse", context.header.encode()))
            message = {**message, "headers": headers}
        await self._send(message)


def fault(scope: Any) -> Problem | None:
    """What is wrong with the message itself, before it means anything."""
    headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
    names = {name.lower() for name, _ in headers}
    if b"transfer-encoding" in names:
        codings = [value.strip().lower() for name, value in headers if name.lower() == b"transfer-encoding"]
        if b"content-length" in names:
            return _closing(MALFORMED, "Content-Length and Transfer-Encoding exclude each other")
        if codings != [b"chunked"]:
            return _closing(MALFORMED, "the only Transfer-Encoding taken is chunked")
    # Also h2c, which listener.py lets come this far.
    if b"upgrade" in names or b"http2-settings" in names:
        return _closing(UPGRADE_REFUSED)
    if scope.get("http_version", "1.1") not in {"1.0", "1.1"} and scope.get("scheme") != "https":
        return _closing(HTTP_VERSION)
    if not raw_path.startswith(b"/") and not (raw_path == b"*" and scope["method"] == "OPTIONS"):
        return _closing(MALFORMED, "the request target must be a path")
    if len(raw_path) > MAX_PATH_BYTES:
        return _closing(TARGET_TOO_LONG, f"the path has more than {MAX_PATH_BYTES} bytes")
    if len(scope["query_string"]) > MAX_QUERY_BYTES:
        return _closing(TARGET_TOO_LONG, f"the query has more than {MAX_QUERY_BYTES} bytes")
    if sum(len(name) + len(value) + _HEADER_OVERHEAD for name, value in headers) > MAX_HEADER_BYTES:
        return _closing(HEADERS_TOO_LARGE, f"the headers have more than {MAX_HEADER_BYTES} bytes")
    return None


def _is_traced(path: str) -> bool:
    return path.startswith("/v1/") and path not in _UNTRACED and not path.endswith(_TAIL)


def _client_of(headers: Sequence[tuple[bytes, bytes]]) -> TraceContext | None:
    """The span in which the client sends this; None when it names none, or more than one."""
    said: dict[str, list[str]] = {TRACEPARENT: [], TRACESTATE: []}
    for name, value in headers:
        if (known := said.get(name.decode("latin-1").lower())) is not None:
            known.append(value.decode("latin-1"))
    parents = said[TRACEPARENT]
    return parse(parents[0], ",".join(said[TRACESTATE])) if len(parents) == 1 else None


def _closing(kind: Any, detail: str | None = None) -> Problem:
    """A problem after which the connection's framing is not to be trusted."""
    return Problem(kind, detail, headers=[("connection", "close")])


async def _refuse(problem: Problem, receive: Receive, send: Send) -> None:
    """Answer, and take what the client is still sending: Hypercorn cannot close while its queue to us is full."""
    status, headers, body = problem.render()
    raw = [(name.encode(), value.encode()) for name, value in headers]
    raw.append((b"content-length", str(len(body)).encode()))
    ended = Event()

    async def drain() -> None:
        while True:
            message = await receive()
            if message["type"] != "http.request" or not message.get("more_body", False):
                ended.set()
                return

    async with create_task_group() as group:
        group.start_soon(drain)
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        with move_on_after(LINGER):
            await ended.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        with move_on_after(LINGER):  # the closing itself ends the body
            await ended.wait()
        group.cancel_scope.cancel()


async def _refuse_websocket(scope: Any, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    status, headers, body = Problem(UPGRADE_REFUSED).render()
    raw = [(name.encode(), value.encode()) for name, value in headers]
    raw += [(b"content-length", str(len(body)).encode()), *_SECURITY]
    await send({"type": "websocket.http.response.start", "status": status, "headers": raw})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})

"""The app: routes, what stands around them, and one way in which anything can go wrong."""

from __future__ import annotations

import secrets
import time
from typing import Any

import structlog
from quart import Quart, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from openstream_http import access, cors
from openstream_http.access import ROUTE
from openstream_http.asyncapi import asyncapi
from openstream_http.auth import Verifier
from openstream_http.connection import BoundedRequest, Connection, notes
from openstream_http.dashboard import dashboard
from openstream_http.dead_letters import dead_letters
from openstream_http.docs import docs
from openstream_http.edge import Edge
from openstream_http.group_settings import group_settings
from openstream_http.groups import groups
from openstream_http.guard import Guard
from openstream_http.history import history
from openstream_http.holding import holding
from openstream_http.live import live
from openstream_http.problems import BY_STATUS, INTERNAL, MALFORMED, Kind, Problem, of_error
from openstream_http.produce import produce
from openstream_http.rendering import problem_response
from openstream_http.replays import replays
from openstream_http.tokens import tokens
from openstream_http.topics import topics
from openstream_http.watching import watching
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.gateway.gateway import Gateway
from openstream_runtime.ports.meter import Clock, Meter
from openstream_runtime.ports.tracing import NO_TRACER, Tracer
from openstream_runtime.settings import Settings

#: Seconds to hand an answer to the server: a reader slower than this gets the rest never.
RESPONSE_TIMEOUT = 60
BODY_TIMEOUT = 10.0
_BLUEPRINTS = (
    tokens, topics, produce, groups, group_settings, holding, dead_letters, history, replays,
    watching, asyncapi, live, dashboard, docs,
)  # fmt: skip

log = structlog.get_logger(__name__)


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


def create_app(
    gateway: Gateway,
    settings: Settings,
    *,
    meter: Meter | None = None,
    clock: Clock | None = None,
    body_timeout: float = BODY_TIMEOUT,
    tracer: Tracer = NO_TRACER,
) -> Quart:
    """The edge of one node. `body_timeout`: seconds of silence before a body is given up.

    RuntimeError when a route declares no permission.
    """
    app = Quart(__name__, static_folder=None)
    app.config["RESPONSE_TIMEOUT"] = RESPONSE_TIMEOUT
    app.config["MAX_CONTENT_LENGTH"] = None  # counted while reading (bodies.py): NDJSON has no limit as a whole
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.asgi_http_class = Connection
    app.request_class = BoundedRequest
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # a redirect is no answer to a program
    clock = clock or SystemClock()
    verifier = Verifier(settings, lambda: clock.now_ms() / 1000)
    Edge(app, gateway, settings, verifier, clock, body_timeout, meter).attach()
    cors.install(app, settings.cors_allow_origins)
    access.install(app)
    for blueprint in _BLUEPRINTS:
        app.register_blueprint(blueprint)
    app.register_error_handler(Problem, _on_problem)
    app.register_error_handler(OpenStreamError, _on_domain_error)
    app.register_error_handler(HTTPException, _on_http_exception)
    app.register_error_handler(Exception, _on_bug)
    access.check_declared(app)
    guard = Guard(
        app.asgi_app,
        max_requests=settings.max_requests,
        observe=meter.http_request if meter else None,
        tracer=tracer,
    )
    app.asgi_app = guard  # type: ignore[method-assign]
    app.extensions["guard"] = guard
    return app


async def _on_problem(problem: Problem) -> Response:
    return problem_response(problem)


async def _on_domain_error(error: OpenStreamError) -> Response:
    problem = of_error(error)
    return await _on_bug(error) if problem is None else problem_response(problem)


async def _on_http_exception(error: HTTPException) -> Response:
    """What the router and the framework raise: no such route, no such method."""
    if isinstance(error, RequestRedirect):  # pragma: no cover - both ways to redirect are off
        raise error
    status = error.code or 500
    if status >= 500:
        return await _on_bug(error)
    kind = BY_STATUS.get(status) or Kind(MALFORMED.slug, status, error.name, error.name)
    response = problem_response(Problem(kind))
    valid_methods: Any = getattr(error, "valid_methods", None)
    if valid_methods:
        response.headers["Allow"] = ", ".join(sorted(valid_methods))
    return response


async def _on_bug(error: Exception) -> Response:
    """Our fault: the story goes to the log, an id to the client. The request's own words go nowhere."""
    error_id = secrets.token_hex(8)
    route = notes(request).get(ROUTE, "unmatched")
    log.error("request failed", error_id=error_id, method=request.method, route=route, exc_info=error)
    return problem_response(Problem(INTERNAL, error_id=error_id))

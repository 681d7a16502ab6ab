"""CORS for the exact origins of CORS_ALLOW_ORIGINS. Nothing is reflected, no credentials but the bearer token."""

from __future__ import annotations

from quart import Quart, Response, request

_METHODS = "GET, POST, PUT, DELETE, OPTIONS"
_HEADERS = "Authorization, Content-Type, Producer-Id, Producer-Epoch, Producer-Seq"
_EXPOSED = "Link, Location, Retry-After, WWW-Authenticate"
_MAX_AGE_S = "600"


def install(app: Quart, origins: tuple[str, ...]) -> None:
    """Answer preflights, and say on every answer whether the browser's page may read it."""
    if not origins:
        return
    allowed = frozenset(origins)

    async def preflight() -> Response | None:
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
            return None
        response = Response(status=204)
        if request.headers.get("Origin") in allowed:
            response.headers["Access-Control-Allow-Methods"] = _METHODS
            response.headers["Access-Control-Allow-Headers"] = _HEADERS
            response.headers["Access-Control-Max-Age"] = _MAX_AGE_S
        return response

    async def allow(response: Response) -> Response:
        response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin in allowed:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        return response

    app.before_request(preflight)
    app.after_request(allow)

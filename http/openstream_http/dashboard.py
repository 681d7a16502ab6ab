"""The dashboard: files that `ui/` was built into, served as they are, and what the page must know of this node.

A checkout without them (no Node.js, `make ui` not run) still serves the API; the front page then says how to build it.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

from quart import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from openstream_http.access import public
from openstream_http.docs import CSP, page, version
from openstream_http.edge import edge
from openstream_http.rendering import json_response

_HTML = "text/html; charset=utf-8"
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: What the build calls its files.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)
_FOR_EVER = "public, max-age=31536000, immutable"
_NOT_BUILT = """<main>
<h1>OpenStream</h1>
<p>Event streaming over HTTP: ordered partitions on Redis Streams, remembered by PostgreSQL.</p>
<p>The dashboard is not built here. With Node.js 20 or newer: <code>make ui</code>, then load this page again.
Everything else works without it.</p>
<ul>
<li><a href="/docs">API, to try out</a> (<a href="/openapi.json">openapi.json</a>)</li>
<li><a href="/metrics">Metrics</a> for Prometheus</li>
<li><a href="/readyz?verbose">Is this node ready?</a></li>
<li><a href="/problems">Problems and what they mean</a></li>
</ul>
</main>"""

dashboard = Blueprint("dashboard", __name__)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, as it is and compressed."""

    content_type: str
    plain: bytes
    packed: bytes
    etag: str


def built() -> Traversable:
    """Where the build puts its files; absent before it has run."""
    return files(__package__).joinpath("static", "ui")


@dashboard.get("/")
@public
async def front() -> Response:
    """The page itself is never cached unasked, so that a new build is seen at once."""
    index = built().joinpath("index.html")
    if not index.is_file():
        return page("OpenStream", _NOT_BUILT)
    body = index.read_bytes()
    response = Response(body, content_type=_HTML, headers={"Content-Security-Policy": CSP, "Cache-Control": "no-cache"})
    response.set_etag(_digest(body))
    await response.make_conditional(request)
    return response


@dashboard.get("/ui/assets/<name>")
@public
async def asset(name: str) -> Response:
    """A file whose name changes with what is in it."""
    found = _asset(name)
    if found is None:
        raise NotFound
    packed = request.accept_encodings.quality("gzip") > 0
    response = Response(found.packed if packed else found.plain, content_type=found.content_type)
    response.headers["Cache-Control"] = _FOR_EVER
    response.headers["Vary"] = "Accept-Encoding"
    if packed:
        response.headers["Content-Encoding"] = "gzip"
    response.set_etag(found.etag, weak=True)
    await response.make_conditional(request)
    return response


@dashboard.get("/ui/config.json")
@public
async def config() -> Response:
    """What the page needs before anybody has signed in; nothing secret."""
    settings = edge().settings
    return json_response(
        {
            "version": version(),
            "node": settings.node_id,
            "grafana_url": settings.grafana_url,
            "prometheus_url": settings.prometheus_url,
            "can_mint": settings.auth_admin_secret is not None,
            "max_body_bytes": settings.max_body_bytes,
        },
        headers={"Cache-Control": "no-store"},
    )


def _asset(name: str) -> Asset | None:
    suffix = name[name.rfind(".") :] if "." in name else ""
    # Before the file system hears of it: it has bounds of its own for names, and errors for what is beyond them.
    if suffix not in _TYPES or _NAME.fullmatch(name) is None or not built().joinpath("assets", name).is_file():
        return None
    return _load(name, _TYPES[suffix])


@cache
def _load(name: str, content_type: str) -> Asset:
    """Read once: a name stands for one content, for ever."""
    body = built().joinpath("assets", name).read_bytes()
    return Asset(content_type, body, gzip.compress(body, 9, mtime=0), _digest(body))


def _digest(body: bytes) -> str:
    return sha256(body).hexdigest()[:32]

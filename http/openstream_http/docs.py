"""What a person reads in a browser: the API's description, Swagger UI from our own files, problems."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from html import escape
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from importlib.resources import files

import msgspec
from quart import Blueprint, Response, current_app, request
from werkzeug.exceptions import NotFound

from openstream_http.access import public
from openstream_http.edge import edge
from openstream_http.negotiation import JSON
from openstream_http.openapi import describe
from openstream_http.problems import KINDS

#: Swagger UI sets styles from script (allowed) and draws its icons as data: images.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "init.js": "text/javascript; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
}
_HTML = "text/html; charset=utf-8"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="/docs/assets/page.css">
{head}</head>
<body>
{body}
</body>
</html>
"""
_SWAGGER_HEAD = """<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<script src="/docs/assets/swagger-ui-bundle.js" defer></script>
<script src="/docs/assets/init.js" defer></script>
"""
docs = Blueprint("docs", __name__)


@docs.get("/docs")
@public
async def swagger() -> Response:
    return page("OpenStream API", '<div id="swagger-ui"></div>', _SWAGGER_HEAD)


@docs.get("/docs/assets/<name>")
@public
async def asset(name: str) -> Response:
    if name not in _ASSETS:
        raise NotFound
    body, etag = _asset(name)
    response = Response(body, content_type=_ASSETS[name])
    response.set_etag(etag)
    response.headers["Cache-Control"] = "public, max-age=3600"
    await response.make_conditional(request)
    return response


@docs.get("/openapi.json")
@public
async def openapi() -> Response:
    extensions = current_app.extensions
    if "openapi" not in extensions:  # the routes do not change while a node runs
        extensions["openapi"] = msgspec.json.encode(describe(edge().app, version()))
    return Response(extensions["openapi"], content_type=JSON)


@docs.get("/problems")
@public
async def problem_list() -> Response:
    items = "".join(
        f'<li><a href="/problems/{kind.slug}">{kind.slug}</a> ({kind.status})</li>\n' for kind in KINDS.values()
    )
    return page("Problems", f"<main>\n<h1>Problems</h1>\n<ul>\n{items}</ul>\n</main>")


@docs.get("/problems/<slug>")
@public
async def problem(slug: str) -> Response:
    kind = KINDS.get(slug)
    if kind is None:
        raise NotFound
    body = (
        f"<main>\n<h1>{escape(kind.title)}</h1>\n<p>{escape(kind.about)}</p>\n<p>Status {kind.status}, "
        f'<code>"type": "/problems/{kind.slug}"</code></p>\n<p><a href="/problems">All problems</a></p>\n</main>'
    )
    return page(kind.title, body)


def page(title: str, body: str, head: str = "") -> Response:
    """A plain page of ours; `body` and `head` are HTML."""
    page = _PAGE.format(title=escape(title), body=body, head=head)
    return Response(page, content_type=_HTML, headers={"Content-Security-Policy": CSP})


@cache
def _asset(name: str) -> tuple[bytes, str]:
    body = files(__package__).joinpath("static", "swagger", name).read_bytes()
    return body, sha256(body).hexdigest()[:32]


def version() -> str:
    """Of what runs here."""
    try:
        return version_of("openstream-runtime")
    except PackageNotFoundError:  # run from a plain checkout
        return "0"

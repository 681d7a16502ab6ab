"""POST /v1/auth/token: a token for whoever knows the admin secret."""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest

from quart import Blueprint, Response
from werkzeug.exceptions import NotFound

from openstream_http import schemas, token_schemas
from openstream_http.access import public
from openstream_http.auth import MAX_TOKEN_CHARS
from openstream_http.bodies import read_json
from openstream_http.edge import edge
from openstream_http.openapi import describes
from openstream_http.problems import TOO_MANY_ATTEMPTS, WRONG_SECRET, Problem, invalid
from openstream_http.rendering import json_response

tokens = Blueprint("tokens", __name__)
_REQUEST = schemas.decoder_of(token_schemas.TokenRequest)


@tokens.post("/v1/auth/token")
@public
@describes("tokens", request=token_schemas.TokenRequest, responses={200: token_schemas.Token}, problems=(403, 404, 429))
async def mint() -> Response:
    """Mint a token.

    Off (404) unless AUTH_ADMIN_SECRET is set. Wrong secrets are slowed down for all callers together.
    """
    secret = edge().settings.auth_admin_secret
    if secret is None or not secret.get_secret_value():
        raise NotFound
    asked = await read_json(_REQUEST)
    if wait_ms := edge().patience.wait_ms(edge().clock.monotonic()):
        raise Problem(TOO_MANY_ATTEMPTS, retry_after_ms=wait_ms)
    if not _same(asked.admin_secret, secret.get_secret_value()):
        edge().patience.failed()
        raise Problem(WRONG_SECRET)
    if not asked.sub.isprintable():
        raise invalid("expected printable characters", "sub")
    token = edge().verifier.mint(asked.sub, asked.role, asked.ttl_s, asked.topics)
    if len(token) > MAX_TOKEN_CHARS:
        raise invalid(f"make a token of more than {MAX_TOKEN_CHARS} characters, which no node takes", "topics")
    return json_response(token_schemas.Token(token, asked.ttl_s), headers={"Cache-Control": "no-store"})


def _same(given: str, ours: str) -> bool:
    """In constant time, also for lengths."""
    return compare_digest(sha256(given.encode()).digest(), sha256(ours.encode()).digest())

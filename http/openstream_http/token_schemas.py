"""The shapes of minting a token."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from openstream_http.auth import MAX_SUBJECT_CHARS, MAX_TOPIC_PATTERNS, Role
from openstream_http.limits import DAY_S
from openstream_http.schemas import Answer, Request


class TokenRequest(Request):
    sub: Annotated[str, Meta(min_length=1, max_length=MAX_SUBJECT_CHARS)]
    role: Role
    admin_secret: Annotated[str, Meta(max_length=1024)]
    ttl_s: Annotated[int, Meta(ge=1, le=DAY_S)] = 3_600
    topics: (
        Annotated[
            list[Annotated[str, Meta(min_length=1, max_length=200)]],
            Meta(min_length=1, max_length=MAX_TOPIC_PATTERNS, description="glob patterns the token is narrowed to"),
        ]
        | None
    ) = None


class Token(Answer):
    """A bearer token."""

    token: str
    expires_in: int
    token_type: str = "bearer"  # noqa: S105 - the kind of token, not a token

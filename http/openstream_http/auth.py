"""Tokens: HS256, ours alone, every claim checked, and remembered while they are good.

joserfc checks a signature and nothing else unless it is told to, so everything is told: one algorithm, every claim
essential, and what it leaves open (types, lengths, `typ`) is closed here. Verifying costs about 40 µs; a token seen
before costs a lookup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import OctKey

from openstream_http.problems import UNAUTHENTICATED, Problem
from openstream_runtime.settings import Settings

ALGORITHM = "HS256"
#: Clocks of machines that mint and machines that check differ by this many seconds at most.
LEEWAY = 30
#: A token that is taken back by a change of the secret is forgotten after so many seconds at the latest.
REMEMBERED = 60
MAX_TOKEN_CHARS = 8_192
MAX_SUBJECT_CHARS = 200
MAX_TOPIC_PATTERNS = 100
_MAX_REMEMBERED = 10_000
_TYPES = frozenset({"jwt", "at+jwt"})


class Role(StrEnum):
    """What a token may do: append; read, ack and claim; all of it and manage."""

    PRODUCER = "producer"
    CONSUMER = "consumer"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a verified token speaks for. `topics`: glob patterns it is narrowed to; None: every topic."""

    subject: str
    role: Role
    topics: tuple[str, ...] | None = None
    #: Seconds since the epoch, the leeway for clocks included: a stream ends then.
    expires: float = field(default=0.0, compare=False)

    def allows(self, topic: str) -> bool:
        return self.topics is None or any(fnmatchcase(topic, pattern) for pattern in self.topics)


class Verifier:
    """Mints and verifies the tokens of one node. `now`: seconds since the epoch."""

    def __init__(self, settings: Settings, now: Callable[[], float]) -> None:
        self._now = now
        self._issuer = settings.auth_jwt_issuer
        self._audience = settings.auth_jwt_audience
        self._key = OctKey.import_key(settings.auth_jwt_secret.get_secret_value())
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(now()),
            leeway=LEEWAY,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._audience},
            exp={"essential": True},
            sub={"essential": True},
            role={"essential": True, "values": [str(role) for role in Role]},
        )
        self._remembered: dict[bytes, tuple[float, Principal]] = {}

    def mint(self, subject: str, role: Role, ttl_s: int, topics: Sequence[str] | None = None) -> str:
        """A token good for `ttl_s` seconds."""
        issued = int(self._now())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "role": str(role),
            "iat": issued,
            "exp": issued + ttl_s,
        }
        if topics is not None:
            claims["topics"] = list(topics)
        return jwt.encode({"alg": ALGORITHM, "typ": "JWT"}, claims, self._key, algorithms=[ALGORITHM])

    def verify(self, headers: Sequence[str]) -> Principal:
        """Whom the `Authorization` headers of a request speak for; Problem 401."""
        if not headers:
            raise _unauthenticated("the Authorization header is missing", None)
        if len(headers) > 1:
            raise _unauthenticated("there is more than one Authorization header", "invalid_request")
        scheme, _, token = headers[0].partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise _unauthenticated("expected `Authorization: Bearer <token>`", "invalid_request")
        if len(token) > MAX_TOKEN_CHARS:
            raise _unauthenticated(f"the token has more than {MAX_TOKEN_CHARS} characters")
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        found = self._remembered.get(digest)
        if found is not None:
            if self._now() < found[0]:
                return found[1]
            del self._remembered[digest]
        principal = self._check(token)
        if len(self._remembered) >= _MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]  # the oldest; it is verified again if it still comes
        self._remembered[digest] = (min(principal.expires, self._now() + REMEMBERED), principal)
        return principal

    def _check(self, token: str) -> Principal:
        try:
            decoded = jwt.decode(token, self._key, algorithms=[ALGORITHM])
            self._claims.validate(decoded.claims)
        except ExpiredTokenError:
            raise _unauthenticated("the token has expired") from None
        except (JoseError, ValueError, TypeError, RecursionError):  # the last three: claims no honest issuer writes
            raise _unauthenticated("the token is not valid here") from None
        kind = decoded.header.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
            raise _unauthenticated("the token is of another type than an access token")
        claims = decoded.claims
        subject = claims["sub"]
        if not 1 <= len(subject) <= MAX_SUBJECT_CHARS or not subject.isprintable():
            raise _unauthenticated(f"the claim sub has 1 to {MAX_SUBJECT_CHARS} printable characters")
        if not isinstance(claims["role"], str):  # joserfc takes a list that holds an allowed value
            raise _unauthenticated(f"the claim role is one of {', '.join(Role)}")
        return Principal(subject, Role(claims["role"]), _patterns(claims), float(claims["exp"]) + LEEWAY)


def _patterns(claims: dict[str, Any]) -> tuple[str, ...] | None:
    if "topics" not in claims:
        return None
    patterns = claims["topics"]
    if (
        not isinstance(patterns, list)
        or len(patterns) > MAX_TOPIC_PATTERNS
        or not all(isinstance(pattern, str) and len(pattern) <= MAX_SUBJECT_CHARS for pattern in patterns)
    ):
        # Never "no list, so every topic": a claim that is there narrows, or the token is refused.
        raise _unauthenticated(f"the claim topics is a list of up to {MAX_TOPIC_PATTERNS} patterns")
    return tuple(patterns)


def _unauthenticated(detail: str, error: str | None = "invalid_token") -> Problem:
    challenge = 'Bearer realm="openstream"'
    if error is not None:  # RFC 6750: no error code when there were no credentials at all
        challenge += f', error="{error}"'
    return Problem(UNAUTHENTICATED, detail, headers=[("www-authenticate", challenge)])

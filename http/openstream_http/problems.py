"""Problems: everything that can be wrong with a request, each with its stable slug, as RFC 9457 has them.

One table says what each kind is; one function renders it. The routes raise `Problem` or an error of the domain, the
guard renders before any route is known, and `GET /problems/<slug>` shows the table to people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from openstream_runtime.domain.errors import (
    Conflict,
    Gone,
    InvalidRequest,
    NotFound,
    OpenStreamError,
    OutcomeUnknown,
    OutOfSequence,
    Overloaded,
    PartlyDone,
    SequenceReused,
    StaleEpoch,
    Unavailable,
    UnknownProducer,
)
from openstream_runtime.domain.positions import Position

MEDIA_TYPE = "application/problem+json"
#: What a client waits before it asks again when nobody knows better.
RETRY_AFTER_MS = 1_000
_RETRIED = frozenset({429, 503})
_RESERVED = frozenset({"type", "title", "status", "detail"})

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table. `about` is for people, under /problems/<slug>."""

    slug: str
    status: int
    title: str
    about: str


MALFORMED = Kind("malformed-request", 400, "Malformed request", "The HTTP message itself is not acceptable.")
NOT_JSON = Kind("not-json", 400, "Not JSON", "The body is not JSON in UTF-8. Nothing was done.")
UNAUTHENTICATED = Kind(
    "unauthenticated",
    401,
    "Authentication required",
    "The route needs `Authorization: Bearer <token>` with a token that is ours, whole and not expired.",
)
FORBIDDEN = Kind(
    "forbidden",
    403,
    "Not allowed",
    "The token is good, but its role or its list of topics does not allow this. A topic outside the token's list and "
    "a topic that does not exist get the same answer.",
)
WRONG_SECRET = Kind("wrong-secret", 403, "Wrong secret", "The admin_secret is not the one this node was started with.")
NOT_FOUND = Kind("not-found", 404, "Not found", "There is no such route, topic or group.")
METHOD_NOT_ALLOWED = Kind("method-not-allowed", 405, "Method not allowed", "The route exists; see its Allow header.")
NOT_ACCEPTABLE = Kind(
    "not-acceptable",
    406,
    "Not acceptable",
    "Nothing that the Accept header names is to be had here; `accepted` says what is. Nothing was done.",
)
BODY_TIMEOUT = Kind("body-timeout", 408, "Body too slow", "The body did not arrive in time. Nothing of it was kept.")
CONFLICT = Kind(
    "conflict",
    409,
    "Conflict",
    "The request disagrees with what exists, a topic's partition count for one. Nothing was done.",
)
STALE_EPOCH = Kind(
    "stale-epoch",
    403,
    "Stale producer epoch",
    "A newer epoch of this producer has begun (`current_epoch`), or it has gone on since. Whoever sends this has been "
    "replaced: stop. Nothing was kept.",
)
OUT_OF_SEQUENCE = Kind(
    "out-of-sequence",
    409,
    "Not the next request of this producer",
    "`Producer-Seq` is not the number of the producer's next event, `expected_seq`. A producer sends one request of a "
    "topic at a time and repeats it until it has an answer. Below `expected_seq` everything is kept; above, nothing.",
)
SEQUENCE_REUSED = Kind(
    "sequence-reused",
    409,
    "Other events under the same number",
    "The request before it with this `Producer-Seq` had other events. Repeat that one as it was, or begin a newer "
    "epoch. Nothing was kept.",
)
UNKNOWN_PRODUCER = Kind(
    "unknown-producer",
    409,
    "Unknown producer",
    "Nobody knows what this producer has sent before: it was silent for longer than OPENSTREAM_PRODUCER_MS, or Redis "
    "has lost it. Nothing was kept now; a request whose answer was lost may have been kept then, as the history tells. "
    "Go on with a newer `Producer-Epoch` from `Producer-Seq: 0`.",
)
GONE = Kind(
    "gone",
    410,
    "Not kept any more",
    "The history asked for was there and is not kept any more; everything from `earliest_id` on is.",
)
BODY_TOO_LARGE = Kind(
    "body-too-large", 413, "Body too large", "The body, or one line of it, is larger than MAX_BODY_BYTES allows."
)
TARGET_TOO_LONG = Kind("target-too-long", 414, "Path or query too long", "No route of ours has so long an address.")
UNSUPPORTED_MEDIA_TYPE = Kind(
    "unsupported-media-type",
    415,
    "Unsupported media type",
    "Send `Content-Type: application/json` (to produce also application/x-ndjson, application/cloudevents+json or "
    "application/cloudevents-batch+json), without Content-Encoding.",
)
INVALID = Kind(
    "invalid-request",
    422,
    "Invalid request",
    "The body is JSON but not of the shape or range that is asked for; `errors` says where. Nothing was done.",
)
OVERLOADED = Kind(
    "overloaded",
    429,
    "Too much at once",
    "There is more work than room for it. Nothing was kept; ask again after Retry-After.",
)
TOO_MANY_ATTEMPTS = Kind(
    "too-many-attempts", 429, "Too many attempts", "Wrong secrets came too fast; ask again after Retry-After."
)
HEADERS_TOO_LARGE = Kind("headers-too-large", 431, "Headers too large", "All headers together exceed the limit.")
INTERNAL = Kind(
    "internal-error", 500, "Internal error", "Our fault. The log of the node has the whole story under `error_id`."
)
UPGRADE_REFUSED = Kind("upgrade-refused", 501, "Upgrade refused", "This server speaks HTTP/1.1 and nothing else.")
UNAVAILABLE = Kind(
    "unavailable",
    503,
    "Unavailable",
    "A backend is away or this node is draining. Nothing was kept; ask again, any node will do.",
)
OUTCOME_UNKNOWN = Kind(
    "outcome-unknown",
    503,
    "Outcome unknown",
    "The answer to a write was lost on the way: it may have been kept, or not. Sending it again may double it, unless "
    "the problem says `repeatable: true`.",
)
PARTLY_DONE = Kind(
    "partly-done", 503, "Partly done", "A part of the request was kept; `results` says which, each with its `status`."
)
BUSY = Kind("busy", 503, "Too many requests in flight", "This node has as many open requests as it may; try another.")
HTTP_VERSION = Kind("http-version", 505, "HTTP version not supported", "Speak HTTP/1.1 here; HTTP/2 ends at a proxy.")

_MAYBE_KEPT = frozenset({OUTCOME_UNKNOWN, PARTLY_DONE})
KINDS: Mapping[str, Kind] = {kind.slug: kind for kind in list(globals().values()) if isinstance(kind, Kind)}
#: The one table from what happened to what the client is told.
BY_ERROR: Mapping[type[OpenStreamError], Kind] = {
    InvalidRequest: INVALID,
    NotFound: NOT_FOUND,
    Conflict: CONFLICT,
    StaleEpoch: STALE_EPOCH,
    OutOfSequence: OUT_OF_SEQUENCE,
    SequenceReused: SEQUENCE_REUSED,
    UnknownProducer: UNKNOWN_PRODUCER,
    Gone: GONE,
    Overloaded: OVERLOADED,
    Unavailable: UNAVAILABLE,
    OutcomeUnknown: OUTCOME_UNKNOWN,
    PartlyDone: PARTLY_DONE,
}
BY_STATUS: Mapping[int, Kind] = {
    400: MALFORMED,
    404: NOT_FOUND,
    405: METHOD_NOT_ALLOWED,
    408: BODY_TIMEOUT,
    413: BODY_TOO_LARGE,
    415: UNSUPPORTED_MEDIA_TYPE,
}


class Problem(Exception):
    """A request that gets no ordinary answer. `facts` are what a program needs to react; never a secret."""

    def __init__(self, kind: Kind, detail: str | None = None, *, headers: Sequence[Header] = (), **facts: Any) -> None:
        self.kind = kind
        self.detail = detail or kind.about
        self.facts = facts
        self.headers = tuple(headers)
        #: PartlyDone is 503 or 429, by what stopped the rest.
        self.status = kind.status
        super().__init__(self.detail)

    def render(self) -> tuple[int, list[Header], bytes]:
        """Status, headers and body."""
        body: dict[str, Any] = {
            "type": f"/problems/{self.kind.slug}",
            "title": self.kind.title,
            "status": self.status,
            "detail": self.detail,
        }
        body |= {name: _plain(fact) for name, fact in self.facts.items() if name not in _RESERVED}
        headers = [("content-type", MEDIA_TYPE), *self.headers]
        # Sending again what may be there already doubles it, so nobody is told when to.
        if self.status in _RETRIED and (self.kind not in _MAYBE_KEPT or "retry_after_ms" in body):
            wait_ms = body.setdefault("retry_after_ms", RETRY_AFTER_MS)
            headers.append(("retry-after", str(max(1, math.ceil(wait_ms / 1000)))))
        return self.status, headers, msgspec.json.encode(body, enc_hook=str)


def invalid(msg: str, *loc: str | int) -> Problem:
    """The request has one thing wrong, at `loc`."""
    where = ".".join(str(part) for part in loc)
    return Problem(INVALID, f"{where}: {msg}" if where else msg, errors=[{"loc": list(loc), "msg": msg}])


def of_error(error: OpenStreamError) -> Problem | None:
    """What an error of the domain means to a client; None for one that no client can have caused."""
    kind = next((BY_ERROR[cls] for cls in type(error).__mro__ if cls in BY_ERROR), None)
    if kind is None:
        return None
    facts = dict(error.facts)
    if kind is OUTCOME_UNKNOWN:
        facts["outcome"] = "unknown"
    overloaded = facts.pop("overloaded", False)
    problem = Problem(kind, error.detail, **facts)
    if kind is PARTLY_DONE and overloaded:
        problem.status = OVERLOADED.status
    return problem


def _plain(fact: Any) -> Any:
    """Positions as the text clients know, wherever they stand in a fact."""
    if isinstance(fact, Position):
        return str(fact)
    if isinstance(fact, Mapping):
        return {str(name): _plain(value) for name, value in fact.items()}
    if isinstance(fact, list | tuple | set | frozenset):
        return [_plain(value) for value in fact]
    return fact

"""What can go wrong, told apart by what the caller can do about it, made from the node's problem+json.

Catch `ClientError` for everything, `Retryable` for what is worth another try because nothing was kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class ClientError(Exception):
    """Something went wrong."""

    def __init__(
        self, detail: str | None = None, *, status: int | None = None, slug: str = "", facts: Mapping[str, Any] = {}
    ) -> None:
        #: One sentence for a person.
        self.detail = detail or (type(self).__doc__ or "").strip().splitlines()[0]
        #: None when no node answered.
        self.status = status
        #: The problem's stable name: `not-found` of `/problems/not-found`.
        self.slug = slug
        #: Whatever else the problem says: topic, partition, results …
        self.facts = dict(facts)
        super().__init__(self.detail)


class Rejected(ClientError):
    """The node does not take this request as it is. Nothing was done."""

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Where it is wrong: `{"loc": ["events", 3, "payload"], "msg": …}` each."""
        return list(self.facts.get("errors") or ())


class Unauthenticated(ClientError):
    """The token is missing, expired or not one of this cluster."""


class Forbidden(ClientError):
    """The token's role or its list of topics does not allow this."""


class NotFound(ClientError):
    """There is no such topic, group or route."""


class Conflict(ClientError):
    """The request disagrees with what exists."""


class StaleEpoch(Forbidden):
    """This producer has been replaced: a newer epoch of it has begun. Stop; nothing was kept."""


class OutOfSequence(Conflict):
    """The number of a request is not the next one of its producer. Below `expected_seq` everything is kept."""

    @property
    def expected_seq(self) -> int | None:
        found = self.facts.get("expected_seq")
        return None if found is None else int(found)


class SequenceReused(Conflict):
    """Under this number the producer has sent other events before. Repeat those, or begin a newer epoch."""


class UnknownProducer(Conflict):
    """Nobody knows what this producer has sent before. Nothing was kept now; go on with a newer epoch from 0."""


class Gone(ClientError):
    """What is asked for was there and is not kept any more."""

    @property
    def earliest_id(self) -> str | None:
        """From here on everything is kept."""
        found = self.facts.get("earliest_id")
        return None if found is None else str(found)


class Retryable(ClientError):
    """Nothing was kept; the same request may work later."""

    @property
    def retry_after(self) -> float | None:
        """Seconds the node asks us to wait; None when it does not say."""
        wait_ms = self.facts.get("retry_after_ms")
        return None if wait_ms is None else float(wait_ms) / 1000


class Overloaded(Retryable):
    """There is more work than room for it."""


class Unavailable(Retryable):
    """A backend is away or the node is draining."""


class Unreachable(Unavailable):
    """No node could be reached."""


class OutcomeUnknown(ClientError):
    """The answer to a write was lost: it may have been kept, or not. Sending it again may double it."""

    @property
    def repeatable(self) -> bool:
        """The node says that it would know the same request again."""
        return bool(self.facts.get("repeatable"))


class PartlyDone(ClientError):
    """A part of the events was kept and a part was not; `results` says which, one per event with its `status`."""

    @property
    def results(self) -> list[dict[str, Any]]:
        return list(self.facts.get("results") or ())


class NotSent(ClientError):
    """It was never sent: something before it failed, or the sender was closed."""


class ServerFault(ClientError):
    """The node failed in a way that is its own fault."""


_BY_SLUG: Mapping[str, type[ClientError]] = {
    "outcome-unknown": OutcomeUnknown,
    "partly-done": PartlyDone,
    "stale-epoch": StaleEpoch,
    "out-of-sequence": OutOfSequence,
    "sequence-reused": SequenceReused,
    "unknown-producer": UnknownProducer,
}
_BY_STATUS: Mapping[int, type[ClientError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    429: Overloaded,
    503: Unavailable,
}
#: What a proxy says when a node it has given the request to did not answer.
_UNANSWERED = frozenset({502, 504})


def of_answer(status: int, headers: Mapping[str, str], body: bytes) -> ClientError:
    """The error an answer means. A proxy in between may have written it: then there is a status and no problem."""
    problem = _problem(headers, body)
    slug = str(problem.get("type", "")).rpartition("/")[2]
    kind = _BY_SLUG.get(slug) or _BY_STATUS.get(status) or (Rejected if status < 500 else ServerFault)
    facts = {name: fact for name, fact in problem.items() if name not in {"type", "title", "status", "detail"}}
    after = headers.get("retry-after", "")
    if "retry_after_ms" not in facts and after.isascii() and after.isdecimal():
        facts["retry_after_ms"] = int(after) * 1000
    detail = str(problem.get("detail") or problem.get("title") or f"the answer was {status}")
    return kind(detail, status=status, slug=slug, facts=facts)


def is_unanswered(error: ClientError) -> bool:
    """Whether it comes from a proxy that does not know what became of the request, and not from a node."""
    return error.status in _UNANSWERED and not error.slug


def _problem(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    if "json" not in headers.get("content-type", ""):
        return {}
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}

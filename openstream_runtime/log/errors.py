"""What Redis' errors mean: nothing was done, nobody knows, or a bug.

A reply that is an error is always definite, because every script of ours checks first and writes afterwards. Only a
connection that ends before the reply leaves the outcome open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from openstream_runtime.domain.errors import OutcomeUnknown, Unavailable
from openstream_runtime.ports.log import Refusal

#: What can go wrong between us and the server, connecting included. TimeoutError is an OSError.
CONNECTION_ERRORS = (RedisError, OSError)
#: Replies that redis-py makes connection errors of. They were read whole, so the connection goes on.
REPLY_ERRORS = (ResponseError, BusyLoadingError, AuthenticationError)

#: Not in a state to take commands, or not from us.
_AWAY = frozenset(
    {
        *("NOREPLICAS", "READONLY", "MISCONF", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"),
        *("UNBLOCKED", "MOVED", "ASK", "NOAUTH", "NOPERM", "WRONGPASS", "NOSCRIPT"),
        # Somebody put something else under a key of ours: that partition's trouble, and nobody else's.
        "WRONGTYPE",
    }
)
RETRY_AFTER_MS = 1_000


def code(error: Exception) -> str:
    """The first word of an error reply: redis-py keeps it apart for the kinds it knows."""
    return getattr(error, "status_code", None) or str(error).partition(" ")[0]


def refusal(error: Exception) -> Refusal | None:
    """Why a reply kept nothing, or None when it says that we have a bug."""
    kind = code(error)
    if kind == "OOM":
        return Refusal.MEMORY
    if kind in _AWAY or isinstance(error, BusyLoadingError | AuthenticationError):
        return Refusal.UNAVAILABLE
    return None


def unavailable() -> Unavailable:
    return Unavailable("Redis does not answer.", backend="redis", retry_after_ms=RETRY_AFTER_MS)


def outcome_unknown() -> OutcomeUnknown:
    return OutcomeUnknown("Redis did not answer: the write may have been kept, or not.", backend="redis")


def answer(reply: Any) -> Any:
    """A reply, unless it is an error: then Unavailable, or the error itself when it says that we have a bug."""
    if not isinstance(reply, REPLY_ERRORS):
        return reply
    reason = refusal(reply)
    if reason is None:
        raise reply
    if reason is Refusal.MEMORY:
        raise Unavailable("Redis is out of memory.", backend="redis", retry_after_ms=RETRY_AFTER_MS) from reply
    raise Unavailable("Redis does not take commands.", backend="redis", retry_after_ms=RETRY_AFTER_MS) from reply


def answer_or(reply: Any, fallback: Any, when: Callable[[str], bool]) -> Any:
    """Like `answer`, but an error whose text `when` knows is an answer too."""
    if isinstance(reply, ResponseError) and when(f"{code(reply)} {reply}"):
        return fallback
    return answer(reply)

"""Producer-Id, Producer-Epoch, Producer-Seq: what a producer that repeats itself says beside its events."""

from __future__ import annotations

import re

from werkzeug.datastructures import Headers

from openstream_http.problems import Problem, invalid
from openstream_runtime.domain.producers import MAX_NUMBER, Stamp

#: For the description of the route.
PRODUCER_HEADERS = {
    "Producer-Id": "1 to 200 of A-Z a-z 0-9 . _ -; with it come the two others, and the same request may be repeated",
    "Producer-Epoch": f"0 to {MAX_NUMBER}: grows with each life of the producer",
    "Producer-Seq": f"0 to {MAX_NUMBER}: the number of the request's first event",
}
_NAMES = tuple(PRODUCER_HEADERS)
_ID = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,16}", re.ASCII)


def stamp_of(headers: Headers) -> Stamp | None:
    """What a request's headers say; None when it has none of the three. Problem 422."""
    if not any(name in headers for name in _NAMES):
        return None
    producer, epoch, seq = (_one(headers, name) for name in _NAMES)
    if _ID.fullmatch(producer) is None:
        raise _wrong("Producer-Id", "expected 1 to 200 of A-Z a-z 0-9 . _ -")
    return Stamp(producer, _number("Producer-Epoch", epoch), _number("Producer-Seq", seq))


def next_stamp(stamp: Stamp | None, before: int, count: int) -> Stamp | None:
    """The stamp of `count` events, so many behind the first of the request. Problem 422 beyond the last number."""
    if stamp is None:
        return None
    if stamp.seq + before + count > MAX_NUMBER:
        raise _wrong("Producer-Seq", f"no event has a number above {MAX_NUMBER}")
    return Stamp(stamp.producer, stamp.epoch, stamp.seq + before)


def _one(headers: Headers, name: str) -> str:
    values = headers.getlist(name)
    if len(values) != 1:
        raise _wrong(name, "expected once, or none of " + ", ".join(_NAMES))
    return values[0]


def _number(name: str, text: str) -> int:
    if _NUMBER.fullmatch(text) is None or int(text) > MAX_NUMBER:
        raise _wrong(name, f"expected a whole number, 0 to {MAX_NUMBER}")
    return int(text)


def _wrong(name: str, msg: str) -> Problem:
    return invalid(msg, "headers", name)

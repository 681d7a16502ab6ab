"""Request bodies: read within their bounds, and turned into a shape or a clear problem.

The typed decoder is fast and stops at the first thing wrong. When it stops, the body is looked at again, slowly and
with the standard library, to tell "no JSON" (400) from "JSON that we do not take" (422), and to say where.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any, TypeVar

import msgspec
from anyio import fail_after
from quart import request

from openstream_http.budget import Hold
from openstream_http.edge import edge
from openstream_http.negotiation import JSON
from openstream_http.problems import (
    BODY_TIMEOUT,
    BODY_TOO_LARGE,
    INVALID,
    NOT_JSON,
    UNSUPPORTED_MEDIA_TYPE,
    Problem,
    invalid,
)

#: Slower than this, after BODY_TIMEOUT of credit, is no client we wait for.
_MIN_BYTES_PER_SECOND = 16 << 10
_CLOSE = [("connection", "close")]
_MAX_ERRORS = 10
_ANY = msgspec.json.Decoder()
_NUL = b"\\u0000"
_AT = re.compile(r" - at `(?:key in )?\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")
_FIELD = re.compile(r"(?:required|unknown) field `([^`]*)`")

T = TypeVar("T")
#: A place in a body: the place around it, and the step from there. None: the body itself.
_Path = tuple["_Path", str | int] | None


class _OutOfRange:
    """Stands for a number that no parser downstream could hold."""


def media_type(*accepted: str) -> str:
    """The media type of the body, one of `accepted`; Problem 415 for another, and for any Content-Encoding."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Problem(UNSUPPORTED_MEDIA_TYPE, "bodies are taken without Content-Encoding", accepted=list(accepted))
    if request.mimetype not in accepted:
        raise Problem(
            UNSUPPORTED_MEDIA_TYPE,
            f"expected Content-Type: {' or '.join(accepted)}",
            headers=[("accept", ", ".join(accepted))],
            accepted=list(accepted),
        )
    return request.mimetype


async def chunks() -> AsyncIterator[bytes]:
    """The body as it comes, in pieces of at most about 256 KiB; Problem 408 when it comes too slowly."""
    credit = edge().body_timeout
    clock = edge().clock
    body = aiter(request.body)
    while True:
        began = clock.monotonic()
        try:
            with fail_after(max(0.0, credit)):
                piece = await anext(body, None)
        except TimeoutError:
            raise Problem(BODY_TIMEOUT, headers=_CLOSE) from None
        if piece is None:
            return
        # Only the waiting is the client's time; what we do with a piece before we ask for the next one is ours.
        credit += len(piece) / _MIN_BYTES_PER_SECOND - (clock.monotonic() - began)
        credit = min(credit, edge().body_timeout)
        yield piece


async def read_json(decoder: msgspec.json.Decoder[T], *, empty: bytes | None = None) -> T:
    """The whole body in the decoder's shape. `empty` stands for an absent body where one may be absent."""
    with edge().bodies.hold() as hold:
        body = await _read(hold, absent_allowed=empty is not None)
        return decode(decoder, body or empty or b"")


async def _read(hold: Hold, *, absent_allowed: bool) -> bytes:
    absent = request.content_length in {None, 0} and "Transfer-Encoding" not in request.headers
    if not (absent_allowed and absent):
        media_type(JSON)
    return await whole(hold)


async def whole(hold: Hold) -> bytes:
    """The whole body, of whatever media type; Problem 408, 413."""
    limit = edge().settings.max_body_bytes
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    pieces: list[bytes] = []
    size = 0
    async for piece in chunks():
        size += len(piece)
        if size > limit:  # a chunked body says its length nowhere: counted here
            raise _too_large(limit)
        hold.grow(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


def decode(decoder: msgspec.json.Decoder[T], body: bytes, *at: str | int) -> T:
    """JSON in the decoder's shape. Problem 400 for what is no JSON, 422 for the rest, located below `at`."""
    wrong: msgspec.ValidationError | None = None
    try:
        try:
            found = decoder.decode(body)
        except msgspec.ValidationError as error:
            wrong = error  # what comes after it in the body has not been looked at
        # Raw slices were skipped, not parsed: numbers, surrogates and UTF-8 inside them are checked here. 0.5 µs/event.
        _ANY.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise diagnose(body, *at) from None
    if wrong is not None:
        raise _wrong_shape(str(wrong), at)
    if _NUL in body:  # an escaped backslash before u0000 looks the same, so the strings themselves are looked at
        for where, msg in _unacceptable(_ANY.decode(body)):
            raise invalid(msg, *at, *where)
    return found


def diagnose(body: bytes, *at: str | int) -> Problem:
    """Why a body that the fast parser refused is refused."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        return Problem(NOT_JSON, f"the body is not UTF-8: {error.reason} at byte {error.start}")
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_no_constant)
    except RecursionError:
        return invalid("nested too deeply", *at)
    except ValueError as error:
        return Problem(NOT_JSON, f"the body is not JSON: {error}")
    errors = [{"loc": [*at, *where], "msg": msg} for where, msg in islice(_unacceptable(value), _MAX_ERRORS)]
    if not errors:  # both parsers differ over something that neither list above knows
        return Problem(NOT_JSON, "the body is not JSON as RFC 8259 has it")
    return Problem(INVALID, f"{_dotted(errors[0]['loc'])}: {errors[0]['msg']}", errors=errors)


def _unacceptable(value: Any) -> Iterator[tuple[list[str | int], str]]:
    """Every place that holds what the log or the store could not give back, in the order of the body.

    A stack, not recursion, and paths as linked pairs: the body may be as deep and as wide as its bytes allow.
    """
    left: list[tuple[_Path, Any]] = [(None, value)]
    while left:
        at, value = left.pop()
        if isinstance(value, str):
            if msg := _flaw(value):
                yield _steps(at), msg
        elif isinstance(value, _OutOfRange):
            yield _steps(at), "is a number out of range"
        elif isinstance(value, dict):
            for name in value:
                if msg := _flaw(name):
                    yield _steps(at), f"the name of a member {msg}"
            left.extend(((at, name), member) for name, member in reversed(value.items()))
        elif isinstance(value, list):
            left.extend(((at, index), value[index]) for index in range(len(value) - 1, -1, -1))


def _flaw(text: str) -> str | None:
    if "\0" in text:
        return "holds a NUL character (\\u0000), which PostgreSQL cannot store"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate, which no UTF-8 can express"
    return None


def _steps(at: _Path) -> list[str | int]:
    steps: list[str | int] = []
    while at is not None:
        at, step = at
        steps.append(step.encode("utf-8", "replace").decode()[:100] if isinstance(step, str) else step)
    return steps[::-1]


def _integer(digits: str) -> int | _OutOfRange:
    try:
        return int(digits)
    except ValueError:  # Python's own bound, 4300 digits; the fast parser has the same
        return _OutOfRange()


def _float(digits: str) -> float | _OutOfRange:
    value = float(digits)
    return _OutOfRange() if value in {float("inf"), float("-inf")} else value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _wrong_shape(message: str, at: tuple[str | int, ...]) -> Problem:
    """msgspec's sentence, as in ``Expected `int`, got `str` - at `$.events[3].timestamp_ms` ``, and where it points."""
    loc = list(at)
    found = _AT.search(message)
    if found is not None:
        for name, index in _STEP.findall(found["path"]):
            if name or index:  # `[...]`: some member, msgspec does not say which
                loc.append(int(index) if index else name)
        message = message[: found.start()]
    field = _FIELD.search(message)
    if field is not None:
        loc.append(field[1])
    return Problem(INVALID, f"{_dotted(loc)}: {message}" if loc else message, errors=[{"loc": loc, "msg": message}])


def _dotted(loc: Any) -> str:
    return ".".join(str(step) for step in loc)


def _too_large(limit: int) -> Problem:
    return Problem(BODY_TOO_LARGE, f"the body has more than {limit} bytes", headers=_CLOSE, max_bytes=limit)

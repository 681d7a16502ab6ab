"""Trace contexts as W3C writes them: what a request says of its trace, and what its events carry on.

An event keeps the context it was made in among its headers. One that has none gets its request's; what a producer put
there is never changed, and nothing is added when a request says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
_SAMPLED: Final = 0x01
_MAX_STATE: Final = 512  # characters: as much as the standard asks everybody to pass on

_PARENT = re.compile(r"(?P<version>[0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?P<more>-.*)?", re.ASCII)
_STATE = re.compile(r"[\x20-\x7e]*")
#: Inside the JSON of an event's headers. Its two quotes and the colon stand in no string: there they are escaped.
_CARRIED = re.compile(rb'"traceparent":"([0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})"')


class TraceContext(NamedTuple):
    """A span, wherever it is."""

    trace_id: int
    span_id: int
    #: Somebody records it. A link to one that nobody does leads nowhere.
    sampled: bool
    state: str = ""

    @property
    def header(self) -> str:
        """As a `traceparent`."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


def parse(traceparent: str, tracestate: str = "") -> TraceContext | None:
    """The context that two headers tell; None when they tell none. A bad `tracestate` alone is left out."""
    found = _PARENT.fullmatch(traceparent)
    if found is None or found["version"] == "ff" or (found["version"] == "00" and found["more"]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    if not trace_id or not span_id:
        return None
    return TraceContext(trace_id, span_id, bool(int(found[4], 16) & _SAMPLED), _good(tracestate))


def carried_by(headers: Iterable[bytes | None]) -> Iterator[TraceContext]:
    """The contexts that events carry, each once, and only those somebody records. Lazy: stop when there are enough."""
    seen: set[bytes] = set()
    for one in headers:
        if one is None or (found := _CARRIED.search(one)) is None or found[1] in seen:
            continue
        seen.add(found[1])
        context = parse(found[1].decode())
        if context is not None and context.sampled:
            yield context


class Stamp:
    """What one request says of its trace, ready for its events."""

    __slots__ = ("_inner", "_whole")

    def __init__(self, traceparent: str, tracestate: str) -> None:
        said = {TRACEPARENT: traceparent} | ({TRACESTATE: state} if (state := _good(tracestate)) else {})
        # Made once: the events of a request without headers of their own share these bytes.
        self._whole = msgspec.json.encode(said)
        self._inner = b"," + self._whole[1:]

    @classmethod
    def of(cls, traceparents: Sequence[str], tracestates: Sequence[str]) -> Stamp | None:
        """From a request's headers; None when they name no trace, or more than one."""
        if len(traceparents) != 1 or parse(traceparents[0]) is None:
            return None
        return cls(traceparents[0], ",".join(tracestates))

    def on(self, names: Iterable[str], headers: bytes | None) -> bytes:
        """An event's headers, as JSON, with the trace in them, unless one of their `names` tells of a trace."""
        if headers is None or headers == b"{}":
            return self._whole
        if any(name.lower() in (TRACEPARENT, TRACESTATE) for name in names):
            return headers
        return headers[:-1] + self._inner


def _good(tracestate: str) -> str:
    return tracestate if len(tracestate) <= _MAX_STATE and _STATE.fullmatch(tracestate) else ""

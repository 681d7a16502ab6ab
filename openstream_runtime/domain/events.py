"""Events on their way in, at rest, and on their way out.

Payload and headers are kept as the raw JSON bytes the producer sent: a payload comes back byte for byte, and no
parser of ours stands between the log and the store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from openstream_runtime.domain.positions import Position

#: W3C trace context, as a header of an event.
_TRACEPARENT = re.compile(rb'"traceparent"\s*:\s*"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}')


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that has been checked and has no position yet."""

    event_type: str
    partition_key: str | None
    payload: bytes
    timestamp_ms: int
    #: A raw JSON object of strings, or None.
    headers: bytes | None = None
    #: The producer's own name for it: kept once in its partition, for a while.
    event_id: str | None = None

    def size(self) -> int:
        """About how many bytes it takes, in a mailbox as in Redis."""
        return len(self.payload) + len(self.headers or b"") + len(self.partition_key or "") + len(self.event_type) + 128


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """An event at its position in a partition."""

    position: Position
    event_type: str
    partition_key: str | None
    payload: bytes
    timestamp_ms: int
    headers: bytes | None = None

    def size(self) -> int:
        """About how many bytes it takes in memory."""
        return len(self.payload) + len(self.headers or b"") + len(self.partition_key or "") + len(self.event_type) + 128


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """An event handed to a consumer of a group."""

    partition: int
    event: StoredEvent
    #: How often it has been handed out, this time included.
    deliveries: int


def trace_id_of(headers: bytes | None) -> str | None:
    """The id of the trace an event belongs to, if its producer said so in a `traceparent` header."""
    found = _TRACEPARENT.search(headers) if headers else None
    return None if found is None else found[1].decode()


def with_headers(headers: bytes | None, ours: Mapping[str, str]) -> bytes:
    """Headers with ours in them, which win."""
    if headers is None or any(name.encode() in headers for name in ours):
        theirs = {} if headers is None else msgspec.json.decode(headers)
        return msgspec.json.encode({**theirs, **ours})
    # The producer's bytes stay as they came; ours go behind them.
    head = headers.rstrip()[:-1].rstrip()
    return head + (b"" if head.endswith(b"{") else b",") + msgspec.json.encode(ours)[1:]

"""A file of events, one a line, cut into chunks that fit a request; lines that are no events are set aside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from msgspec import Raw, Struct

#: The node takes 5000 events and 8 MiB (MAX_BODY_BYTES) a request unless it is set otherwise.
CHUNK_LINES = 2_000
CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 8 << 20

Encode = Callable[[bytes], bytes]


class Readable(Protocol):
    """Where lines come from: an open file, or a Pipe."""

    def readline(self, limit: int = -1, /) -> bytes: ...


class _Line(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An event as a producer writes it, or as `consume` and `tail` print it: then with where it stood."""

    event_type: str
    payload: Raw
    partition_key: str | None = None
    timestamp_ms: int | None = None
    headers: dict[str, str] | None = None
    event_id: str | None = None
    partition: int | None = None
    redis_id: str | None = None
    deliveries: int | None = None


_DECODER = msgspec.json.Decoder(_Line)
_ANY = msgspec.json.Decoder(Raw)


@dataclass(frozen=True)
class Reject:
    """A line that was not sent, or not taken."""

    line: int
    why: str
    text: bytes


@dataclass
class Chunk:
    """Lines `first` to `last`; the file goes on at `offset`."""

    first: int
    last: int
    offset: int
    #: Events as JSON, and the line of each.
    events: list[bytes] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


class LineFile:
    """Reads on from `offset`, which is where line `line` + 1 begins."""

    def __init__(self, file: Readable, encode: Encode, *, offset: int = 0, line: int = 0) -> None:
        self._file = file
        self._encode = encode
        self._offset = offset
        self._line = line

    def next_chunk(self, end: int | None = None) -> Chunk | None:
        """None when there is no line now: at the end of a file, or of what has come through a pipe.

        `end`: where the chunk ends, one that was cut before; else it has CHUNK_LINES lines or CHUNK_BYTES.
        """
        chunk = Chunk(self._line + 1, self._line, self._offset)
        size = 0
        while self._offset < end if end is not None else len(chunk.events) < CHUNK_LINES and size < CHUNK_BYTES:
            raw = self._file.readline(MAX_LINE_BYTES + 1)
            if not raw:
                break
            self._offset += len(raw)
            self._line += 1
            text = raw.strip()
            if len(raw) > MAX_LINE_BYTES:
                self._skip_rest_of_line(raw)
                chunk.rejects.append(Reject(self._line, f"longer than {MAX_LINE_BYTES} bytes", text[:1_000]))
            elif text:
                try:
                    event = self._encode(text)
                except ValueError as error:
                    chunk.rejects.append(Reject(self._line, str(error), text))
                else:
                    size += len(event)
                    chunk.events.append(event)
                    chunk.lines.append(self._line)
                    chunk.texts.append(text)
        chunk.last, chunk.offset = self._line, self._offset
        return chunk if chunk.last >= chunk.first else None

    def _skip_rest_of_line(self, raw: bytes) -> None:
        while raw and not raw.endswith(b"\n"):
            raw = self._file.readline(MAX_LINE_BYTES)
            self._offset += len(raw)


def as_event(text: bytes) -> bytes:
    """A line that is an event already; ValueError says what is wrong with it."""
    text.decode("utf-8")
    event = _DECODER.decode(text)
    if event.partition is None and event.redis_id is None and event.deliveries is None:
        return text
    event.partition = event.redis_id = event.deliveries = None
    return msgspec.json.encode(event)


def as_payload_of(event_type: str, key: str | None) -> Encode:
    """Lines that are payloads, each becoming an event of this type and key."""
    head = b'{"event_type":%b,' % msgspec.json.encode(event_type)
    if key is not None:
        head += b'"partition_key":%b,' % msgspec.json.encode(key)

    def encode(text: bytes) -> bytes:
        text.decode("utf-8")
        _ANY.decode(text)
        return b'%b"payload":%b}' % (head, text)

    return encode

"""Entries of a stream: fields `t` type, `p` payload, `s` timestamp, and when there is one `k` key and `h` headers.

Entries that others wrote into the stream are read as well as they can be: nobody's stray XADD may stop a partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import msgspec

from openstream_runtime.domain.events import NewEvent, StoredEvent
from openstream_runtime.domain.positions import Position
from openstream_runtime.log.scripts import Arg


def format_position(position: Position) -> bytes:
    return b"%d-%d" % position


def parse_position(raw: bytes) -> Position:
    ms, _, seq = raw.partition(b"-")
    return Position(int(ms), int(seq))


def parse_positions(ids: Sequence[bytes], count: int) -> list[Position]:
    """All ids, or the first and the last of `count` consecutive ones."""
    if len(ids) == count:
        return [parse_position(one) for one in ids]
    ms, seq = parse_position(ids[0])
    return list(map(Position._make, zip(repeat(ms, count), range(seq, seq + count), strict=True)))


def encode_events(args: list[Arg], events: Sequence[NewEvent]) -> None:
    """Append the arguments of the append script for these events to `args`. The hot path: see append.lua."""
    push = args.extend
    for event in events:
        key, headers = event.partition_key, event.headers
        if headers is None:
            if key is None:
                push((event.event_type, event.payload, event.timestamp_ms, b"0"))
            else:
                push((event.event_type, event.payload, event.timestamp_ms, b"1", key))
        elif key is None:
            push((event.event_type, event.payload, event.timestamp_ms, b"2", headers))
        else:
            push((event.event_type, event.payload, event.timestamp_ms, b"3", key, headers))


def decode_entry(entry: Any) -> StoredEvent:
    """An event of an entry `[id, [field, value, …]]`."""
    raw, fields = entry
    position = parse_position(raw)
    try:
        if fields[0] == b"t" and fields[2] == b"p" and fields[4] == b"s":
            key = headers = None
            if len(fields) > 6:
                rest = dict(zip(fields[6::2], fields[7::2], strict=True))
                key, headers = rest.get(b"k"), rest.get(b"h")
            return StoredEvent(
                position,
                fields[1].decode(),
                key.decode() if key is not None else None,
                fields[3],
                int(fields[5]),
                headers,
            )
    except (IndexError, ValueError):
        pass
    return _decode_foreign(position, dict(zip(fields[::2], fields[1::2], strict=False)))


def _decode_foreign(position: Position, fields: dict[bytes, bytes]) -> StoredEvent:
    """What a stranger wrote: no type is `""`, no payload null, one that is not JSON a JSON string of its text."""
    key, headers = fields.get(b"k"), fields.get(b"h")
    try:
        timestamp_ms = int(fields[b"s"])
    except (KeyError, ValueError):
        timestamp_ms = position.ms
    return StoredEvent(
        position,
        fields.get(b"t", b"").decode(errors="replace"),
        None if key is None else key.decode(errors="replace"),
        _json(fields.get(b"p", b"null")),
        timestamp_ms,
        headers if headers is not None and _is_headers(headers) else None,
    )


def _json(raw: bytes) -> bytes:
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return msgspec.json.encode(raw.decode(errors="replace"))
    return raw


def _is_headers(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw, type=dict[str, str])
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True

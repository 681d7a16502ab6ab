"""Events on their way out as CloudEvents: what came as one comes back as it was, what did not becomes one.

Headers are their producers' business, also those that look like ours: what would make an event that is no CloudEvent
is left out or read another way, so that one odd event never spoils the batch it stands in.
"""

from __future__ import annotations

import re
from binascii import Error as NoBase64
from binascii import a2b_base64
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from openstream_http.cloudevents.attributes import (
    BASE64,
    DATA_ENCODING,
    NONE,
    NOT_STRINGS,
    OURS,
    PREFIX,
    SPECIFIED,
    flaw,
    is_json,
    is_name,
    is_string,
)
from openstream_http.cloudevents.times import ms_of, time_of
from openstream_http.rendering import text
from openstream_runtime.domain.events import Delivery, StoredEvent

_HEADERS = msgspec.json.Decoder(dict[str, str])
_UNQUOTED = re.compile(r"true|false|-?(?:[1-9]\d{0,9}|0)", re.ASCII)
#: What the specification recommends for names; headers that have longer ones were not meant to be extensions.
_MAX_NAME = 20
_OPTIONAL = ("subject", "dataschema")
_SPECIFIED = {f"{PREFIX}{name}": name for name in SPECIFIED}


def handed_out(topic: str, deliveries: Sequence[Delivery]) -> bytes:
    """The events of a read or a claim as a batch."""
    return _batch(_cloud_event(topic, one.partition, one.event, one.deliveries) for one in deliveries)


def kept(topic: str, events: Sequence[tuple[int, StoredEvent]]) -> bytes:
    """A page of the history as a batch."""
    return _batch(_cloud_event(topic, partition, event) for partition, event in events)


def _batch(events: Iterable[bytes]) -> bytes:
    return b"[%b]" % b",".join(events)


def _cloud_event(topic: str, partition: int, event: StoredEvent, deliveries: int | None = None) -> bytes:
    headers = _HEADERS.decode(event.headers) if event.headers else {}
    at = f"{event.position.ms}-{event.position.seq}"
    said = {
        name: value
        for header, value in headers.items()
        if (name := _SPECIFIED.get(header)) is not None and flaw(name, value) is None
    }
    members = [
        b'{"specversion":"1.0","id":%b' % msgspec.json.encode(said.get("id") or f"{partition}-{at}"),
        b'"source":%b' % msgspec.json.encode(said.get("source") or f"/v1/topics/{topic}"),
        b'"type":%b' % text(event.event_type),
    ]
    members += [b'"%b":%b' % (name.encode(), msgspec.json.encode(said[name])) for name in _OPTIONAL if name in said]
    time = said.get("time")
    if time is None or ms_of(time) != event.timestamp_ms:
        time = time_of(event.timestamp_ms)
    if time is not None:  # a year beyond 9999, which no CloudEvent can say
        members.append(b'"time":%b' % msgspec.json.encode(time))
    if event.partition_key is not None:
        members.append(b'"partitionkey":%b' % text(event.partition_key))
    members += _extensions(headers)
    members.append(b'"openstreampartition":%d,"openstreamid":"%b"' % (partition, at.encode()))
    if deliveries is not None:
        members.append(b'"openstreamdeliveries":%d' % deliveries)
    members += _data(event, headers, said)
    return b",".join(members) + b"}"


def _extensions(headers: dict[str, str]) -> list[bytes]:
    if not headers:
        return []
    not_strings = headers.get(NOT_STRINGS, "").split(",")
    found: dict[str, bytes] = {}
    for header, value in headers.items():
        name = _extension_of(header)
        if name is None or not is_string(value) or (name in found and not header.startswith(PREFIX)):
            continue
        bare = name in not_strings and _UNQUOTED.fullmatch(value) is not None
        found[name] = b'"%b":%b' % (name.encode(), value.encode() if bare else msgspec.json.encode(value))
    return list(found.values())


@lru_cache(maxsize=1_000)
def _extension_of(header: str) -> str | None:
    """The extension that a header stands for; None: it is none, or an attribute with a place of its own."""
    name = header.removeprefix(PREFIX)
    if not is_name(name) or name in SPECIFIED or name in OURS:
        return None
    return name if header.startswith(PREFIX) or len(name) <= _MAX_NAME else None


def _data(event: StoredEvent, headers: dict[str, str], said: dict[str, str]) -> list[bytes]:
    encoding = headers.get(DATA_ENCODING)
    # An event that did not come as a CloudEvent is JSON, and says so; one that came without a type stays without.
    content_type = said.get("datacontenttype", None if PREFIX + "specversion" in headers else "application/json")
    is_text = event.payload[:1] == b'"'
    is_base64 = encoding == BASE64 and is_text and _is_base64(event.payload)
    none = encoding == NONE and event.payload == b"null"
    members = []
    if content_type is not None and (none or is_text or is_json(content_type)):
        members.append(b'"datacontenttype":%b' % msgspec.json.encode(content_type))
    if not none:
        members.append((b'"data_base64":%b' if is_base64 else b'"data":%b') % event.payload)
    return members


def _is_base64(payload: bytes) -> bool:
    try:
        a2b_base64(msgspec.json.decode(payload, type=str), strict_mode=True)
    except (NoBase64, ValueError):
        return False
    return True

"""The attributes of a CloudEvent 1.0.2: what they may be, and where each stands in an event of ours.

`type` is the event_type, `partitionkey` the partition_key, `time` the timestamp_ms. Every other attribute is the
event's header `ce-<name>`, but for those of tracing, which stand under their own name as anybody's do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import msgspec

from openstream_http import limits
from openstream_http.cloudevents.times import ms_of, time_of
from openstream_http.problems import invalid
from openstream_runtime.domain.events import NewEvent

Value = str | int | bool
#: Where in the request an attribute stands, for a problem to point at.
Where = Callable[[str], tuple[str | int, ...]]

PREFIX: Final = "ce-"
#: Headers of ours beside the attributes. No attribute can have these names: they hold a hyphen after the prefix.
DATA_ENCODING: Final = "ce-data-encoding"
NOT_STRINGS: Final = "ce-not-strings"
#: Values of DATA_ENCODING: the payload is a string of base64; the payload stands for no data at all.
BASE64, NONE = "base64", "none"
REQUIRED: Final = ("specversion", "id", "source", "type")
TRACING: Final = frozenset({"traceparent", "tracestate"})
#: What we add to events on their way out. An event that comes back with them is on its way to another place.
OURS: Final = frozenset({"openstreampartition", "openstreamid", "openstreamdeliveries"})
SPECIFIED: Final = frozenset({*REQUIRED, "datacontenttype", "dataschema", "subject", "time", "partitionkey", "data"})

_FORMS = frozenset({"source", "dataschema", "datacontenttype"})
_STRINGS = SPECIFIED | TRACING
_NAME = re.compile(r"[a-z0-9]+", re.ASCII)
#: What the type String excludes: control characters, surrogates, and what Unicode calls noncharacters.
_NO_STRING = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)
#: The characters of RFC 3986, with escapes that are whole.
_URI_REFERENCE = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+", re.ASCII)
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:.", re.ASCII)
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - RFC 9110's word for a word
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}[ \t]*(?:;.*)?", re.ASCII)


class Data(msgspec.Struct, frozen=True):
    """The data of an event as a payload. `encoding`: how to read it, BASE64, NONE or as it stands."""

    payload: bytes
    encoding: str | None = None


NO_DATA: Final = Data(b"null", NONE)


@lru_cache(maxsize=1_000)
def is_name(name: str) -> bool:
    """Whether an attribute may have this name; `data` is the event's own word."""
    return _NAME.fullmatch(name) is not None and name != "data"


def is_string(text: str) -> bool:
    """Whether the type String has room for it."""
    return (text.isascii() and text.isprintable()) or _NO_STRING.search(text) is None  # the first half is the fast one


def is_json(media_type: str | None) -> bool:
    """Whether data of this type is JSON. Without a type it is."""
    if media_type is None:
        return True
    subtype = media_type.partition(";")[0].strip().lower().partition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def check(attributes: Mapping[str, Value], where: Where) -> None:
    """Problem 422 unless these are the attributes of a CloudEvent, all of them set."""
    for name in REQUIRED:
        if name not in attributes:
            raise invalid("is missing: a CloudEvent has specversion, id, source and type", *where(name))
    if attributes["specversion"] != "1.0":
        raise invalid("expected 1.0, the version this node takes", *where("specversion"))
    for name, value in attributes.items():
        if msg := flaw(name, value):
            raise invalid(msg, *where(name))


def event_of(attributes: Mapping[str, Value], data: Data, now_ms: int, where: Where) -> NewEvent:
    """An event with these attributes, which have been checked; Problem 422 for what does not fit into one of ours."""
    headers = _headers(attributes, data.encoding)
    timestamp_ms = now_ms
    if "time" in attributes:
        text = str(attributes["time"])
        found = ms_of(text)
        if found is None:
            raise invalid("expected a time as in RFC 3339, not before 1970", *where("time"))
        timestamp_ms = found
        if time_of(found) != text:  # more precise than a millisecond, or in another time zone
            headers[f"{PREFIX}time"] = text
    encoded = msgspec.json.encode(headers)
    if len(headers) > limits.MAX_HEADERS:
        raise invalid(f"has more than {limits.MAX_HEADERS} attributes", *where(""))
    if len(encoded) > limits.MAX_HEADER_BYTES:
        raise invalid(f"has more than {limits.MAX_HEADER_BYTES} bytes of attributes", *where(""))
    key = attributes.get("partitionkey")
    return NewEvent(
        event_type=str(attributes["type"]),
        partition_key=None if key is None else str(key),
        payload=data.payload,
        timestamp_ms=timestamp_ms,
        headers=encoded,
    )


def flaw(name: str, value: Value) -> str | None:
    """What keeps this from being an attribute; None: nothing."""
    if len(name) > limits.MAX_HEADER_BYTES or (isinstance(value, str) and len(value) > limits.MAX_HEADER_BYTES):
        return f"expected at most {limits.MAX_HEADER_BYTES} bytes"  # and nothing longer in the caches below
    if not is_name(name):
        return "an attribute's name is made of a-z and 0-9, and is not data"
    if not isinstance(value, str):
        return "expected a string" if name in _STRINGS else None
    if not is_string(value):
        return "holds a character that CloudEvents excludes: a control character or no character at all"
    if name in SPECIFIED and not value:
        return "expected at least one character"
    if name == "type" and (len(value) > limits.MAX_TYPE_CHARS or not value.isprintable()):
        return f"expected at most {limits.MAX_TYPE_CHARS} printable characters"
    if name == "partitionkey" and len(value.encode()) > limits.MAX_KEY_BYTES:
        return f"expected at most {limits.MAX_KEY_BYTES} bytes"
    return _flaw_of_form(name, value) if name in _FORMS else None


@lru_cache(maxsize=1_000)
def _flaw_of_form(name: str, value: str) -> str | None:
    """The same for attributes that have a form and few values."""
    if name == "source" and _URI_REFERENCE.fullmatch(value) is None:
        return "expected a URI reference as in RFC 3986"
    if name == "dataschema" and not (_URI_REFERENCE.fullmatch(value) and _ABSOLUTE.match(value)):
        return "expected an absolute URI as in RFC 3986"
    if name == "datacontenttype" and _MEDIA_TYPE.fullmatch(value) is None:
        return "expected a media type"
    return None


def _headers(attributes: Mapping[str, Value], encoding: str | None) -> dict[str, str]:
    headers: dict[str, str] = {}
    not_strings = []
    for name, value in attributes.items():
        if name in {"type", "partitionkey", "time"} or name in OURS:
            continue
        if isinstance(value, str):
            headers[name if name in TRACING else f"{PREFIX}{name}"] = value
        else:
            headers[f"{PREFIX}{name}"] = str(value).lower()
            not_strings.append(name)
    if not_strings:
        headers[NOT_STRINGS] = ",".join(not_strings)
    if encoding is not None:
        headers[DATA_ENCODING] = encoding
    return headers

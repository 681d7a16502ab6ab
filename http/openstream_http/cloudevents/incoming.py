"""CloudEvents that come by HTTP, in each of the binding's three modes, as events of ours.

Structured and batched: JSON. Binary: attributes in headers `ce-<name>`, data as the body, its type as Content-Type.
JSON data is kept byte for byte. Text is kept as a string; what is neither is kept as a string of base64.
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import Error as NoBase64
from binascii import a2b_base64
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Raw
from quart import request

from openstream_http.bodies import decode, whole
from openstream_http.cloudevents.attributes import (
    BASE64,
    NO_DATA,
    PREFIX,
    REQUIRED,
    Data,
    Value,
    Where,
    check,
    event_of,
    is_json,
)
from openstream_http.edge import edge
from openstream_http.limits import MAX_EVENTS
from openstream_http.negotiation import CLOUD_EVENT, CLOUD_EVENTS
from openstream_http.problems import UNSUPPORTED_MEDIA_TYPE, Problem, invalid
from openstream_runtime.domain.events import NewEvent

_Event = dict[str, Raw]
_ONE = msgspec.json.Decoder(_Event)
_MANY = msgspec.json.Decoder(list[_Event])
_RAW = msgspec.json.Decoder(Raw)
_REQUIRED_HEADERS = tuple(f"{PREFIX}{name}" for name in REQUIRED)
_ESCAPED = re.compile(r"\\(.)")
#: Charsets whose text is UTF-8 as it stands.
_UTF_8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
#: Of a name that a problem points at; it may be as long as a body.
_MAX_LOC = 100
_INT_32 = range(-(2**31), 2**31)


def is_binary() -> bool:
    """Whether the request is a CloudEvent in binary mode: it has any of the headers that every such event has."""
    if request.mimetype.startswith("application/cloudevents"):
        return False
    return any(name in request.headers for name in _REQUIRED_HEADERS)


async def read_events(kind: str | None) -> list[NewEvent]:
    """The events of the request, in its order. `kind`: its media type, None in binary mode.

    An empty batch is a batch. Problem 400, 408, 413, 415, 422.
    """
    with edge().bodies.hold() as hold:
        body = await whole(hold)
        now_ms = edge().clock.now_ms()
        if kind == CLOUD_EVENTS:
            found = decode(_MANY, body)
            if len(found) > MAX_EVENTS:
                raise invalid(f"expected at most {MAX_EVENTS} events")
            return [_of_json(event, now_ms, index) for index, event in enumerate(found)]
        if kind == CLOUD_EVENT:
            return [_of_json(decode(_ONE, body), now_ms)]
        return [_of_binary(body, now_ms)]


def _of_json(event: _Event, now_ms: int, *at: str | int) -> NewEvent:
    def where(name: str) -> tuple[str | int, ...]:
        return (*at, name[:_MAX_LOC]) if name else at

    data, encoded = event.pop("data", None), event.pop("data_base64", None)
    attributes: dict[str, Value] = {}
    for name, raw in event.items():
        value = msgspec.json.decode(raw)
        if value is None:
            continue  # unset
        if not isinstance(value, str | bool) and not (isinstance(value, int) and value in _INT_32):
            raise invalid("expected a string, a boolean or an integer of 32 bits", *where(name))
        attributes[name] = value
    check(attributes, where)
    return event_of(attributes, _data(data, encoded, attributes.get("datacontenttype"), where), now_ms, where)


def _data(data: Raw | None, encoded: Raw | None, content_type: Value | None, where: Where) -> Data:
    if encoded is not None and bytes(encoded) != b"null":
        if data is not None:
            raise invalid("data and data_base64 exclude each other", *where("data_base64"))
        try:
            a2b_base64(msgspec.json.decode(encoded, type=str), strict_mode=True)
        except (msgspec.ValidationError, NoBase64, ValueError):  # the last: characters beyond ASCII
            raise invalid("expected a string of base64", *where("data_base64")) from None
        return Data(bytes(encoded), BASE64)
    if data is None:
        return NO_DATA
    payload = bytes(data)  # a copy: a slice would keep the whole body alive
    if isinstance(content_type, str) and not is_json(content_type) and payload[:1] != b'"':
        raise invalid("expected a string, as datacontenttype is not JSON", *where("data"))
    return Data(payload)


def _of_binary(body: bytes, now_ms: int) -> NewEvent:
    if "Content-Encoding" in request.headers:
        raise Problem(UNSUPPORTED_MEDIA_TYPE, "bodies are taken without Content-Encoding")
    attributes: dict[str, Value] = {}
    for header, text in request.headers:
        name = header.lower().removeprefix(PREFIX)
        if name == header.lower():
            continue
        if name in attributes:
            raise invalid("expected once", *_header(name))
        if name == "datacontenttype":
            raise invalid("the header Content-Type says it, and this one may not be there", "header", header.lower())
        attributes[name] = _unescaped(text, name)
    content_type = request.headers.get("Content-Type")
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    check(attributes, _header)
    return event_of(attributes, _binary_data(body, content_type), now_ms, _header)


def _header(name: str) -> tuple[str | int, ...]:
    if not name:
        return ("header",)
    return ("header", "content-type" if name == "datacontenttype" else f"{PREFIX}{name}")


def _unescaped(text: str, name: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise invalid("expected printable ASCII; the rest is percent-encoded", *_header(name))
    text = text.strip(" ")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = _ESCAPED.sub(r"\1", text[1:-1])
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise invalid("is not UTF-8 once it is percent-decoded", *_header(name)) from None


def _binary_data(body: bytes, content_type: str | None) -> Data:
    if not body:
        return NO_DATA
    if is_json(content_type):  # also without a type: SDKs leave it out then
        return Data(bytes(decode(_RAW, body)))
    if request.mimetype.startswith("text/") and request.mimetype_params.get("charset", "utf-8").lower() in _UTF_8:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            pass  # not what it says: its bytes are kept all the same
        else:
            if "\0" not in text:  # which PostgreSQL's jsonb cannot hold, so that no payload may
                return Data(msgspec.json.encode(text))
    return Data(b'"%b"' % b64encode(body), BASE64)

"""What may stand in a log line: no secret, no payload, no line of its own, nothing long.

Values are masked first and cut afterwards, so that a cut never hides the mark by which a secret is known. Patterns
catch the shapes that secrets come in; the secrets of this node are known by value and are removed wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote, urlsplit

MASK: Final = "***"
VALUE_LIMIT: Final = 256  # characters
EVENT_LIMIT: Final = 1_024
TRACEBACK_LIMIT: Final = 16_384
ITEMS_LIMIT: Final = 32
DEPTH_LIMIT: Final = 4
_SCAN_LIMIT: Final = 4 * TRACEBACK_LIMIT  # longer texts are cut before they are searched: a log call stays cheap
_MIN_SECRET: Final = 6  # a shorter secret by value would black out ordinary words

_SECRET_KEY = re.compile(
    r"authorization|token|secret|passw|pwd|cookie|credential|dsn|api[_-]?key|private[_-]?key|session", re.IGNORECASE
)
_PAYLOAD_KEY = re.compile(r"^(payloads?|body|headers|events?_?data|raw)$", re.IGNORECASE)
_KEY_CHARACTERS = re.compile(r"[^A-Za-z0-9_.\-]")

# Every repetition is bounded or eats what it matched: the texts are strangers', and the time must stay linear.
_PATTERNS: Final = (
    (re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}-----|\Z)", re.DOTALL), MASK),
    # PostgreSQL repeats the refused row here, payload and all; the sentence before it says what was wrong.
    (
        re.compile(r"\b(DETAIL|CONTEXT): .*?(?=\n\n(?:The above|During handling)|\n[ |]*\+-|\Z)", re.DOTALL),
        rf"\1: {MASK}",
    ),
    # scheme://user:password@host. A password may hold an unescaped / or @, so all up to the last @ of the word goes.
    (re.compile(r"([a-z][a-z0-9+.\-]{0,30}://)[^\s\"'<>]{0,512}@", re.IGNORECASE), rf"\1{MASK}@"),
    # JWTs, signed or not.
    (re.compile(r"(?<![\w\-])eyJ[\w\-]{4,}\.[\w\-]+(?:\.[\w\-]*)?"), MASK),
    (re.compile(r"\b(bearer)\s{1,8}[\w\-.~+/=]{8,}", re.IGNORECASE), rf"\1 {MASK}"),
    (
        re.compile(
            r"(authorization[\"']?\s{0,8}[=:]\s{0,8}[\"']?)(?:(?:bearer|basic|digest|token)\s{1,8})?[^\s,;\"']+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    # password=x · "secret": "x" · token: x · ?access_token=x · AUTH_JWT_SECRET='x'
    (
        re.compile(
            r"((?:token|secret|passw(?:or)?d|pwd|cookie|credentials?|api[_-]?key)[\w\-]{0,32}[\"']?\s{0,8}[=:]\s{0,8})"
            r"(?:\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?|[^\s,;&)\]}]+)",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
)
# Everything that ends a line somewhere, moves a cursor or turns text around.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Redaction:
    """A structlog processor: the event dict with every value fit to be read by anybody who reads logs."""

    def __init__(self, secrets: Iterable[str] = (), *, escape_controls: bool = False) -> None:
        """`secrets`: exact values to remove, of URLs the passwords. `escape_controls`: the renderer does not."""
        spellings = {spelling for secret in secrets for spelling in _spellings(secret) if len(spelling) >= _MIN_SECRET}
        longest_first = sorted(spellings, key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._escape_controls = escape_controls

    def __call__(self, _logger: Any, _method: str, event: Mapping[str, Any]) -> dict[str, Any]:
        return {self._key(key): self._field(str(key), value) for key, value in event.items()}

    def text(self, text: str, limit: int = VALUE_LIMIT) -> str:
        """A text without secrets, at most `limit` characters long."""
        masked = self._mask(text[:_SCAN_LIMIT])
        return masked if len(masked) <= limit else f"{masked[:limit]}…"

    def traceback(self, text: str) -> str:
        """A traceback without secrets. Its end says most, so that stays; each line is marked as part of it."""
        masked = self._mask(text[-_SCAN_LIMIT:])
        if len(masked) > TRACEBACK_LIMIT:
            masked = f"…{masked[-TRACEBACK_LIMIT:]}"
        return "\n".join(f"| {self._plain(line)}" for line in masked.split("\n"))

    def _mask(self, text: str) -> str:
        if self._values is not None:
            text = self._values.sub(MASK, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def _field(self, key: str, value: Any) -> Any:
        if key in {"exception", "stack"} and isinstance(value, str):
            return self.traceback(value)
        if key == "event" and isinstance(value, str):
            return self._plain(self.text(value, EVENT_LIMIT))
        return self._named(key, value, DEPTH_LIMIT)

    def _named(self, key: str, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if _SECRET_KEY.search(key):
            return MASK
        if _PAYLOAD_KEY.search(key):
            return f"<{len(value)} of {type(value).__name__}>" if hasattr(value, "__len__") else "<payload>"
        return self._value(value, depth)

    def _value(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, Enum):
            return self._value(value.value, depth)
        if isinstance(value, int):
            # Longer than any number of ours: a stranger's, and Python refuses to print the longest.
            return value if value.bit_length() <= 128 else f"<integer of {value.bit_length()} bits>"
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        if isinstance(value, str):
            return self._plain(self.text(value))
        if isinstance(value, BaseException):
            return self._plain(self.text(f"{type(value).__name__}: {_say(value)}"))
        if type(value).__str__ not in _SILENT:
            return self._plain(self.text(_say(value)))
        if depth <= 0:
            return "…"
        if isinstance(value, Mapping):
            items = list(value.items())[:ITEMS_LIMIT]
            return {self._key(key): self._named(str(key), inner, depth - 1) for key, inner in items}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value(inner, depth - 1) for inner in list(value)[:ITEMS_LIMIT]]
        # A repr may hold anything, a payload for one: a type that does not say how it reads as text shows its name.
        return f"<{type(value).__name__}>"

    def _key(self, key: Any) -> str:
        return _KEY_CHARACTERS.sub("_", self.text(str(key), 64))

    def _plain(self, text: str) -> str:
        if not self._escape_controls:
            return text
        return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


# The `__str__` of types that only repeat their repr.
_SILENT: Final[frozenset[object]] = frozenset(
    {object.__str__, dict.__str__, list.__str__, tuple.__str__, set.__str__, frozenset.__str__}
)


def _say(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # a log call never raises because of what it was given
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _spellings(secret: str) -> Iterable[str]:
    """A secret as it may turn up: as it is, percent-encoded or decoded; of a URL, its password."""
    if "://" in secret:
        with suppress(ValueError):  # no URL after all: then all of it
            secret = urlsplit(secret).password or ""
    return {secret, quote(secret, safe=""), quote_plus(secret), unquote(secret), repr(secret)[1:-1]}

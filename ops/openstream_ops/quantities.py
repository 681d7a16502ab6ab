"""Durations, sizes, times and places as people type them."""

import re
import time
from datetime import UTC, datetime

from openstream_ops.errors import UsageError

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNITS_BYTES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_ID = re.compile(r"\d{1,20}-\d{1,20}")


def duration_ms(text: str) -> int:
    """`90s`, `15m`, `2h`, `7d`, `500ms`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text.strip().lower())
    if found is None:
        raise UsageError(f"{text!r} is not a duration", "90s, 15m, 2h, 7d, 500ms")
    return round(float(found[1]) * _UNITS_MS[found[2]])


def size_bytes(text: str) -> int:
    """`512M`, `2G`, `1000`; powers of 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if found is None:
        raise UsageError(f"{text!r} is not a size", "512M, 2G, 1000")
    return round(float(found[1]) * _UNITS_BYTES[found[2]])


def time_ms(text: str, now: float | None = None) -> int:
    """`2026-11-23T09:00Z`, milliseconds since 1970, or a duration for that long ago. Without a zone: local time."""
    text = text.strip()
    if text.isascii() and text.isdecimal() and len(text) >= 12:
        return int(text)
    if re.fullmatch(r"\d+(\.\d+)?(ms|s|m|h|d)", text.lower()):
        return round((time.time() if now is None else now) * 1000) - duration_ms(text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a time", "2026-11-23T09:00Z, 15m (that long ago), or milliseconds") from None
    return round((when.astimezone(UTC) if when.tzinfo is None else when).timestamp() * 1000)


def place(text: str) -> tuple[str | None, int | None]:
    """Where a group begins, as `start_id`, `start_ms`: `earliest`, `latest`, an id, or a time."""
    match text.strip().lower():
        case "earliest" | "beginning" | "0-0":
            return "0-0", None
        case "latest" | "end" | "$":
            return "$", None
    if _ID.fullmatch(text.strip()):
        return text.strip(), None
    try:
        return None, time_ms(text)
    except UsageError:
        hint = "earliest, latest, an id (1730000000000-0), a time (2026-11-23T09:00Z), or 15m for that long ago"
        raise UsageError(f"{text!r} is not a place to begin", hint) from None


def since_ms(milliseconds: float | None) -> str:
    """`1.2 s`, `3 min`; for a person."""
    if milliseconds is None:
        return "-"
    seconds = milliseconds / 1000
    for bound, unit, step in ((1, "ms", 0.001), (120, "s", 1), (7_200, "min", 60), (172_800, "h", 3_600)):
        if seconds < bound:
            return f"{seconds / step:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"

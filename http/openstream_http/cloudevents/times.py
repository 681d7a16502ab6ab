"""Times as RFC 3339 writes them, to and from milliseconds since the epoch."""

from __future__ import annotations

import re
from calendar import timegm
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

#: The last millisecond of the year 9999: RFC 3339 knows no later one.
LAST_MS: Final = 253_402_300_799_999
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(?:\.(\d+))?"
    r"(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))",
    re.ASCII,
)


def ms_of(text: str) -> int | None:
    """Milliseconds since the epoch, cut off and not rounded; None for what is no time, or lies before the epoch."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, hours, minutes = found.groups()
    day_s = _day_s(int(year), int(month), int(day))
    if day_s is None:
        return None
    offset = 0 if sign is None else (int(hours) * 60 + int(minutes)) * (-60 if sign == "-" else 60)
    seconds = day_s + int(hour) * 3_600 + int(minute) * 60 + int(second) - offset
    ms = seconds * 1_000 + int(((fraction or "") + "000")[:3])
    return ms if ms >= 0 else None


def time_of(ms: int) -> str | None:
    """The shortest text for it; None after the year 9999."""
    if not 0 <= ms <= LAST_MS:
        return None
    seconds, rest = divmod(ms, 1_000)
    text = _second(seconds)
    return f"{text}.{rest:03}Z" if rest else f"{text}Z"


@lru_cache(maxsize=1_000)
def _day_s(year: int, month: int, day: int) -> int | None:
    """When a day begins; None when there is none such. Days repeat from event to event, as seconds do below."""
    try:
        return timegm(datetime(year, month, day, tzinfo=UTC).timetuple())
    except ValueError:
        return None


@lru_cache(maxsize=1_000)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")

"""Replay jobs: what is copied from one topic into another, how far it has come, and how fast it may go.

What a replay covers is fixed when it is made: from a first to a last position in each source partition. So it ends
while the source goes on growing, and whoever follows a dead owner copies the same events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from openstream_runtime.domain.events import NewEvent, StoredEvent, with_headers
from openstream_runtime.domain.positions import Position

#: Headers of a copy: `<topic>/<partition>/<ms>-<seq>` of the original, and the replay that made it.
ORIGIN, REPLAY = "openstream-replay-of", "openstream-replay"
SMOOTHING = 0.3  # of a new rate in the published one
MIN_RATE = 0.001  # events a second: one in a quarter of an hour; slower is standing still
_FOREVER_S = 3e9  # longer than this (a century) is no estimate


class ReplayState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Mark:
    """What makes an append of a replay happen once: kept in Redis beside the target partition, moved by the append.

    The batch holds source events after `after`, up to `upto`; it is kept only when the mark stands at `after`.
    """

    replay: str
    source: int
    after: Position
    upto: Position


@dataclass(frozen=True, slots=True)
class Part:
    """One source partition of a replay: everything after `position` up to `upto` is still to be copied."""

    partition: int
    #: Where it begins: after this. It goes on after `position`.
    start: Position
    upto: Position
    position: Position
    copied: int = 0
    #: For each target partition the last source position appended there, as last written down. Redis may be ahead of
    #: it and never behind, unless it lost something.
    marks: Mapping[int, Position] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.position >= self.upto


@dataclass(frozen=True, slots=True)
class NewReplay:
    """A replay that is asked for. Names are kept for people; the ids say which topics of those names are meant."""

    id: str
    source_id: int
    source: str
    target_id: int
    target: str
    target_partitions: int
    #: As asked, both ends included; None for everything.
    first: Position | None
    last: Position | None
    rate_per_s: float | None
    #: About how many events there are; None when they could not be counted in time.
    total: int | None
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay as PostgreSQL knows it."""

    id: str
    source_id: int
    source: str
    target_id: int
    target: str
    target_partitions: int
    first: Position | None
    last: Position | None
    rate_per_s: float | None
    total: int | None
    parts: Sequence[Part]
    state: ReplayState
    copied: int
    #: Events a second, smoothed, as the owner last said.
    rate: float
    error: str | None
    owner: str | None
    epoch: int
    created_ms: int
    updated_ms: int
    finished_ms: int | None

    @property
    def eta_ms(self) -> int | None:
        """How long it will still take, as far as that can be told."""
        if self.state is not ReplayState.RUNNING:
            return None
        rate = self.rate or self.rate_per_s
        if not rate or self.total is None:
            return None
        seconds = max(0, self.total - self.copied) / rate
        # The rate of a replay that stands still fades towards zero, and a float towards infinity is no number of ms.
        return round(1000 * seconds) if seconds < _FOREVER_S else None


def copy_of(event: StoredEvent, topic: str, partition: int, replay: str) -> NewEvent:
    """The event to append in the target, saying where it comes from."""
    origin = f"{topic}/{partition}/{event.position}"
    return NewEvent(
        event.event_type,
        event.partition_key,
        event.payload,
        event.timestamp_ms,
        with_headers(event.headers, {ORIGIN: origin, REPLAY: replay}),
    )


def origin_of(headers: bytes | None, topic: str, partition: int, replay: str) -> Position | None:
    """The source position of a copy this replay made of that partition; None for every other event."""
    if headers is None or replay.encode() not in headers:
        return None
    try:
        said = msgspec.json.decode(headers, type=dict[str, str])
    except msgspec.DecodeError:
        return None
    place, _, position = said.get(ORIGIN, "").rpartition("/")
    return Position.parse(position) if (place, said.get(REPLAY)) == (f"{topic}/{partition}", replay) else None


class Bucket:
    """A token bucket that begins empty: after `t` seconds it has given `rate * t` tokens at most. Half a second of
    pauses is made good, more is not: a consumer behind it sees no flood. Pure; who uses it brings the clock."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._tokens = 0.0
        self._at = now
        #: Tokens are given in lumps: an append of one event costs nearly what one of a hundred does.
        self._lump = max(1.0, rate / 40)
        self._most = max(2.0, rate / 2)

    def take(self, wanted: int, now: float) -> int:
        """As many tokens as there are, up to `wanted`; 0 when it is better to wait."""
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
        self._at = now
        given = min(wanted, int(self._tokens + 1e-9))
        if given < min(wanted, int(self._lump)):
            return 0
        self._tokens -= given
        return given

    def wait(self, wanted: int) -> float:
        """Seconds until `take` gives something."""
        return max(0.001, (min(wanted, int(self._lump)) - self._tokens) / self._rate)


class Pace:
    """Events a second, smoothed."""

    def __init__(self, copied: int, now: float) -> None:
        self._copied = copied
        self._at = now
        self._known = False
        self.rate = 0.0

    def observe(self, copied: int, now: float) -> None:
        elapsed = now - self._at
        if elapsed <= 0:
            return
        rate = (copied - self._copied) / elapsed
        self.rate = SMOOTHING * rate + (1 - SMOOTHING) * self.rate if self._known else rate
        self._copied, self._at, self._known = copied, now, True

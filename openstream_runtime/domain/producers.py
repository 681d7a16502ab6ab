"""Producers that may repeat themselves: who sends, in which life, and as which number, so that nothing is kept twice.

A producer's events in a topic are numbered. One partition, its home, admits its requests one after the other; every
partition that gets a share of a request keeps that share once. A request that is repeated finds what was kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from xxhash import xxh3_64_intdigest, xxh3_128

from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.partitioning import partition_of
from openstream_runtime.domain.tracing import TRACEPARENT, TRACESTATE

#: Exact in every JSON parser, and in a Lua number.
MAX_NUMBER = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the producer says. `epoch` grows with each of its lives, `seq` is the number of the first event."""

    producer: str
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A stamped request: so many events, with this content."""

    stamp: Stamp
    count: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Admission:
    """What the home remembers of a request it let in, by Redis' clock: since when its epoch and itself are known.

    A partition that has lost or forgotten what it was told since then cannot know whether it has kept the share.
    """

    epoch_ms: int
    begun_ms: int


@dataclass(frozen=True, slots=True)
class Once:
    """What makes one partition's share of a request be kept once."""

    turn: Turn
    admission: Admission


@dataclass(frozen=True, slots=True)
class Memory:
    """How much of it a partition of Redis remembers: at least this, at most about twice."""

    #: How long a producer may be silent, and how many of them are known.
    producer_ms: int = 86_400_000
    producers: int = 10_000
    #: How long and how many ids of events are known; whichever ends first.
    event_id_ms: int = 600_000
    event_ids: int = 50_000


MEMORY = Memory()


def turn_of(stamp: Stamp, events: Sequence[NewEvent]) -> Turn:
    # Timestamps and traces are left out: the node supplies those, and others when the request is repeated.
    digest = xxh3_128()
    for event in events:
        for part in (event.event_type, event.partition_key, event.payload, _untraced(event.headers), event.event_id):
            raw = b"" if part is None else part.encode() if isinstance(part, str) else part
            digest.update(b"-" if part is None else b"%d:" % len(raw))
            digest.update(raw)
    return Turn(stamp, len(events), digest.digest())


def _untraced(headers: bytes | None) -> bytes | None:
    if headers is None or b'"trace' not in headers:
        return headers
    found = msgspec.json.decode(headers, type=dict[str, str])
    rest = {name: value for name, value in found.items() if name not in {TRACEPARENT, TRACESTATE}}
    return msgspec.json.encode(rest) if rest else None


def home_of(producer: str, partitions: int) -> int:
    """The partition that admits a producer's requests."""
    return partition_of(producer, partitions)


def keyless_partition(stamp: Stamp, partitions: int) -> int:
    """Where the events of a request stand that have no key: the same for every repetition, on any node."""
    return scattered(f"{stamp.producer}:{stamp.epoch}:{stamp.seq}", partitions)


def scattered(name: str, partitions: int) -> int:
    """A partition for a name that comes once, which would only fill the cache of `partition_of`."""
    return xxh3_64_intdigest(name.encode()) % partitions

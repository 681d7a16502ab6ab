"""How far a stream may be trimmed: never past what is persisted, and not further than retention asks."""

from __future__ import annotations

from typing import NamedTuple

from openstream_runtime.domain.ledger import Ledger
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import TopicSettings


class Trim(NamedTuple):
    """Entries below a position may go."""

    below: Position
    #: What set the bound: `retention_ms`, `retention_bytes`, `length`, `memory`; `cursor`: these would go further.
    bound_by: str


def trim_below(
    settings: TopicSettings,
    *,
    first: Position,
    cursor: Position,
    ledger: Ledger,
    length: int,
    target_len: int,
    size: int | None,
    now_ms: int,
    default_retention_ms: int,
    memory_is_short: bool = False,
) -> Trim | None:
    """How far a stream may be trimmed, or None for not at all. The cursor bounds all of it.

    `length` and `size` (bytes, when the topic bounds them) are the stream's, `target_len` the length to keep it to.
    Age is exact. A bound by length, or by bytes through the mean size, is exact to a batch of the ledger. When Redis'
    memory is short, everything that is persisted goes: readers find it in PostgreSQL.
    """
    if memory_is_short:
        return Trim(cursor.next(), "memory") if cursor.next() > first else None
    retention_ms = default_retention_ms if settings.retention_ms is None else settings.retention_ms
    bound, by = Position(max(0, now_ms - retention_ms), 0), "retention_ms"
    keep, kept_by = target_len, "length"
    if settings.retention_bytes is not None and size is not None and size > settings.retention_bytes:
        keep, kept_by = min((length * settings.retention_bytes // size, "retention_bytes"), (keep, kept_by))
    if length > keep:
        bound, by = max((bound, by), (_keeping(keep, first=first, ledger=ledger, length=length), kept_by))
    bound, by = min((bound, by), (cursor.next(), "cursor"))
    return Trim(bound, by) if bound > first else None


def _keeping(keep: int, *, first: Position, ledger: Ledger, length: int) -> Position:
    """The bound that leaves at least `keep` committed events in the stream, as far as can be known."""
    counted = ledger.keeping(keep)
    if counted is not None:
        return counted.next()
    # The cut lies before the ledger begins, where the last owner counted. Spread those events evenly over their time:
    # an error is made good when this owner has counted enough, and never reaches what it has counted.
    before = length - ledger.total
    if before <= 0:
        return first
    excess = min(length - keep, before)
    span = ledger.start.ms - first.ms
    if span <= 0:
        reach = Position(first.ms, first.seq + excess)
    else:
        reach = Position(first.ms + max(1, span * excess // before), 0)
    return min(reach, ledger.start.next())

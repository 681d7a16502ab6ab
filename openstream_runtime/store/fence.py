"""The fence: which batches of a write may be written, decided on locked cursor rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from openstream_runtime.domain.positions import Cursor, Position
from openstream_runtime.ports.store import PersistBatch

#: (topic id, partition)
Key = tuple[int, int]


@dataclass(slots=True)
class Move:
    """A cursor that moves, over how many events, and the time in the id of the first of them."""

    upto: Position
    events: int
    first_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    #: For each batch, in order: may it be written.
    live: Sequence[bool]
    moves: Mapping[Key, Move]


def check(batches: Iterable[PersistBatch]) -> None:
    """ValueError for a batch that contradicts itself: a bug of the caller, and under the fence it would lose events."""
    for batch in batches:
        if batch.upto < batch.after:
            raise ValueError(f"a batch ends before it begins: {batch.after} to {batch.upto}")
        if batch.events and not (batch.after < batch.events[0].position and batch.events[-1].position <= batch.upto):
            raise ValueError(f"a batch holds events outside its range: {batch.after} to {batch.upto}")


def judge(batches: Sequence[PersistBatch], cursors: Mapping[Key, Cursor]) -> Verdict:
    """`cursors` holds the open partitions as they are now. Batches of one partition may follow each other."""
    live: list[bool] = []
    moves: dict[Key, Move] = {}
    for batch in batches:
        key = (batch.topic_id, batch.partition)
        cursor = cursors.get(key)
        if cursor is None:
            live.append(False)
            continue
        position = moves[key].upto if key in moves else cursor.position
        if (batch.epoch, batch.generation, batch.after) != (cursor.epoch, cursor.generation, position):
            live.append(False)
            continue
        live.append(True)
        move = moves.setdefault(key, Move(batch.after, 0))
        move.upto = batch.upto
        move.events += len(batch.events)
        if move.first_ms is None and batch.events:
            move.first_ms = batch.events[0].position.ms
    return Verdict(live, moves)

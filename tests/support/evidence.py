"""What others than clients saw of a run: PostgreSQL of its cursors, a watcher of Redis, the nodes of themselves.

All times are on the clock of `time.monotonic`. Nothing here is the product's own word for it but its counters, which
are held against the rest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from support.history import History, Id, Outcome

#: Names of applications end here in PostgreSQL.
NAME_BYTES = 63


class Move(NamedTuple):
    """A partition was taken, or its cursor moved: one update of its row, in the order of commits."""

    partition: int
    epoch: int
    #: The node that had taken the partition.
    owner: str
    #: The connection that wrote, by its application's name.
    writer: str
    before: Id
    after: Id
    #: When the row was written; the commit came later.
    at: float

    @property
    def is_by_owner(self) -> bool:
        return f"openstream {self.owner}"[:NAME_BYTES] == self.writer


class Look(NamedTuple):
    """What stands below `first` had gone from Redis, at the latest, at that time."""

    at: float
    partition: int
    first: Id


@dataclass(slots=True)
class Evidence:
    """Of one run."""

    moves: Sequence[Move] = ()
    looks: Sequence[Look] = ()
    #: Events appended and persisted, as nodes count that lived from the beginning to the end; None: some did not.
    counted: tuple[int, int] | None = None
    #: When the last fault had ended; None: there was none.
    healed: float | None = None
    #: Seconds from there until an event must be answered, and until everything from before must have arrived.
    first_ok_s: float = 15.0
    drained_s: float = 45.0
    _reached: dict[int, list[tuple[float, Id]]] = field(init=False)

    def __post_init__(self) -> None:
        self._reached = defaultdict(list)
        highest: dict[int, Id] = {}
        for move in self.moves:
            highest[move.partition] = max(move.after, highest.get(move.partition, (0, 0)))
            self._reached[move.partition].append((move.at, highest[move.partition]))

    def persisted_at(self, partition: int, at: float) -> Id:
        """The highest position PostgreSQL may have had by then."""
        reached = self._reached[partition]
        number = bisect_right(reached, at, key=lambda one: one[0])
        return reached[number - 1][1] if number else (0, 0)

    def persisted_since(self, partition: int, position: Id) -> float | None:
        """When PostgreSQL got as far as this position."""
        return next((at for at, reached in self._reached[partition] if reached >= position), None)


class Recovery(NamedTuple):
    """Seconds from the end of a fault; None: never."""

    #: Until an event sent after it was answered.
    first_ok_s: float | None
    #: Until everything answered before it had come to every group and to PostgreSQL.
    drained_s: float | None

    @property
    def whole_s(self) -> float | None:
        return None if self.first_ok_s is None or self.drained_s is None else max(self.first_ok_s, self.drained_s)


def recovery_of(history: History, evidence: Evidence, groups: Sequence[str]) -> Recovery:
    """How long the run took to be itself again."""
    healed = evidence.healed
    if healed is None:
        return Recovery(0.0, 0.0)
    ok = [(ev, history.sent[ev]) for ev in history.with_outcome(Outcome.OK)]
    answers = [sent.answered for _, sent in ok if sent.answered is not None and sent.invoked >= healed]
    before = {ev: sent for ev, sent in ok if sent.answered is not None and sent.answered <= healed}
    times: list[float | None] = []
    for group in groups:
        arrived: dict[object, float] = {}
        for read in history.reads:
            if read.group == group:
                for item in read.items:
                    arrived[item.seen.ev] = min(read.ended, arrived.get(item.seen.ev, read.ended))
        times += [arrived.get(ev) for ev in before]
    highest: dict[int, Id] = {}
    for sent in before.values():
        if sent.partition is not None and sent.id is not None:
            highest[sent.partition] = max(sent.id, highest.get(sent.partition, sent.id))
    times += [evidence.persisted_since(partition, position) for partition, position in highest.items()]
    return Recovery(min(answers) - healed if answers else None, _last(times, healed))


def _last(times: Iterable[float | None], since: float) -> float | None:
    latest = since
    for at in times:
        if at is None:
            return None
        latest = max(latest, at)
    return latest - since

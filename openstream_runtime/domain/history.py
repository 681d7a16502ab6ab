"""What is asked of history: a span of a partition's log, and the place where a reading goes on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from openstream_runtime.domain.errors import InvalidRequest
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.positions import ZERO, Position

#: No event stands after it.
END = Position(2**63 - 1, 2**63 - 1)
_PLACE = re.compile(r"p([0-9]{1,4})@([0-9-]{3,41})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """Events from `first` to `last`, both included; with that key and of that type, where one is given."""

    first: Position = ZERO
    last: Position = END
    key: str | None = None
    event_type: str | None = None

    def takes(self, event: StoredEvent) -> bool:
        """Whether key and type fit. The position is the business of whoever reads the log."""
        return (self.key is None or event.partition_key == self.key) and (
            self.event_type is None or event.event_type == self.event_type
        )


class Place(NamedTuple):
    """Where a reading of several partitions goes on. They are read one after the other, so one position says it all:
    the partitions before this one are done, those after it have not begun. Text: `p<partition>@<ms>-<seq>`."""

    partition: int
    position: Position

    def __str__(self) -> str:
        return f"p{self.partition}@{self.position}"

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """None for what does not look like one; InvalidRequest for one whose position cannot be."""
        match = _PLACE.fullmatch(text)
        return None if match is None else cls(int(match[1]), Position.parse(match[2]))


def first_at(ms: int) -> Position:
    """The first position of a millisecond."""
    return Position(ms, 0)


def last_at(ms: int) -> Position:
    """The last position of a millisecond."""
    if not 0 <= ms <= END.ms:
        raise InvalidRequest("expected a time in milliseconds since the epoch")
    return Position(ms, END.seq)


def before(position: Position) -> Position:
    """The largest position below this one; ZERO has none and stays what it is."""
    if position.seq > 0:
        return Position(position.ms, position.seq - 1)
    return Position(position.ms - 1, END.seq) if position.ms > 0 else ZERO

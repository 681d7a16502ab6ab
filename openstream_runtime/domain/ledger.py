"""The ledger of an owner: how many events it has committed after which position.

A stream can be cut at an id and cannot be asked how many entries stand before one. The owner of a partition commits
every event, so it can count: that makes a bound by length exact to a batch, however unevenly the events came.
"""

from __future__ import annotations

from collections import deque

from openstream_runtime.domain.positions import Position

GRAIN = 8  # events between two entries; smaller batches are written as one
LONGEST = 2048  # entries, before every second one is dropped


class Ledger:
    """Committed events since a position; grows with each batch, shrinks with each trim."""

    def __init__(self, start: Position) -> None:
        #: Where counting began. What stands before it was not counted.
        self.start = start
        self.total = 0
        self._entries: deque[tuple[Position, int]] = deque([(start, 0)])

    def add(self, upto: Position, count: int, *, grain: int = GRAIN) -> None:
        """`count` events up to and including `upto` were committed. `grain`: events between two entries, or more."""
        self.total += count
        entries = self._entries
        if len(entries) > 1 and self.total - entries[-2][1] < grain:
            entries.pop()
        entries.append((upto, self.total))
        if len(entries) > LONGEST:
            self._entries = deque(entry for index, entry in enumerate(entries) if index % 2 == 0 or index == LONGEST)

    def keeping(self, count: int) -> Position | None:
        """The highest counted position after which at least `count` counted events stand; None when there are fewer."""
        found = None
        for position, before in self._entries:
            if self.total - before < count:
                break
            found = position
        return found

    def forget(self, below: Position) -> None:
        """Entries below this position are gone from the stream; the last one before it stays as the new beginning."""
        while len(self._entries) > 1 and self._entries[1][0] < below:
            self._entries.popleft()

"""How long ago a position was left behind: lag in seconds, made of what was seen of the streams' ends.

A stream's end is looked at every few seconds. What stands after a position was appended after the last look at which
the stream still ended there; ids add that it was not appended before the position itself. Both are bounds from above,
and neither compares our clock with Redis'. A quiet stream whose one new event waits is therefore late by the wait of
that event, not by the silence before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from openstream_runtime.domain.positions import ZERO, Position, TopicPartition

#: Looks that are remembered of one partition. The older half is thinned out: an old lag may be a little coarse.
MARKS = 32


@dataclass(slots=True)
class _Mark:
    """The stream ended at `last`: first and last time that was seen, in monotonic seconds."""

    last: Position
    since: float
    until: float


class LagClock:
    """Remembers where streams ended, and when."""

    def __init__(self) -> None:
        self._marks: dict[TopicPartition, list[_Mark]] = {}

    def saw(self, ends: Mapping[TopicPartition, Position], now: float, now_ms: int) -> None:
        """Every stream's last position as it is now. Partitions that are not among them are forgotten.

        `now_ms`: the wall clock, which only dates the end of a stream that is seen for the first time.
        """
        self._marks = {at: self._marked(self._marks.get(at, []), last, now, now_ms) for at, last in ends.items()}

    def behind(self, at: TopicPartition, position: Position, now: float) -> float:
        """For how many seconds at most something has stood after a position; 0 when nothing does."""
        marks = self._marks.get(at)
        if not marks or position >= marks[-1].last:
            return 0.0
        newest = marks[-1]
        bounds = []
        passed = bisect_right(marks, position, key=lambda mark: mark.last)
        if passed:
            bounds.append(now - marks[passed - 1].until)
        if position > ZERO:
            bounds.append((newest.last.ms - position.ms) / 1000 + now - newest.since)
        # The beginning of all things has no date: then at least since the oldest end that was seen.
        return max(0.0, min(bounds, default=now - marks[0].since))

    @staticmethod
    def _marked(marks: list[_Mark], last: Position, now: float, now_ms: int) -> list[_Mark]:
        if not marks or last < marks[-1].last:  # new to us, or Redis lost its tail: the old looks say nothing any more
            return [_Mark(last, now - max(0, now_ms - last.ms) / 1000 if last > ZERO else now, now)]
        if marks[-1].last == last:
            marks[-1].until = now
        else:
            marks.append(_Mark(last, now, now))
        if len(marks) > MARKS:
            del marks[1 : MARKS // 2 : 2]
        return marks

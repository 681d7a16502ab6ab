"""How high a log's ids stand, as far as one node has seen, and how high they may stand by now. Pure.

Redis gives ids by its own clock, or one after the other where that clock has gone back. So what it has given since
somebody looked is at most as much later than what was seen as time has passed.
"""

from __future__ import annotations

from collections.abc import Collection

from openstream_runtime.domain.positions import ZERO, Position, TopicPartition


class Heights:
    """The highest position seen in each partition, and when. Times are monotonic seconds, from before the look."""

    def __init__(self) -> None:
        self._seen: dict[TopicPartition, tuple[Position, float]] = {}

    def saw(self, at: TopicPartition, position: Position, now: float) -> None:
        """A log that came back empty or behind lowers nothing: what it had given stays given."""
        if at not in self._seen or position > self._seen[at][0]:
            self._seen[at] = position, now

    def above(self, at: TopicPartition, now: float) -> Position:
        """Above everything that was seen, and above what nobody has told us of; ZERO when nothing was seen."""
        if at not in self._seen:
            return ZERO
        position, seen = self._seen[at]
        return Position(position.ms + 1 + round((now - seen) * 1000), 0)

    def keep_only(self, partitions: Collection[TopicPartition]) -> None:
        """Forget what is gone."""
        self._seen = {at: seen for at, seen in self._seen.items() if at in partitions}

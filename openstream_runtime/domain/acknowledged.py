"""What a node's producers were told is appended, and PostgreSQL was not seen to have: kept for the day Redis loses it.

Positions, not events, and only while they are in question: some bytes for each millisecond in which something came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from openstream_runtime.domain.positions import ZERO, Position, TopicPartition

#: Of a node, some 35 MB. Beyond them the oldest of a partition are forgotten: PostgreSQL has been away for long then.
MOST_RUNS = 200_000


class Run(NamedTuple):
    """Consecutive positions of one millisecond."""

    ms: int
    first: int
    last: int

    @property
    def end(self) -> Position:
        return Position(self.ms, self.last)

    def __len__(self) -> int:
        return self.last - self.first + 1

    def positions(self) -> list[Position]:
        return [Position(self.ms, seq) for seq in range(self.first, self.last + 1)]


class Tail:
    """Of one partition, in the order of the log."""

    def __init__(self, topic_id: int) -> None:
        self.topic_id = topic_id
        self.runs: deque[Run] = deque()
        #: Those that Redis may have lost.
        self.doubtful: deque[Run] = deque()
        self._verified_ms: int | None = None
        self._cursor = ZERO

    def look(self, verified_ms: int, cursor: Position) -> None:
        """The partition was last verified anew then; and, seen after that, PostgreSQL has everything up to there."""
        if self._verified_ms is not None and verified_ms != self._verified_ms:
            self.doubtful += self.runs
            self.runs.clear()
        while self.runs and self.runs[0].ms <= verified_ms:  # the verification came later, by Redis' own clock
            self.doubtful.append(self.runs.popleft())
        # By the cursor of the look before: up to there it was moved by events and not by what they were lost with.
        while self.runs and self.runs[0].end <= self._cursor:
            self.runs.popleft()
        self._verified_ms, self._cursor = verified_ms, cursor

    def decided(self, most: int) -> list[Run]:
        """Doubtful runs of which it is certain by now what became of them, about `most` positions: taken out."""
        found, count = [], 0
        while self.doubtful and self.doubtful[0].end <= self._cursor and count < most:
            found.append(self.doubtful.popleft())
            count += len(found[-1])
        return found

    def __len__(self) -> int:
        return len(self.runs) + len(self.doubtful)


class Acknowledged:
    """One for each node. Lives outside the tree: it survives every restart of an actor."""

    def __init__(self, most: int = MOST_RUNS) -> None:
        self.tails: dict[TopicPartition, Tail] = {}
        #: Events that were given up on because there were too many of them.
        self.forgotten = 0
        self._most = most
        self._count = 0

    def add(self, at: TopicPartition, topic_id: int, positions: Sequence[Position]) -> None:
        """These were appended, in this order."""
        if not positions:
            return
        tail = self.tails.get(at)
        if tail is None or tail.topic_id != topic_id:
            tail = self.tails[at] = Tail(topic_id)
        for run in _runs(positions):
            if tail.runs and tail.runs[-1].ms == run.ms and tail.runs[-1].last + 1 == run.first:
                tail.runs[-1] = Run(run.ms, tail.runs[-1].first, run.last)
            else:
                tail.runs.append(run)
                self._count += 1
        if self._count > self._most:
            self._count = sum(map(len, self.tails.values()))
            while self._count > self._most and tail.runs:
                self.forgotten += len(tail.runs.popleft())
                self._count -= 1

    def keep_only(self, partitions: Collection[TopicPartition]) -> None:
        """Forget partitions that are gone."""
        self.tails = {at: tail for at, tail in self.tails.items() if at in partitions}


def _runs(positions: Sequence[Position]) -> Iterator[Run]:
    """The hot path is the first line: ids of one append are nearly always consecutive."""
    first, last = positions[0], positions[-1]
    if first.ms == last.ms and last.seq - first.seq == len(positions) - 1:
        yield Run(first.ms, first.seq, last.seq)
        return
    ms, begin, end = first.ms, first.seq, first.seq
    for position in positions[1:]:
        if position != (ms, end + 1):
            yield Run(ms, begin, end)
            ms, begin = position
        end = position.seq
    yield Run(ms, begin, end)

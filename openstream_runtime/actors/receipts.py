"""Receipts: who waits for the word that PostgreSQL has what was appended.

It lives outside the tree, so no restart forgets who waits. Persisters of this node say what they have committed, and
that alone settles a share; the confirmer asks about what other nodes persist.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter

import anyio

from openstream_runtime.actors.board import Changed
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.domain.topics import Topic

#: A topic's id and a partition: a topic that is created again under its name is another one.
Key = tuple[int, int]


class Share:
    """A request's events in one partition. They were appended as one step and are copied in order."""

    def __init__(self, topic: Topic, partition: int, positions: Sequence[Position], since: float) -> None:
        self.key: Key = (topic.id, partition)
        self.at = TopicPartition(topic.name, partition)
        self.positions = positions
        #: When the waiting began, in monotonic seconds.
        self.since = since
        #: Which of the positions PostgreSQL has; what is not among them is lost. None as long as it is not decided.
        self.held: Collection[Position] | None = None
        self.settled = anyio.Event()
        #: A commit of this node had the first event. Only a share larger than a copier's batch waits for a second one.
        self._begun = False

    @property
    def last(self) -> Position:
        return self.positions[-1]

    @property
    def ends(self) -> tuple[Position, ...]:
        """The positions that speak for all: what lies between two events that were copied was copied."""
        return (self.positions[0], self.last) if len(self.positions) > 1 else (self.last,)

    def seen(self, events: Sequence[StoredEvent]) -> bool:
        """Whether these committed events, and those before them, had the whole share."""
        self._begun = self._begun or _holds(events, self.positions[0])
        return self._begun and _holds(events, self.last)


class Line:
    """Who waits on one partition, the longest waiting first."""

    def __init__(self, at: TopicPartition, now: float) -> None:
        self.at = at
        #: A dict for its order and its quick removal.
        self.shares: dict[Share, None] = {}
        #: When the confirmer last looked how far the owner is, and when it last asked PostgreSQL itself.
        self.looked = now
        self.asked = now
        #: How far anybody was seen to be. A share that ends before it is in PostgreSQL, or lost.
        self.passed = ZERO
        #: There may be such a share: look at once.
        self.doubtful = False

    @property
    def since(self) -> float:
        return self.oldest.since

    @property
    def oldest(self) -> Share:
        return next(iter(self.shares))


class Receipts:
    """All lines of a node."""

    def __init__(self) -> None:
        self.lines: dict[Key, Line] = {}
        #: Told when there is something to look after that was not there before.
        self.grown = Changed()
        #: How far this node's own commits came: who begins to wait behind one has missed it.
        self._committed: dict[Key, Position] = {}
        self._scopes: set[anyio.CancelScope] = set()
        self._patience = float("inf")

    async def wait(self, shares: Iterable[Share], timeout: float) -> None:
        """Until every share is settled, or the time is up. Afterwards nobody waits for them any more."""
        shares = list(shares)
        scope = anyio.CancelScope(deadline=anyio.current_time() + min(timeout, self._patience))
        self._scopes.add(scope)
        try:
            for share in shares:
                self._join(share)
            with scope:
                for share in shares:
                    await share.settled.wait()
        finally:
            self._scopes.discard(scope)
            for share in shares:
                self._leave(share)

    def committed(self, topic: Topic, partition: int, events: Sequence[StoredEvent]) -> None:
        """This node's persister has committed these events, the next ones of that partition."""
        key, upto = (topic.id, partition), events[-1].position
        self._committed[key] = upto
        line = self.lines.get(key)
        if line is None:
            return
        for share in list(line.shares):
            if share.seen(events):
                self.settle(share, share.positions)
            elif share.last <= upto:
                self._doubt(line, upto)

    def settle(self, share: Share, held: Collection[Position]) -> None:
        """It is decided which of these events PostgreSQL has."""
        share.held = held
        share.settled.set()
        self._leave(share)

    def hurry(self, seconds: float) -> None:
        """The node drains: nobody waits longer than this from now on."""
        self._patience = seconds
        deadline = anyio.current_time() + seconds
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, deadline)

    def keep_only(self, topics: Collection[int]) -> None:
        """Forget how far topics came that are gone."""
        self._committed = {key: at for key, at in self._committed.items() if key[0] in topics}

    def __len__(self) -> int:
        return sum(len(line.shares) for line in self.lines.values())

    def _join(self, share: Share) -> None:
        line = self.lines.get(share.key)
        if line is None:
            line = self.lines[share.key] = Line(share.at, share.since)
            self.grown.tell()
        line.shares[share] = None
        passed = self._committed.get(share.key)
        if passed is not None and share.last <= passed:
            self._doubt(line, passed)

    def _leave(self, share: Share) -> None:
        line = self.lines.get(share.key)
        if line is not None:
            line.shares.pop(share, None)
            if not line.shares:
                del self.lines[share.key]

    def _doubt(self, line: Line, passed: Position) -> None:
        line.passed = max(line.passed, passed)
        line.doubtful = True
        self.grown.tell()


def _holds(events: Sequence[StoredEvent], position: Position) -> bool:
    index = bisect_left(events, position, key=attrgetter("position"))
    return index < len(events) and events[index].position == position

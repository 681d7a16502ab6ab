"""Reading one partition's log through both stores, forwards, with neither gap nor double.

What was trimmed from Redis is in PostgreSQL, what was not is in Redis. So a reading that has come past the last trimmed
entry goes on in Redis, and looks once more afterwards: had a trim caught up with it, what it read there may have had
holes, and PostgreSQL has it. Between two calls it holds a position and nothing else, whoever owns the partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import Gone, NotFound, Unavailable
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import Span, before
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.log import StreamEdges

#: Entries of Redis looked at for one page when few of them may fit. There are no more than wait for PostgreSQL.
SCAN = 1_000


class PartitionReading:
    """The events of a span, page by page. A span that begins at ZERO begins with the first event that is kept.

    `up_to_now`: ends with what stands in the log when it begins, so that it ends however fast producers are.
    """

    def __init__(self, world: World, topic: Topic, partition: int, span: Span, *, up_to_now: bool = False) -> None:
        self.partition = partition
        #: Nothing more is there, at least for now.
        self.ended = span.first > span.last
        self._world = world
        self._topic = topic
        self._at = TopicPartition(topic.name, partition)
        self._span = span
        self._last = span.last
        self._up_to_now = up_to_now
        #: Everything up to here has been given out.
        self._after = before(span.first)
        #: Whether a gap behind that would be one: not before the first event when any will do.
        self._promised = span.first > ZERO
        #: With a key or a type PostgreSQL finds in one look what Redis would have to be searched for.
        self._prefers_store = span.key is not None or span.event_type is not None
        #: Everything up to here is in PostgreSQL, and will be. Nothing ever takes that back, so it is asked for again
        #: only when the reading has come this far. None: not known yet.
        self._settled: Position | None = None
        #: The last entry known to be trimmed: what stands behind it could be read from Redis. None: Redis is away.
        self._trimmed: Position | None = None

    @property
    def next(self) -> Position:
        """The first position not given out yet."""
        return self._after.next()

    async def read(self, *, count: int, max_bytes: int) -> Sequence[StoredEvent]:
        """The next events in order, `count` and about `max_bytes` at most; none is no end yet: see `ended`.

        Raises Gone when what comes next is not kept any more, Unavailable when the one store that has it is away.
        """
        if self._settled is None:
            self._settled = await self._look()
        if self.ended or self._after >= self._last:
            self.ended = True
            return []
        if self._after >= self._settled and (found := await self._from_redis(count, max_bytes)) is not None:
            return found
        return await self._from_postgres(count, max_bytes)

    async def _look(self) -> Position:
        """Up to where everything is in PostgreSQL, as far as that need be known."""
        try:
            edges = await self._world.log.edges(self._at)
        except Unavailable as away:
            return await self._without_redis(away)
        settled = await self._settled_by(edges)
        if self._prefers_store:
            try:
                settled = max(settled, await self._cursor())
            except Unavailable:
                return settled  # then what Redis has is searched
        return settled

    async def _settled_by(self, edges: StreamEdges) -> Position:
        """The boundary as Redis says it. One that lost its entries does not know what it had; PostgreSQL does."""
        self._trimmed = settled = edges.trimmed
        sampled = self._world.board.sample.cursors.get(self._at)
        if edges.last == ZERO or (sampled is not None and edges.last < sampled.position):
            settled = max(settled, await self._cursor())
        if self._up_to_now:
            self._last = min(self._last, max(edges.last, settled))
            self._up_to_now = False
        return settled

    async def _without_redis(self, away: Unavailable) -> Position:
        """Everything up to the cursor is in PostgreSQL; what stands behind it, only Redis may have."""
        self._trimmed = None
        cursor = await self._cursor()
        if cursor <= self._after:
            raise away
        return cursor

    async def _cursor(self) -> Position:
        cursor = await self._world.store.cursor(self._topic.id, self.partition)
        if cursor is None:
            raise NotFound(f"topic {self._topic.name!r} was deleted meanwhile", topic=self._topic.name)
        return cursor.position

    async def _from_redis(self, count: int, max_bytes: int) -> list[StoredEvent] | None:
        """The next events from Redis; None when they are PostgreSQL's by now."""
        entries = max(count, SCAN) if self._prefers_store else count
        try:
            found = await self._world.log.read_after(
                self._at, self._after, upto=self._last, count=entries, max_bytes=max_bytes
            )
            # Only now: what was trimmed before or while the entries were read stands at or below this edge.
            edges = await self._world.log.edges(self._at)
        except Unavailable as away:
            self._settled = await self._without_redis(away)
            return None
        settled = await self._settled_by(edges)
        if settled > self._after:
            self._settled = settled
            return None
        self._promised = True
        events: list[StoredEvent] = []
        for event in found:
            self._after = event.position
            if self._span.takes(event):
                events.append(event)
                if len(events) == count:
                    break
        self.ended = not found or self._after >= min(self._last, edges.last)
        return events

    async def _from_postgres(self, count: int, max_bytes: int) -> Sequence[StoredEvent]:
        assert self._settled is not None  # noqa: S101 - read() looked
        first = self.next
        span = replace(self._span, first=first, last=min(self._last, self._settled))
        page = await self._world.history.page(self._topic.id, self.partition, span, count=count, max_bytes=max_bytes)
        events = page.events
        if page.floor <= first:
            self._after = page.upto
            self._promised = True
        elif self._trimmed is not None and self._after >= self._trimmed:
            # PostgreSQL keeps less than Redis does, and was asked only because it finds things faster.
            self._settled, self._prefers_store, events = self._trimmed, False, []
        elif self._promised:
            raise Gone(
                f"partition {self.partition} of topic {self._topic.name!r} is kept from {page.floor} on",
                topic=self._topic.name,
                partition=self.partition,
                earliest_id=page.floor,
            )
        else:
            self._after, events = before(page.floor), []
        self.ended = self._after >= self._last
        return events

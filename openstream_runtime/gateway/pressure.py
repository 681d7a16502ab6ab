"""Backpressure: whether to take a request at all, and when to come back if not.

Looks only at what actors have sampled and at mailboxes in memory: no command to a backend for a request. The exact
bounds of a partition are checked by the append itself.
"""

from __future__ import annotations

import math

from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import Overloaded
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.ports.log import Refusal

SHORTEST = 1_000  # ms; Retry-After counts whole seconds
LONGEST = 30_000
#: How many topics' mailboxes may be full at a time: what waits in memory is bounded over all of them.
MAILBOXES = 4


class Pressure:
    """The node's bounds on what it takes in."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: Bytes of requests that were taken and are not answered yet, over all topics.
        self._in_flight = 0
        self._written = _Rate(world)
        #: Of these, bytes the log has not answered for; and bytes it has, which no look at its memory has seen yet.
        self._on_the_way = 0
        self._unseen = 0
        self._sample = world.board.sample

    def admit(self, size: int) -> None:
        """Take a request of so many bytes in, or raise Overloaded. Pair with `appended`, then with `done`."""
        sample, limits = self._world.board.sample, self._world.limits
        if sample.maxmemory and self._memory() > limits.redis_memory * sample.maxmemory:
            raise self.overloaded(Refusal.MEMORY, "Redis is nearly out of memory", SHORTEST * 2)
        if self._in_flight + size > limits.mailbox_bytes * MAILBOXES:
            raise self.mailbox_full()
        self._in_flight += size
        self._on_the_way += size

    def appended(self, size: int) -> None:
        """The log has answered for that request, whatever it said: an unknown outcome may be in its memory."""
        self._on_the_way -= size
        self._unseen += size

    def done(self, size: int) -> None:
        self._in_flight -= size
        self._written.add(size)

    def _memory(self) -> int:
        """Bytes in Redis as last seen, and what has come since: of the other nodes we take it to be as much as of us.

        Without it, what the bound leaves free would have to hold all that can be written between two looks.
        """
        sample, nodes = self._world.board.sample, self._world.board.nodes
        if sample is not self._sample:
            self._sample, self._unseen = sample, 0
        return sample.used_memory + (self._on_the_way + self._unseen) * max(1, len(nodes))

    def mailbox_full(self) -> Overloaded:
        rate = self._written.per_second()
        wait = 1000 * self._in_flight / rate if rate else SHORTEST
        return self.overloaded("mailbox", "more events wait on this node than it may hold", wait)

    def partition_full(self, at: TopicPartition, reason: Refusal) -> Overloaded:
        """The log refused: come back when the persister has worked off a good part of what waits."""
        sample, limits = self._world.board.sample, self._world.limits
        stats, rate = sample.streams.get(at), sample.persist_rate.get(at, 0.0)
        wait: float = SHORTEST * 2
        if reason is Refusal.MEMORY:
            detail = "Redis is out of memory"
        elif reason is Refusal.LENGTH:
            detail = f"partition {at.partition} is as long as it may be"
        else:
            detail = f"partition {at.partition} has more events waiting for PostgreSQL than it may"
        if stats is not None and stats.unpersisted:
            topic = self._world.board.topics.get(at.topic)
            room = limits.max_unpersisted
            if reason is Refusal.LENGTH:
                room = (topic.settings.max_stream_len if topic else None) or limits.max_stream_len
            over = max(1, stats.unpersisted - room // 2)
            wait = 1000 * over / rate if rate else LONGEST / 3
        return self.overloaded(reason, detail, wait, topic=at.topic, partition=at.partition)

    def overloaded(self, reason: str, detail: str, wait_ms: float, **facts: object) -> Overloaded:
        self._world.meter.rejected(str(reason))
        retry_after_ms = math.ceil(min(LONGEST, max(SHORTEST, wait_ms)))
        return Overloaded(detail, reason=str(reason), retry_after_ms=retry_after_ms, **facts)


class _Rate:
    """Bytes a second over the last few seconds."""

    WINDOW = 2.0

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self._since = self._clock.monotonic()
        self._sum = 0
        self._last = 0.0

    def add(self, size: int) -> None:
        self._sum += size
        elapsed = self._clock.monotonic() - self._since
        if elapsed >= self.WINDOW:
            # After a pause the sum over all of it says nothing about how fast we are.
            self._last = self._sum / elapsed if elapsed < 2 * self.WINDOW else 0.0
            self._sum, self._since = 0, self._clock.monotonic()

    def per_second(self) -> float:
        elapsed = self._clock.monotonic() - self._since
        return max(self._last, self._sum / elapsed if elapsed > 0.1 else 0.0)

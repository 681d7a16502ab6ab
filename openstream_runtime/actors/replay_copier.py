"""Copies the events of one replay: pages of history, sorted into the target's partitions, each appended once.

Every append moves a mark in Redis from the last source position of the batch before to its own, in one step, and is
kept only if the mark stands where the batch begins. So an answer that was lost, an owner that slept and one that began
from an older progress find what they do already done. Backends that are away and a target that is full are waited for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import anyio
import structlog

from openstream_runtime.actors.pacing import Retry
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import Fenced, Gone, NotFound, OutcomeUnknown, Unavailable
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import END, Span, first_at
from openstream_runtime.domain.partitioning import partition_of
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.domain.replays import Bucket, Mark, Part, Replay, copy_of, origin_of
from openstream_runtime.domain.topics import Topic
from openstream_runtime.domain.tracing import carried_by
from openstream_runtime.ports.log import AppendBatch, Appended, AppendOutcome, Refusal, Refused
from openstream_runtime.ports.tracing import Operation

_log = structlog.get_logger(__name__)
T = TypeVar("T")

PAGE = 1_000
PAGE_BYTES = 4 << 20
SLICE = 500  # events appended at once: a script call of this size keeps Redis busy for some milliseconds
EARLIER_MS = 86_400_000  # clocks of Redis and PostgreSQL differ by less than this


class Source:
    """One source partition under way."""

    def __init__(self, part: Part) -> None:
        #: As it may be written down: true also for whoever goes on from it.
        self.part = part
        self.partition, self.upto = part.partition, part.upto
        #: Where reading goes on; back again after Redis has lost something.
        self.read = part.position
        #: Everything up to here has been appended.
        self.done = part.position
        self.copied = part.copied
        self.marks = dict(part.marks)

    def reached(self, position: Position, events: Sequence[StoredEvent]) -> None:
        """These events, and with them everything up to this position, are in the target."""
        self.read = position
        self.copied += sum(event.position > self.done for event in events)
        self.done = max(self.done, position)
        if self.read >= self.done:
            # Not before what was lost has been copied again: the marks that show the loss must stay written down.
            self.part = replace(self.part, position=self.done, copied=self.copied, marks=dict(self.marks))

    def go_back(self, position: Position) -> None:
        self.read = max(self.part.start, min(self.read, position))


class ReplayCopier:
    """One owner's work on one replay. `copy` returns when all is copied; it may be cancelled at any time."""

    def __init__(self, world: World, replay: Replay) -> None:
        self._world = world
        self._replay = replay
        self._target = Topic(replay.target_id, replay.target, replay.target_partitions)
        self.sources = [Source(part) for part in replay.parts]
        rate = replay.rate_per_s
        self._bucket = Bucket(rate, world.clock.monotonic()) if rate else None

    @property
    def copied(self) -> int:
        return sum(source.copied for source in self.sources)

    async def copy(self) -> None:
        """Raises NotFound (a topic is gone), Gone (history was dropped before it was copied), Fenced."""
        waiting = Retry(most=1.0)
        while True:
            pending = [source for source in self.sources if source.read < source.upto]
            if not pending:
                await self._look_for_losses()
                if all(source.read >= source.upto for source in self.sources):
                    return
                continue
            # By turns, a page each: all of the target's partitions take their share all along.
            moved = [await self._advance(source) for source in pending]
            if any(moved):
                waiting.succeeded()
            else:
                await anyio.sleep(waiting.delay())  # for the persisters

    async def end_marks(self) -> None:
        """Let nothing more be appended, by any owner."""
        await self._world.log.end_marks(self._target, self._replay.id)

    async def _advance(self, source: Source) -> bool:
        """Copy a page; False when what comes next is not in PostgreSQL yet."""
        page = await self.insist(partial(self._page, source))
        if page is None:
            return False
        events, upto = page
        start = 0
        while start < len(events):
            some = events[start : start + await self._allowance(len(events) - start)]
            by_target: dict[int, list[StoredEvent]] = defaultdict(list)
            for event in some:
                by_target[self._target_of(source, event)].append(event)
            with self._world.tracer.batch(
                Operation.REPLAY,
                self._target.name,
                carried_by(event.headers for event in some),
                events=len(some),
                partition=next(iter(by_target)) if len(by_target) == 1 else None,
            ):
                lost = await self._put(source, {t: (part, part[-1].position) for t, part in by_target.items()})
            if lost:
                await self._go_back(source, lost)
                return True
            source.reached(some[-1].position, some)
            start += len(some)
        source.reached(upto, ())
        return True

    def _target_of(self, source: Source, event: StoredEvent) -> int:
        if event.partition_key is None:
            return source.partition % self._target.partitions
        return partition_of(event.partition_key, self._target.partitions)

    async def _allowance(self, wanted: int) -> int:
        wanted = min(wanted, SLICE)
        if self._bucket is None:
            return wanted
        while True:
            if given := self._bucket.take(wanted, self._world.clock.monotonic()):
                return given
            await anyio.sleep(self._bucket.wait(wanted))

    # -- reading

    async def _page(self, source: Source) -> tuple[Sequence[StoredEvent], Position] | None:
        """The next events and how far they reach; None when they are not in PostgreSQL yet."""
        world, replay = self._world, self._replay
        cursor = await self._cursor(source)
        last = min(source.upto, cursor)
        if source.read >= last:
            at = TopicPartition(replay.source, source.partition)
            left = await world.log.read_after(at, cursor, upto=source.upto, count=1, max_bytes=1)
            if left or await self._cursor(source) != cursor:
                return None
            return (), source.upto  # Redis lost it before it was persisted
        first = source.read.next()
        page = await world.history.page(
            replay.source_id, source.partition, Span(first, last), count=PAGE, max_bytes=PAGE_BYTES
        )
        if page.floor > first:
            raise Gone(
                f"history of partition {source.partition} was dropped before it was copied: only what is at or after "
                f"{page.floor} is kept, and the copy stood at {source.read}"
            )
        if not page.events:
            await self._cursor(source)  # of a topic that has just been deleted there is nothing to read either
        return page.events, page.upto

    async def _cursor(self, source: Source) -> Position:
        cursor = await self._world.store.cursor(self._replay.source_id, source.partition)
        if cursor is None:
            raise NotFound("the source topic was deleted before everything was copied")
        return cursor.position

    # -- appending

    async def _put(self, source: Source, wanted: Mapping[int, tuple[Sequence[StoredEvent], Position]]) -> set[int]:
        """Append events, and have each target's mark at the position given, or behind it; which marks Redis lost."""
        retry, left, lost = Retry(most=2.0), set(wanted), set[int]()
        while left:
            order = sorted(left)
            batches = [self._batch(source, target, *wanted[target]) for target in order]
            outcomes: Sequence[AppendOutcome] = ()
            if not self._short_of_memory():
                with anyio.CancelScope(shield=True):  # a few seconds at most; what was appended is then counted, too
                    outcomes = await self._world.log.append(batches)
            for target, batch, outcome in zip(order, batches, outcomes, strict=False):
                before = source.marks.get(target, ZERO)
                if isinstance(outcome, Appended) and batch.mark is not None:
                    self._count(target, batch)
                    source.marks[target] = batch.mark.upto
                    left.discard(target)
                elif isinstance(outcome, Refused) and outcome.mark is not None:
                    if outcome.mark >= END:
                        raise Fenced("another owner has ended this replay")
                    source.marks[target] = outcome.mark
                    if outcome.mark < before:
                        lost.add(target)
                    if outcome.mark < before or outcome.mark >= wanted[target][1]:
                        left.discard(target)
                elif outcome == Refused(Refusal.UNVERIFIED):
                    await self.insist(partial(self._verify, target))
            if left and not any(isinstance(outcome, Refused) and outcome.mark for outcome in outcomes):
                await anyio.sleep(retry.delay())
        return lost

    def _batch(self, source: Source, target: int, events: Sequence[StoredEvent], upto: Position) -> AppendBatch:
        replay, limits = self._replay, self._world.limits
        known = self._world.board.topics.get(replay.target)
        longest = (known.settings.max_stream_len if known else None) or limits.max_stream_len
        after = source.marks.get(target, ZERO)
        return AppendBatch(
            self._target,
            target,
            [copy_of(one, replay.source, source.partition, replay.id) for one in events if one.position > after],
            # What is copied leaves room for what is produced.
            max_stream_len=max(1, longest * 3 // 4),
            max_unpersisted=max(1, limits.max_unpersisted // 2),
            mark=Mark(replay.id, source.partition, after, max(after, upto)),
        )

    def _count(self, target: int, batch: AppendBatch) -> None:
        if batch.events:
            size = sum(len(event.payload) for event in batch.events)
            self._world.meter.appended(self._target.name, target, len(batch.events), size)
            self._world.meter.replayed(self._target.name, len(batch.events))

    def _short_of_memory(self) -> bool:
        sample = self._world.board.sample
        return bool(sample.maxmemory) and sample.used_memory > self._world.limits.redis_memory * sample.maxmemory

    async def _verify(self, target: int) -> None:
        cursor = await self._world.store.cursor(self._target.id, target)
        if cursor is None:
            raise NotFound("the target topic was deleted before everything was copied")
        await self._world.log.verify(self._target, target, cursor)

    # -- when Redis has lost what was appended

    async def _look_for_losses(self) -> None:
        """Before the end: whether every mark still stands where the last append left it."""
        for source in self.sources:
            lost = await self._put(source, {target: ((), mark) for target, mark in source.marks.items()})
            if lost:
                await self._go_back(source, lost)

    async def _go_back(self, source: Source, lost: Iterable[int]) -> None:
        """Find out what the target really has, set the marks by it, and read on from there."""
        _log.warning(
            "Redis lost copied events", replay=self._replay.id, partition=source.partition, targets=len(set(lost))
        )
        # What the target's owner had read before the loss may still be on its way to PostgreSQL.
        await anyio.sleep(self._world.limits.lease_ms / 1000)
        again = set(lost)
        while again:
            target = again.pop()
            has = await self.insist(partial(self._last_copied, source, target))
            again |= await self._put(source, {target: ((), has)})
            source.go_back(source.marks[target])

    async def _last_copied(self, source: Source, target: int) -> Position:
        """The last event of this source partition that the target has, in PostgreSQL or in Redis."""
        found, replay = ZERO, self._replay
        cursor = await self._world.store.cursor(self._target.id, target)
        if cursor is None:
            raise NotFound("the target topic was deleted before everything was copied")
        at, first = TopicPartition(self._target.name, target), first_at(max(0, replay.created_ms - EARLIER_MS))
        upto = min(first, cursor.position)

        def look(events: Iterable[StoredEvent]) -> Position:
            origins = [origin_of(one.headers, replay.source, source.partition, replay.id) for one in events]
            return max([found, *(one for one in origins if one is not None)])

        while upto < cursor.position:
            page = await self._world.history.page(
                self._target.id, target, Span(upto.next(), cursor.position), count=PAGE, max_bytes=PAGE_BYTES
            )
            found, upto = look(page.events), page.upto
        while events := await self._world.log.read_after(at, upto, count=PAGE, max_bytes=PAGE_BYTES):
            found, upto = look(events), events[-1].position
        return found

    async def insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something that may be done again until the backends let us."""
        retry = Retry(most=2.0)
        while True:
            try:
                return await work()
            except (Unavailable, OutcomeUnknown) as error:
                if retry.failures == 0:
                    _log.warning("a replay waits", replay=self._replay.id, error=str(error))
            await anyio.sleep(retry.delay())

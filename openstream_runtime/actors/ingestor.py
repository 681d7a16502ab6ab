"""The ingestor of a topic: everything that waits goes to the log as one pipelined write (group commit).

Latency stays one round trip while throughput grows with load. Nothing is ever appended twice: a refusal is definite and
may be tried again, a lost answer is passed on as unknown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio
import structlog

from openstream_runtime.actors.admitting import admit, all_of, conclude
from openstream_runtime.actors.verifying import AT_ONCE, verify
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import NotFound, OpenStreamError
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.positions import ZERO, TopicPartition
from openstream_runtime.domain.producers import Admission, Once, Turn
from openstream_runtime.domain.topics import Topic
from openstream_runtime.domain.tracing import TraceContext
from openstream_runtime.ports.log import AppendBatch, Appended, AppendOutcome, Refusal, Refused
from openstream_runtime.ports.producers import Kept
from openstream_runtime.ports.tracing import Operation
from supervisors import Context, Envelope, Mailbox

_log = structlog.get_logger(__name__)

CYCLE_BYTES = 4 << 20  # one write: a script call of this size keeps Redis busy for some 10 ms
CYCLE_REQUESTS = 1024


@dataclass(frozen=True, slots=True)
class Append:
    """A produce request, sorted into partitions; the order inside a partition is the request's."""

    topic: Topic
    by_partition: Mapping[int, Sequence[NewEvent]]
    replicated: bool
    size: int
    #: For a request that may be repeated.
    turn: Turn | None = None
    #: The span of the request, when somebody records it.
    trace: TraceContext | None = None


#: One outcome for each partition of the request.
IngestMailbox = Mailbox[Append, dict[int, AppendOutcome]]
_Waiting = Envelope[Append, dict[int, AppendOutcome]]
#: A topic's id, a partition, and for a request that may be repeated its number.
_Key = tuple[int, int, int | None]


class Ingestor:
    """One incarnation of the writer of one topic."""

    def __init__(self, world: World, mailbox: IngestMailbox) -> None:
        self._world = world
        self._mailbox = mailbox

    def describe(self) -> dict[str, object]:
        return self._mailbox.describe()

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        while True:
            envelopes: list[_Waiting] = []
            with ctx.interruptible():
                envelopes = await self._mailbox.receive_all(max_count=CYCLE_REQUESTS, max_bytes=CYCLE_BYTES)
            if not envelopes:
                # Asked to stop: what waits is still written, the grace covers it.
                envelopes = self._mailbox.drain(max_count=CYCLE_REQUESTS, max_bytes=CYCLE_BYTES)
                if not envelopes:
                    return
            # Who waits for replicas must not hold up those who do not, nor who asks first those who append at once.
            for replicated in (False, True):
                group = [envelope for envelope in envelopes if envelope.message.replicated is replicated]
                replicas = self._world.limits.ack_replicas if replicated else None
                plain = [(envelope, None) for envelope in group if envelope.message.turn is None]
                if plain:
                    for (envelope, _), outcomes in zip(plain, await self._commit(plain, replicas), strict=True):
                        envelope.answer(outcomes)
                if len(plain) < len(group):
                    await self._commit_once([one for one in group if one.message.turn is not None], replicas)

    async def _commit_once(self, group: list[_Waiting], replicas: int | None) -> None:
        """Commit requests that may be repeated: ask their homes, append what was admitted, tell the homes."""
        asked = [
            (one.message.topic, one.message.turn, one.message.by_partition.keys())
            for one in group
            if one.message.turn is not None
        ]
        admitted: list[tuple[_Waiting, Once]] = []
        kept: list[tuple[_Waiting, Turn, dict[int, AppendOutcome]]] = []
        for envelope, (_, turn, _), verdict in zip(group, asked, await admit(self._world, asked), strict=True):
            match verdict:
                case Admission():
                    admitted.append((envelope, Once(turn, verdict)))
                case Kept() if replicas is None:
                    envelope.answer(all_of(verdict.shares))
                case Kept():
                    kept.append((envelope, turn, all_of(verdict.shares)))
                case Refused():
                    envelope.answer(dict.fromkeys(envelope.message.by_partition, verdict))
        if admitted:
            # The homes are told last, so it is they who wait for the replicas, for all of it.
            outcomes = await self._commit(admitted, None)
            kept += [(envelope, once.turn, one) for (envelope, once), one in zip(admitted, outcomes, strict=True)]
        said = await conclude(
            self._world, [(one.message.topic, turn, outcomes) for one, turn, outcomes in kept], replicas=replicas
        )
        for (envelope, _, _), answer in zip(kept, said, strict=True):
            envelope.answer(dict(answer))

    async def _commit(
        self, group: Sequence[tuple[_Waiting, Once | None]], replicas: int | None
    ) -> list[dict[int, AppendOutcome]]:
        """What became of each request, by partition. Those that may be repeated are batches of their own."""
        # A topic deleted and created again within one cycle has two ids: they are never mixed in one batch.
        merged: dict[_Key, list[NewEvent]] = defaultdict(list)
        shares: dict[_Key, tuple[Topic, Once | None]] = {}
        places: list[dict[int, tuple[_Key, int, int]]] = []
        for number, (envelope, once) in enumerate(group):
            append = envelope.message
            place = {}
            for partition, events in append.by_partition.items():
                key = (append.topic.id, partition, None if once is None else number)
                shares[key] = append.topic, once
                together = merged[key]
                place[partition] = (key, len(together), len(together) + len(events))
                together.extend(events)
            places.append(place)
        limits = self._world.limits
        batches = {
            key: AppendBatch(
                topic=shares[key][0],
                partition=key[1],
                events=events,
                max_stream_len=shares[key][0].settings.max_stream_len or limits.max_stream_len,
                max_unpersisted=limits.max_unpersisted,
                once=shares[key][1],
            )
            for key, events in merged.items()
        }
        count = sum(len(batch.events) for batch in batches.values())
        began = self._world.clock.monotonic()
        with self._world.tracer.batch(
            Operation.APPEND,
            group[0][0].message.topic.name,
            (envelope.message.trace for envelope, _ in group if envelope.message.trace is not None),
            events=count,
            partition=next(iter(batches))[1] if len(batches) == 1 else None,
        ) as span:
            outcomes = await self._append(batches, replicas=replicas)
            failed = [one for one in outcomes.values() if not isinstance(one, Appended)]
            if failed:
                span.fail(str(failed[0].reason) if isinstance(failed[0], Refused) else "unknown")
        self._world.meter.group_commit(count, self._world.clock.monotonic() - began)
        for key, outcome in outcomes.items():
            if isinstance(outcome, Appended):
                self._count(batches[key], outcome)
                at = TopicPartition(batches[key].topic.name, key[1])
                self._world.board.heights.saw(at, max(outcome.positions, default=ZERO), began)
        return [
            {partition: _part(outcomes[key], start, end) for partition, (key, start, end) in place.items()}
            for place in places
        ]

    def _count(self, batch: AppendBatch, outcome: Appended) -> None:
        events, positions = batch.events, outcome.positions
        if outcome.duplicates:
            fresh = [index for index in range(len(events)) if index not in outcome.duplicates]
            events, positions = [events[index] for index in fresh], [positions[index] for index in fresh]
        self._world.acknowledged.add(TopicPartition(batch.topic.name, batch.partition), batch.topic.id, positions)
        self._world.meter.appended(
            batch.topic.name, batch.partition, len(events), sum(len(event.payload) for event in events)
        )

    async def _append(self, batches: dict[_Key, AppendBatch], *, replicas: int | None) -> dict[_Key, AppendOutcome]:
        outcomes = dict(
            zip(batches, await self._world.log.append(list(batches.values()), replicas=replicas), strict=True)
        )
        unverified = [key for key, outcome in outcomes.items() if outcome == Refused(Refusal.UNVERIFIED)]
        if unverified:
            ready = await self._verify({key[:2]: batches[key] for key in unverified})
            tried = [key for key in unverified if key[:2] in ready]
            if tried:
                again = await self._world.log.append([batches[key] for key in tried], replicas=replicas)
                outcomes.update(zip(tried, again, strict=True))
        return outcomes

    async def _verify(self, batches: Mapping[tuple[int, int], AppendBatch]) -> set[tuple[int, int]]:
        """Make partitions the log does not know fit for appends; those of them that now are.

        A backend that is away costs one timeout and not one for each partition: everybody of this topic waits here.
        """
        ready: set[tuple[int, int]] = set()
        limiter = anyio.CapacityLimiter(AT_ONCE)
        away = False

        async def try_one(key: tuple[int, int], batch: AppendBatch) -> None:
            nonlocal away
            async with limiter:
                if away:
                    return
                try:
                    if not await verify(self._world, batch.topic, batch.partition):
                        return  # the topic was deleted
                except OpenStreamError as error:
                    if not isinstance(error, NotFound):
                        away = True
                    _log.warning(
                        "a partition cannot take events yet",
                        topic=batch.topic.name,
                        partition=batch.partition,
                        error=str(error),
                    )
                else:
                    ready.add(key)

        async with anyio.create_task_group() as tasks:
            for key, batch in batches.items():
                tasks.start_soon(try_one, key, batch)
        return ready


def _part(outcome: AppendOutcome, start: int, end: int) -> AppendOutcome:
    """One request's share of a batch's outcome."""
    if isinstance(outcome, Appended):
        duplicates = frozenset(one - start for one in outcome.duplicates if start <= one < end)
        return Appended(outcome.positions[start:end], outcome.replicated, duplicates)
    return outcome

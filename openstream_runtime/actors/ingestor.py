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

from openstream_runtime.actors.verifying import AT_ONCE, verify
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import NotFound, OpenStreamError
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.topics import Topic
from openstream_runtime.domain.tracing import TraceContext
from openstream_runtime.ports import AppendBatch, Appended, AppendOutcome, Refusal, Refused
from openstream_runtime.tracing_ports import Operation
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
    #: The span of the request, when somebody records it.
    trace: TraceContext | None = None


#: One outcome for each partition of the request.
IngestMailbox = Mailbox[Append, dict[int, AppendOutcome]]
_Waiting = Envelope[Append, dict[int, AppendOutcome]]


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
            # Who waits for replicas must not hold up those who do not.
            for replicated in (False, True):
                group = [envelope for envelope in envelopes if envelope.message.replicated is replicated]
                if group:
                    await self._commit(group, replicated=replicated)

    async def _commit(self, group: list[_Waiting], *, replicated: bool) -> None:
        # A topic deleted and created again within one cycle has two ids: they are never mixed in one batch.
        merged: dict[tuple[int, int], list[NewEvent]] = defaultdict(list)
        topics: dict[int, Topic] = {}
        places: list[dict[int, tuple[int, int]]] = []
        for envelope in group:
            append = envelope.message
            topics[append.topic.id] = append.topic
            place = {}
            for partition, events in append.by_partition.items():
                together = merged[append.topic.id, partition]
                place[partition] = (len(together), len(together) + len(events))
                together.extend(events)
            places.append(place)
        limits = self._world.limits
        batches = {
            key: AppendBatch(
                topic=topics[key[0]],
                partition=key[1],
                events=events,
                max_stream_len=topics[key[0]].settings.max_stream_len or limits.max_stream_len,
                max_unpersisted=limits.max_unpersisted,
            )
            for key, events in merged.items()
        }
        count = sum(len(batch.events) for batch in batches.values())
        began = self._world.clock.monotonic()
        with self._world.tracer.batch(
            Operation.APPEND,
            group[0].message.topic.name,
            (envelope.message.trace for envelope in group if envelope.message.trace is not None),
            events=count,
            partition=next(iter(batches))[1] if len(batches) == 1 else None,
        ) as span:
            outcomes = await self._append(batches, replicas=limits.ack_replicas if replicated else None)
            failed = [one for one in outcomes.values() if not isinstance(one, Appended)]
            if failed:
                span.fail(str(failed[0].reason) if isinstance(failed[0], Refused) else "unknown")
        self._world.meter.group_commit(count, self._world.clock.monotonic() - began)
        for key, outcome in outcomes.items():
            if isinstance(outcome, Appended):
                events = batches[key].events
                self._world.meter.appended(
                    batches[key].topic.name, key[1], len(events), sum(len(event.payload) for event in events)
                )
        for envelope, place in zip(group, places, strict=True):
            topic_id = envelope.message.topic.id
            envelope.answer(
                {partition: _part(outcomes[topic_id, partition], *span) for partition, span in place.items()}
            )

    async def _append(
        self, batches: dict[tuple[int, int], AppendBatch], *, replicas: int | None
    ) -> dict[tuple[int, int], AppendOutcome]:
        outcomes = dict(
            zip(batches, await self._world.log.append(list(batches.values()), replicas=replicas), strict=True)
        )
        unverified = {key: batches[key] for key, outcome in outcomes.items() if outcome == Refused(Refusal.UNVERIFIED)}
        ready = await self._verify(unverified) if unverified else []
        if ready:
            again = await self._world.log.append([batches[key] for key in ready], replicas=replicas)
            outcomes.update(zip(ready, again, strict=True))
        return outcomes

    async def _verify(self, batches: Mapping[tuple[int, int], AppendBatch]) -> list[tuple[int, int]]:
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
        return [key for key in batches if key in ready]


def _part(outcome: AppendOutcome, start: int, end: int) -> AppendOutcome:
    """One request's share of a batch's outcome."""
    if isinstance(outcome, Appended):
        return Appended(outcome.positions[start:end], outcome.replicated)
    return outcome

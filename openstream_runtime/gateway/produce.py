"""Produce: sort a request's events into partitions, hand them to the topic's ingestor, say what became of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from itertools import count

from openstream_runtime.actors.ingestor import Append, IngestMailbox, Ingestor
from openstream_runtime.actors.pool import Pool
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import (
    InvalidRequest,
    NotFound,
    OpenStreamError,
    OutcomeUnknown,
    Overloaded,
    PartlyDone,
    Unavailable,
)
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.partitioning import partition_of
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.producers import Stamp, Turn, keyless_partition, scattered, turn_of
from openstream_runtime.domain.topics import Topic
from openstream_runtime.gateway.persisting import DRAIN, is_whole, not_persisted, persisted
from openstream_runtime.gateway.pressure import Pressure
from openstream_runtime.gateway.repeating import advise, refused
from openstream_runtime.gateway.results import Ack, Produced
from openstream_runtime.gateway.topics import Topics
from openstream_runtime.ports.log import Appended, AppendOutcome, Refusal, Refused, Unknown
from openstream_runtime.ports.tracing import Operation
from supervisors import ActorGone, CallTimeout, MailboxClosed, MailboxFull, MessageTooLarge, SupervisorError

TIMEOUT = 30.0  # seconds for an append, waiting included; the log's own timeouts are a tenth of it
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd
MAX_REQUESTS = 10_000  # a topic's mailbox is bounded in bytes; the count only bounds what tiny requests cost besides


def ingest_pool(world: World) -> Pool[Append, dict[int, AppendOutcome]]:
    """One ingestor for each topic somebody produces to on this node."""

    def mailbox() -> IngestMailbox:
        return IngestMailbox(MAX_REQUESTS, max_bytes=world.limits.mailbox_bytes, size=lambda append: append.size)

    return Pool("ingestion", lambda _, box: Ingestor(world, box), mailbox, grace=world.limits.grace(0.12))


class Producing:
    """The gateway's way to the ingestors."""

    def __init__(
        self, world: World, topics: Topics, ingestors: Pool[Append, dict[int, AppendOutcome]], pressure: Pressure
    ) -> None:
        self._world = world
        self._topics = topics
        self._ingestors = ingestors
        self._pressure = pressure
        self._turns = count()

    async def produce(
        self,
        topic_name: str,
        events: Sequence[NewEvent],
        *,
        partitions: int | None,
        ack: Ack,
        on_appended: Callable[[], None] | None = None,
        stamp: Stamp | None = None,
    ) -> Produced:
        if not events:
            raise InvalidRequest("there is no event in the request", topic=topic_name)
        topic = await self._topics.find_or_create(topic_name, partitions)
        turn = None if stamp is None else turn_of(stamp, events)
        try:
            return await self._keep(topic, events, turn, ack, on_appended)
        except (OutcomeUnknown, Overloaded, PartlyDone, Unavailable) as error:
            advise(error, turn, events)
            raise

    async def _keep(
        self,
        topic: Topic,
        events: Sequence[NewEvent],
        turn: Turn | None,
        ack: Ack,
        on_appended: Callable[[], None] | None,
    ) -> Produced:
        order, by_partition = self._sort(topic, events, turn)
        if (span := self._world.tracer.current()) is not None:
            span.tell(Operation.SEND, topic.name, partition=order[0] if len(by_partition) == 1 else None)
            span.count(len(events))
        size = sum(event.size() for event in events)
        self._pressure.admit(size)
        try:
            try:
                outcomes = await self._append(
                    Append(
                        topic=topic,
                        by_partition=by_partition,
                        replicated=ack is Ack.REPLICATED,
                        size=size,
                        turn=turn,
                        trace=None if span is None else span.context,
                    )
                )
            finally:
                self._pressure.appended(size)
            appended = {number: one.positions for number, one in outcomes.items() if isinstance(one, Appended)}
            if not all(isinstance(one, Appended) and one.replicated for one in outcomes.values()):
                raise self._trouble(topic, order, outcomes, ack, turn)
            if on_appended is not None:
                on_appended()
            if ack is Ack.PERSISTED:
                # The events stay counted as taken in: whoever waits for PostgreSQL holds them in memory.
                shares = await persisted(self._world, topic, appended)
                if not all(map(is_whole, shares.values())):
                    raise not_persisted(topic, order, appended, shares)
        finally:
            self._pressure.done(size)
        ids = {number: iter(positions) for number, positions in appended.items()}
        results = [(number, next(ids[number])) for number in order]
        return Produced(topic.name, topic.partitions, results, _duplicates(order, outcomes))

    def drain(self) -> None:
        """Who waits for PostgreSQL is answered before the front closes."""
        self._world.receipts.hurry(self._world.limits.grace(DRAIN))

    def _sort(
        self, topic: Topic, events: Sequence[NewEvent], turn: Turn | None
    ) -> tuple[list[int], dict[int, list[NewEvent]]]:
        """Each event's partition, in request order, and the events of each partition."""
        # Events without a key share one partition. Steps of the golden ratio spread requests evenly, and so they do for
        # any topic's share of them: plain turns would give two topics that alternate one half of the partitions each.
        # What may be repeated must find the partition it was in: there it is by a hash.
        if turn is not None:
            keyless = keyless_partition(turn.stamp, topic.partitions)
        else:
            keyless = (next(self._turns) * _GOLDEN % 2**64) * topic.partitions >> 64
        order: list[int] = []
        by_partition: dict[int, list[NewEvent]] = {}
        for event in events:
            if event.partition_key is not None:
                number = partition_of(event.partition_key, topic.partitions)
            elif event.event_id is None or turn is not None:
                number = keyless
            else:
                number = scattered(event.event_id, topic.partitions)
            order.append(number)
            by_partition.setdefault(number, []).append(event)
        return order, by_partition

    async def _append(self, append: Append) -> dict[int, AppendOutcome]:
        try:
            box = await self._ingestors.mailbox(append.topic.name)
            return await box.call(append, timeout=TIMEOUT, wait=False)
        except MailboxFull:
            raise self._pressure.mailbox_full() from None
        except MessageTooLarge:
            # Not an overload: it would be too large on an idle node too.
            raise InvalidRequest(
                "the events of this request are larger than a node takes at once", topic=append.topic.name
            ) from None
        except MailboxClosed:
            raise NotFound(f"there is no topic {append.topic.name!r}", topic=append.topic.name) from None
        except ActorGone as gone:
            raise OutcomeUnknown("the answer to the append was lost", topic=append.topic.name) from gone
        except CallTimeout as late:
            raise OutcomeUnknown("the append was not answered in time", topic=append.topic.name) from late
        except SupervisorError as error:
            raise Unavailable(
                "the topic's ingestor cannot be started now", backend="node", retry_after_ms=1000
            ) from error

    def _trouble(
        self, topic: Topic, order: Sequence[int], outcomes: dict[int, AppendOutcome], ack: Ack, turn: Turn | None
    ) -> OpenStreamError:
        """The error for a request of which not everything was kept as asked."""
        refusals = {number: outcome for number, outcome in outcomes.items() if isinstance(outcome, Refused)}
        if len(refusals) == len(outcomes):
            return self._refused(topic, *next(iter(refusals.items())), turn)
        if all(isinstance(outcome, Unknown) for outcome in outcomes.values()):
            return OutcomeUnknown("the answer to the append was lost", topic=topic.name)
        # Nobody waited for PostgreSQL when a part was not even appended.
        results = _results(order, outcomes, kept="not_persisted" if ack is Ack.PERSISTED else "appended")
        if refusals:
            cause = self._refused(topic, *next(iter(refusals.items())), turn)
            facts = {key: value for key, value in cause.facts.items() if key in {"reason", "retry_after_ms", "backend"}}
            detail = f"a part of the events was kept, a part was not: {cause.detail}"
            overloaded = isinstance(cause, Overloaded)
        else:
            facts, overloaded = {}, False
            unknown = any(isinstance(outcome, Unknown) for outcome in outcomes.values())
            detail = (
                "of a part of the events the answer was lost"
                if unknown
                else "every event is appended, and not on as many replicas as asked"
            )
        return PartlyDone(detail, topic=topic.name, results=results, overloaded=overloaded, **facts)

    def _refused(self, topic: Topic, partition: int, refusal: Refused, turn: Turn | None) -> OpenStreamError:
        if turn is not None and (error := refused(topic, turn, refusal)) is not None:
            return error
        match refusal.reason:
            case Refusal.UNVERIFIED:
                return Unavailable(
                    "the partition is being checked against PostgreSQL", backend="postgres", retry_after_ms=1000,
                    topic=topic.name, partition=partition,
                )  # fmt: skip
            case Refusal.UNAVAILABLE:
                return Unavailable(
                    "Redis takes no writes now",
                    backend="redis",
                    retry_after_ms=1000,
                    topic=topic.name,
                    partition=partition,
                )
            case _:
                return self._pressure.partition_full(TopicPartition(topic.name, partition), refusal.reason)


def _duplicates(order: Sequence[int], outcomes: Mapping[int, AppendOutcome]) -> Set[int]:
    """Which events of the request were there before, by their index in it."""
    if not any(isinstance(one, Appended) and one.duplicates for one in outcomes.values()):
        return frozenset()
    turns = {number: iter(range(len(order))) for number in outcomes}
    found = set()
    for index, number in enumerate(order):
        outcome, turn = outcomes[number], next(turns[number])
        if isinstance(outcome, Appended) and turn in outcome.duplicates:
            found.add(index)
    return found


def _results(order: Sequence[int], outcomes: dict[int, AppendOutcome], *, kept: str) -> list[dict[str, object]]:
    """One entry for each event, in request order: `kept`, not_stored, unknown, or not_replicated."""
    ids: dict[int, list[Position]] = {
        number: list(reversed(outcome.positions))
        for number, outcome in outcomes.items()
        if isinstance(outcome, Appended)
    }
    results: list[dict[str, object]] = []
    for number in order:
        outcome = outcomes[number]
        match outcome:
            case Appended():
                status = kept if outcome.replicated else "not_replicated"
                results.append({"partition": number, "redis_id": str(ids[number].pop()), "status": status})
            case Refused():
                results.append({"partition": number, "status": "not_stored", "reason": str(outcome.reason)})
            case Unknown():
                results.append({"partition": number, "status": "unknown"})
    return results

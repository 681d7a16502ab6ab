"""The gateway: every request of the edge becomes a message to an actor here, or a look at what actors published."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import anyio

from openstream_runtime.actors.audience import Seat
from openstream_runtime.actors.board import Sample
from openstream_runtime.actors.group_reader import Message
from openstream_runtime.actors.ingestor import Append
from openstream_runtime.actors.pool import Pool
from openstream_runtime.actors.world import World
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.history import Place, Span
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.producers import Stamp
from openstream_runtime.domain.pulse import Pulse
from openstream_runtime.domain.replays import Replay
from openstream_runtime.domain.topics import GROUP_DEFAULTS, GroupSettings, Topic, TopicSettings, Visibility
from openstream_runtime.gateway.dead_letters import DeadLetterDesk
from openstream_runtime.gateway.groups import Consuming, start_of
from openstream_runtime.gateway.holding import Holding
from openstream_runtime.gateway.live import Live
from openstream_runtime.gateway.pressure import Pressure
from openstream_runtime.gateway.preview import ResetPreview, preview
from openstream_runtime.gateway.produce import Producing
from openstream_runtime.gateway.reading import Reading
from openstream_runtime.gateway.redelivering import Redelivering
from openstream_runtime.gateway.replaying import Replaying, ReplayWish
from openstream_runtime.gateway.results import Ack, Check, GroupCreated, Handout, HistoryPage, Produced, ResetDone
from openstream_runtime.gateway.tailing import Tailing
from openstream_runtime.gateway.topics import Topics, numbers_of
from openstream_runtime.gateway.watching import Watching
from openstream_runtime.ports.groups import GroupPartition, GroupRead
from openstream_runtime.ports.log import AppendOutcome
from supervisors import NodeSnapshot


class Gateway(Redelivering):
    """A node, as the edge sees it. Raises only `domain.errors`; safe to call from request tasks that get cancelled."""

    def __init__(
        self,
        world: World,
        ingestors: Pool[Append, dict[int, AppendOutcome]],
        readers: Pool[Message, GroupRead | int],
        *,
        tree: Callable[[], NodeSnapshot],
        exposition: Callable[[str], tuple[str, bytes]],
        pulse: Callable[[], Pulse] = Pulse,
    ) -> None:
        self._world = world
        #: Requests are the edge's to tell.
        self.tracer = world.tracer
        self._ingestors = ingestors
        self._readers = readers
        self._topics = Topics(world)
        self._producing = Producing(world, self._topics, ingestors, Pressure(world))
        self._consuming = Consuming(world, self._topics, readers)
        self._reading = Reading(world, self._topics)
        self._holding = Holding(world, self._topics)
        self._letters = DeadLetterDesk(world, self._topics, self._reading)
        self._replaying = Replaying(world, self._topics)
        self._tailing = Tailing(world, self._topics)
        self._watching = Watching(world, tree)
        self._live = Live(world, self._watching, tree, pulse)
        self._exposition = exposition
        #: Topics and groups that had numbers of their own at the last sweep.
        self._counted_topics: set[str] = set()
        self._counted_groups: set[tuple[str, str]] = set()

    # ------------------------------------------------------------------------------------------------ topics

    async def put_topic(self, name: str, partitions: int | None, settings: TopicSettings) -> tuple[Topic, bool]:
        """Create or alter; the topic and whether it is new. Conflict when the count differs or it is being deleted."""
        return await self._topics.put(name, partitions, settings)

    async def topics(self) -> list[Topic]:
        """Every topic, by name."""
        topics = await self._world.catalog.topics()
        return sorted((topic for topic in topics if not topic.deleting), key=lambda topic: topic.name)

    async def topic(self, name: str) -> Topic:
        """One topic; NotFound."""
        return await self._topics.find(name)

    async def delete_topic(self, name: str) -> Topic:
        """Mark it for deletion: gone for everybody at once, its data goes in the background. NotFound."""
        return await self._topics.delete(name)

    # ----------------------------------------------------------------------------------------------- produce

    async def produce(
        self,
        topic: str,
        events: Sequence[NewEvent],
        *,
        partitions: int | None = None,
        ack: Ack = Ack.APPENDED,
        on_appended: Callable[[], None] | None = None,
        stamp: Stamp | None = None,
    ) -> Produced:
        """Append events, creating the topic on first use. Events without a key share one partition, by turns.

        Raises Overloaded (nothing kept), Unavailable (nothing kept), OutcomeUnknown, PartlyDone, Conflict.
        A caller that is cancelled does not take its events back: they are appended or not, as a whole. With `PERSISTED`
        the answer comes when PostgreSQL has committed them, PartlyDone when it has not in time; `on_appended` is called
        before that, when all are in Redis.
        With a `stamp` the same request may be repeated, and so may events with an event_id: what was kept is not kept
        again, and told with its original place. StaleEpoch, OutOfSequence, SequenceReused, UnknownProducer.
        """
        return await self._producing.produce(
            topic, events, partitions=partitions, ack=ack, on_appended=on_appended, stamp=stamp
        )

    # ------------------------------------------------------------------------------------------------ groups

    async def create_group(
        self,
        topic: str,
        group: str,
        *,
        start_id: str | None,
        start_ms: int | None,
        visibility: Visibility = Visibility.APPENDED,
        settings: GroupSettings = GROUP_DEFAULTS,
    ) -> GroupCreated:
        """Create on every partition; exactly one of `start_id` (`$`, `0-0`, an id: events after it) and `start_ms`."""
        return await self._consuming.create(
            topic, group, start_id=start_id, start_ms=start_ms, visibility=visibility, settings=settings
        )

    async def groups(self, topic: str) -> list[str]:
        """The names of a topic's groups, sorted."""
        return await self._consuming.names(topic)

    async def describe_group(self, topic: str, group: str) -> list[GroupPartition]:
        """Every partition of a group as Redis has it now."""
        return await self._consuming.describe(topic, group)

    async def delete_group(self, topic: str, group: str) -> None:
        """Forget a group and its positions."""
        await self._consuming.delete(topic, group)

    async def read(
        self,
        topic: str,
        group: str,
        consumer: str,
        *,
        count: int,
        block_ms: int,
        partitions: Sequence[int] | None = None,
    ) -> Handout:
        """Up to `count` events, waiting up to `block_ms` for the first. Returns early, and empty, when draining."""
        return await self._consuming.read(topic, group, consumer, count=count, block_ms=block_ms, partitions=partitions)

    async def ack(self, topic: str, group: str, items: dict[int, list[Position]]) -> int:
        """How many of these were pending, and are not any more."""
        return await self._consuming.ack(topic, group, items)

    async def claim(
        self,
        topic: str,
        group: str,
        consumer: str,
        *,
        min_idle_ms: int,
        count: int,
        partitions: Sequence[int] | None = None,
    ) -> Handout:
        """Take over what nobody acked for that long, or what was released."""
        return await self._consuming.claim(
            topic, group, consumer, min_idle_ms=min_idle_ms, count=count, partitions=partitions
        )

    async def reset(
        self,
        topic: str,
        group: str,
        *,
        start_id: str | None,
        start_ms: int | None,
        partitions: Sequence[int] | None = None,
    ) -> ResetDone:
        """Move the group; what it had pending on those partitions is dropped, and counted."""
        return await self._consuming.reset(topic, group, start_id=start_id, start_ms=start_ms, partitions=partitions)

    async def preview_reset(
        self,
        topic: str,
        group: str,
        *,
        start_id: str | None,
        start_ms: int | None,
        partitions: Sequence[int] | None = None,
    ) -> ResetPreview:
        """What the same reset would do: nothing is changed."""
        start = start_of(start_id, start_ms)
        found = await self._topics.find(topic)
        wanted = set(numbers_of(found, partitions))
        described = await self._consuming.describe(topic, group)
        return await preview(self._world, found, start, [one for one in described if one.partition in wanted])

    # ----------------------------------------------------------------------------------------------- history

    async def history(
        self, topic: str, partition: int | None, span: Span, *, limit: int, at: Place | None = None
    ) -> HistoryPage:
        """The next events of a span, of one partition or of all (None), from Redis and PostgreSQL as one.

        At most `limit`, fewer when they are large or hard to find: `next` says where to go on, given back as `at`.
        Raises Gone below what is kept, Unavailable when the one store that has them is away.
        """
        return await self._reading.page(topic, partition, span, limit=limit, at=at)

    def history_pages(
        self, topic: str, partition: int | None, span: Span, *, at: Place | None = None
    ) -> AsyncGenerator[HistoryPage, None]:
        """All of a span up to what stands in the log now, a page at a time. Errors come as from `history`, at any
        page, and Unavailable when this node begins to drain: who has the last event goes on behind it elsewhere."""
        return self._reading.pages(topic, partition, span, at=at)

    # ----------------------------------------------------------------------------------------------- replays

    async def create_replay(self, topic: str, wish: ReplayWish) -> Replay:
        """Copy a part of a topic's history into another topic, in the background. NotFound, InvalidRequest, Gone."""
        return await self._replaying.create(topic, wish)

    async def replays(self) -> list[Replay]:
        """Newest first."""
        return await self._replaying.all()

    async def replay(self, replay_id: str) -> Replay:
        """One replay; NotFound."""
        return await self._replaying.find(replay_id)

    async def cancel_replay(self, replay_id: str) -> Replay:
        """End it where it is; what it has copied stays. Conflict when it has ended by itself."""
        return await self._replaying.cancel(replay_id)

    # ---------------------------------------------------------------------------------------------- watching

    def summary(self, allows: Callable[[str], bool]) -> dict[str, Any]:
        """`GET /v1/metrics/summary` as API.md has it, of the topics for which `allows(name)` is true. Never waits."""
        return self._watching.summary(allows)

    def cluster(self) -> dict[str, Any]:
        """`GET /v1/cluster`: nodes, who owns what under which epoch, this node's supervision tree. Never waits."""
        return self._watching.cluster()

    def live(self, allows: Callable[[str], bool], *, topic: str | None, everything: bool) -> dict[str, Any]:
        """One event of `GET /v1/live`: see `Live.snapshot`. Never waits."""
        return self._live.snapshot(allows, topic=topic, everything=everything)

    def live_history(self) -> dict[str, Any]:
        """The last minutes of the whole cluster, for charts. Never waits."""
        return self._live.history()

    def live_mark(self) -> anyio.Event:
        """What to hand to `live_news`; taken before `live`."""
        return self._live.mark()

    async def live_news(self, since: anyio.Event, seconds: float) -> bool:
        """Until there is another `live`, or for so many seconds; False, and at once, when the node is draining."""
        return await self._live.news(since, seconds)

    async def tail(
        self,
        topic: str,
        *,
        partitions: Sequence[int] | None = None,
        key: str | None = None,
        event_type: str | None = None,
    ) -> Seat:
        """A seat that is ready: new events of a topic from now on. Close it. NotFound, Overloaded, Unavailable."""
        return await self._tailing.open(topic, partitions=partitions, key=key, event_type=event_type)

    def readiness(self) -> list[Check]:
        """Redis, PostgreSQL, membership, not draining. Never waits."""
        return self._watching.readiness()

    def metrics(self, accept: str) -> tuple[str, bytes]:
        """Prometheus text: content type and body."""
        return self._exposition(accept)

    # ----------------------------------------------------------------------------------------- for the node

    def observe(self, sample: Sample) -> None:
        """The sampler looked around."""
        self._live.observe(sample)

    def begin_draining(self) -> None:
        """Readiness goes false, waiting reads and streams end, the other nodes take over. What is in flight still
        ends."""
        self._world.board.begin_draining()
        self._live.drain()
        self._world.audience.end("the node is draining")
        self._consuming.drain()
        self._producing.drain()

    async def sweep(self) -> None:
        """End the actors of topics and groups that are gone, and forget their numbers."""
        board = self._world.board
        for topic in self._counted_topics - board.topics.keys():
            self._world.meter.forget_topic(topic)
        for topic, group in self._counted_groups - board.groups.keys():
            self._world.meter.forget_group(topic, group)
        self._counted_topics, self._counted_groups = set(board.topics), set(board.groups)
        self._world.receipts.keep_only({topic.id for topic in board.topics.values()})
        await self._ingestors.keep_only(board.topics)
        await self._readers.keep_only(f"{topic}/{group}" for topic, group in board.groups)

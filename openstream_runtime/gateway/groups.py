"""Consumer groups: reads, acks and claims become messages to the group's reader on this node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from openstream_runtime.actors.group_reader import (
    AckItems,
    Arrived,
    Claim,
    GiveBack,
    GroupReader,
    Message,
    Nudge,
    Read,
    ReaderMailbox,
    positions_of,
)
from openstream_runtime.actors.placing import place, place_again
from openstream_runtime.actors.pool import Pool
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import InvalidRequest, NotFound, OpenStreamError, Overloaded, Unavailable
from openstream_runtime.domain.history import Span
from openstream_runtime.domain.names import check_consumer, check_group, check_topic
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import GROUP_DEFAULTS, Group, GroupSettings, Topic, Visibility
from openstream_runtime.domain.tracing import carried_by
from openstream_runtime.gateway.results import GroupCreated, Handout, ResetDone
from openstream_runtime.gateway.topics import Topics, numbers_of
from openstream_runtime.ports.groups import GroupPartition, GroupRead
from openstream_runtime.ports.tracing import Operation
from supervisors import MailboxError, MailboxFull, SupervisorError

_log = structlog.get_logger(__name__)

TIMEOUT = 15.0  # seconds for an answer, beyond the time a read may wait
LATE = 1.0  # seconds from Redis to the consumer, after which the time it has for an event begins when it got it
MAX_WAITING = 10_000  # messages in one group's mailbox on one node


def reader_pool(world: World) -> Pool[Message, GroupRead | int]:
    """One reader for each group somebody consumes on this node; the key is `topic/group`."""

    def make(key: str, box: ReaderMailbox) -> GroupReader:
        topic, _, group = key.partition("/")
        return GroupReader(world, topic, group, box)

    pool = Pool("groups", make, lambda: ReaderMailbox(MAX_WAITING), grace=world.limits.grace(0.05))

    def ring(bells: list[str]) -> None:
        for bell in bells:
            topic, _, rest = bell.partition(":")
            group, _, partition = rest.partition(":")
            # A bell of another version must not hurt the tailer, which calls this.
            if partition.isdecimal() and (box := pool.peek(f"{topic}/{group}")) is not None:
                box.offer(Nudge([int(partition)]))

    world.watch.on_bell("group", ring)
    return pool


class Consuming:
    """The gateway's way to the groups."""

    def __init__(self, world: World, topics: Topics, readers: Pool[Message, GroupRead | int]) -> None:
        self._world = world
        self._topics = topics
        self._readers = readers

    # -- managing

    async def create(
        self,
        topic: str,
        group: str,
        *,
        start_id: str | None,
        start_ms: int | None,
        visibility: Visibility,
        settings: GroupSettings = GROUP_DEFAULTS,
    ) -> GroupCreated:
        check_group(group)
        start = start_of(start_id, start_ms)
        found = await self._topics.find(topic)
        _check_settings(found, settings)
        made, is_new = await self._world.catalog.create_group(found, group, start, visibility, settings)
        self._world.board.add_group(made)
        created = await self._place(found, made, is_new=is_new)
        await self._topics.announce()
        return GroupCreated(made, found.partitions, created, is_new)

    async def _place(self, topic: Topic, group: Group, *, is_new: bool) -> int:
        """Have Redis know the group on every partition; on how many it did not."""
        numbers = range(topic.partitions)
        if is_new:
            # In place of whatever Redis still has under that name: a deletion that broke off half way must not decide
            # where the next group of that name begins.
            await place(self._world, topic, group.name, dict.fromkeys(numbers, group.start_id), anew=True)
            return topic.partitions
        # It existed: what is missing (half a creation, a lost Redis) is completed as of then, not as of now.
        return len((await place_again(self._world, topic, group, list(numbers))).positions)

    async def find(self, topic: str, group: str) -> Group:
        return await self._topics.group(await self._topics.find(topic), group)

    async def alter(self, topic: str, group: str, change: Callable[[GroupSettings], GroupSettings]) -> Group:
        found = await self._topics.find(topic)
        # As PostgreSQL has it: what somebody set at another node a moment ago must not be undone.
        known = await self._world.catalog.group(found.name, check_group(group))
        if known is None:
            raise NotFound(f"there is no group {group!r} on topic {topic!r}", topic=topic, group=group)
        settings = change(known.settings)
        _check_settings(found, settings)
        altered = await self._world.catalog.alter_group(found, group, settings)
        if altered is None:
            raise NotFound(f"there is no group {group!r} on topic {topic!r}", topic=topic, group=group)
        self._world.board.add_group(altered)
        await self._topics.announce()
        if (box := self._readers.peek(f"{found.name}/{group}")) is not None:
            box.offer(Nudge(range(found.partitions)))
        return altered

    async def names(self, topic: str) -> list[str]:
        found = await self._topics.find(topic)
        return sorted(group.name for group in await self._world.catalog.groups() if group.topic_id == found.id)

    async def describe(self, topic: str, group: str) -> list[GroupPartition]:
        found = await self._topics.find(topic)
        await self._topics.group(found, group)
        described = await self._world.groups.describe(found.name, group, range(found.partitions))
        return [await self._with_history(found, one) for one in described]

    async def _with_history(self, topic: Topic, found: GroupPartition) -> GroupPartition:
        """With what only PostgreSQL can tell of a partition it serves: how old its next event is, how many come."""
        if found.cold_upto is None:
            return found
        history, after, lag = self._world.history, found.last_delivered, found.lag
        try:
            if lag is None:
                lag = found.ahead + await history.count(topic.id, found.partition, after, found.cold_upto)
            page = await history.page(
                topic.id, found.partition, Span(after.next(), found.cold_upto), count=1, max_bytes=1
            )
        except OpenStreamError:
            return replace(found, lag=lag)
        if not page.events:
            return replace(found, lag=lag)
        age = self._world.clock.now_ms() - page.events[0].position.ms
        return replace(found, lag=lag, lag_ms=max(found.lag_ms, age))

    async def delete(self, topic: str, group: str) -> None:
        found = await self._topics.find(topic)
        await self._topics.group(found, group)
        # First nobody finds it, then it goes: the other way round a reader would create it again.
        await self._world.catalog.delete_group(found, group)
        self._world.board.drop_group(found.name, group)
        await self._topics.announce()
        await self._world.groups.delete(found.name, group, range(found.partitions))

    async def reset(
        self, topic: str, group: str, *, start_id: str | None, start_ms: int | None, partitions: Sequence[int] | None
    ) -> ResetDone:
        start = start_of(start_id, start_ms)
        found = await self._topics.find(topic)
        await self._topics.group(found, group)
        numbers = numbers_of(found, partitions)
        placed = await place(self._world, found, group, dict.fromkeys(numbers, start), anew=True)
        if (box := self._readers.peek(f"{found.name}/{group}")) is not None:
            box.offer(Nudge(numbers))
        for number in numbers:
            await self._world.tail.ring(f"group:{found.name}:{group}:{number}")
        return ResetDone(start, len(numbers), placed.dropped)

    # -- consuming

    async def read(
        self, topic: str, group: str, consumer: str, *, count: int, block_ms: int, partitions: Sequence[int] | None
    ) -> Handout:
        found, box = await self._reader(topic, group, consumer)
        deadline = self._world.clock.monotonic() + block_ms / 1000
        request = Read(consumer, count, numbers_of(found, partitions), deadline)
        handout = await self._ask(box, request, TIMEOUT + block_ms / 1000)
        self._tell(Operation.RECEIVE, found.name, group, handout)
        return handout

    async def claim(
        self, topic: str, group: str, consumer: str, *, min_idle_ms: int, count: int, partitions: Sequence[int] | None
    ) -> Handout:
        found, box = await self._reader(topic, group, consumer)
        claim = Claim(consumer, count, numbers_of(found, partitions), min_idle_ms)
        handout = await self._ask(box, claim, TIMEOUT)
        self._tell(Operation.CLAIM, found.name, group, handout)
        return handout

    async def ack(self, topic: str, group: str, items: Mapping[int, Sequence[Position]]) -> int:
        found = await self._topics.find(topic)
        await self._topics.group(found, group)
        numbers_of(found, list(items))
        box = await self._mailbox(found, group)
        if (span := self._world.tracer.current()) is not None:
            span.tell(Operation.ACK, found.name, group=group, partition=next(iter(items)) if len(items) == 1 else None)
            span.count(sum(map(len, items.values())))
        acked = await self._call(box, AckItems(items), TIMEOUT)
        if not isinstance(acked, int):
            raise TypeError(f"an ack is answered with a number, not {acked!r}")
        if acked:
            self._world.meter.acked(found.name, group, acked)
        return acked

    def _tell(self, operation: Operation, topic: str, group: str, handout: Handout) -> None:
        """What was handed out, and who made it: never fails and never waits, the events are the caller's by now."""
        if (span := self._world.tracer.current()) is not None:
            span.tell(operation, topic, group=group)
            span.count(len(handout.deliveries))
            span.link(carried_by(delivery.event.headers for delivery in handout.deliveries))

    def drain(self) -> None:
        """Have every waiting read answered; the board already says that the node is draining."""
        for _, box in self._readers.mailboxes():
            box.offer(Nudge())

    async def _reader(self, topic: str, group: str, consumer: str) -> tuple[Topic, ReaderMailbox]:
        check_consumer(consumer)
        found = await self._topics.find(topic)
        await self._topics.group(found, group)
        return found, await self._mailbox(found, group)

    async def _mailbox(self, topic: Topic, group: str) -> ReaderMailbox:
        try:
            return await self._readers.mailbox(f"{topic.name}/{group}")
        except SupervisorError as error:
            raise Unavailable(
                "the group's reader cannot be started now", backend="node", retry_after_ms=1000
            ) from error

    async def _ask(self, box: ReaderMailbox, request: Read | Claim, timeout: float) -> Handout:
        def give_back() -> None:
            if request.handed_out is not None and request.handed_out.deliveries:
                items = positions_of(request.handed_out.deliveries)
                request.handed_out = None
                if not box.closed and not box.offer(GiveBack(request.consumer, items)):
                    _log.warning("no room to give back; the claim-reaper will", consumer=request.consumer)

        def arrived() -> None:
            found, request.handed_out = request.handed_out, None
            late = self._world.clock.monotonic() - request.taken_at > LATE
            if found is not None and found.deliveries and late and not box.closed:
                box.offer(Arrived(request.consumer, positions_of(found.deliveries)))

        try:
            found = await self._call(box, request, timeout)
        except BaseException:
            # The answer may have come in the very moment this task was cancelled.
            give_back()
            raise
        if isinstance(found, int):
            raise TypeError(f"a read is answered with events, not {found!r}")
        return Handout(found.deliveries, arrived, give_back)

    async def _call(self, box: ReaderMailbox, message: Message, timeout: float) -> GroupRead | int:
        try:
            return await box.call(message, timeout=timeout, wait=False)
        except MailboxFull:
            self._world.meter.rejected("readers")
            raise Overloaded("too many requests wait on this group", reason="readers", retry_after_ms=1000) from None
        except MailboxError as error:
            raise Unavailable("the group's reader is being restarted", backend="node", retry_after_ms=1000) from error


def start_of(start_id: str | None, start_ms: int | None) -> str:
    """The position before the first event wanted, as Redis takes it: `$`, or `<ms>-<seq>`."""
    if (start_id is None) == (start_ms is None):
        raise InvalidRequest("give either start_id or start_ms")
    if start_ms is not None:
        if not 0 <= start_ms < 2**53:
            raise InvalidRequest("start_ms is a time in milliseconds since the epoch")
        # Everything at or after that millisecond: so the position is the very last before it.
        return "0-0" if start_ms == 0 else f"{start_ms - 1}-{2**63 - 1}"
    return "$" if start_id == "$" else str(Position.parse(start_id or ""))


def _check_settings(topic: Topic, settings: GroupSettings) -> None:
    if settings.dead_letter_topic is not None and check_topic(settings.dead_letter_topic) == topic.name:
        raise InvalidRequest("dead letters cannot go to the topic they come from", topic=topic.name)

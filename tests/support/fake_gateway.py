"""A node in memory: the gateway's face over lists, behaving as API.md says, and able to be in trouble on demand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from openstream_runtime.actors.audience import Audience, Seat
from openstream_runtime.actors.board import Changed
from openstream_runtime.domain.dead_letters import DeadLetter, Reason, Redrive, dead_letter_topic
from openstream_runtime.domain.errors import Conflict, InvalidRequest, NotFound, OpenStreamError, Unavailable
from openstream_runtime.domain.events import Delivery, NewEvent, StoredEvent
from openstream_runtime.domain.history import Place, Span
from openstream_runtime.domain.partitioning import partition_of
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.domain.producers import Stamp
from openstream_runtime.domain.replays import NewReplay, Part, Replay, ReplayState
from openstream_runtime.domain.topics import GROUP_DEFAULTS, Group, GroupSettings, Topic, TopicSettings, Visibility
from openstream_runtime.gateway.dead_letters import Letter, LetterPage, Redriven
from openstream_runtime.gateway.gateway import Gateway
from openstream_runtime.gateway.preview import PartitionPreview, ResetPreview
from openstream_runtime.gateway.replaying import ReplayWish
from openstream_runtime.gateway.results import Ack, Check, GroupCreated, Handout, HistoryPage, Produced, ResetDone
from openstream_runtime.ports.groups import ConsumerInfo, GroupPartition
from openstream_runtime.ports.redelivery import GivenBack
from support.fake_replays import as_made

PARTITIONS_DEFAULT = 4
_START_MS = 1_730_000_000_000


@dataclass
class Pending:
    consumer: str
    event: StoredEvent
    deliveries: int


@dataclass
class FakeGroup:
    name: str
    start_id: str
    at: dict[int, Position]
    pending: dict[int, dict[Position, Pending]]
    #: Given back: served first, by position.
    released: dict[int, dict[Position, Pending]]
    visibility: Visibility = Visibility.APPENDED
    settings: GroupSettings = GROUP_DEFAULTS
    #: What it gave up on, and whether that went back.
    letters: list[Letter] = field(default_factory=list)


@dataclass
class FakeTopic:
    topic: Topic
    log: list[list[StoredEvent]]
    groups: dict[str, FakeGroup] = field(default_factory=dict)


class FakeGateway(Gateway):
    """What a test may turn: `trouble` (raised by the next calls), `closed()` (appends wait), `drain()`."""

    def __init__(self) -> None:
        self.held: dict[str, FakeTopic] = {}
        self.trouble: list[Exception] = []
        self.gate = anyio.Event()
        self.gate.set()
        #: Until it is set, requests with ack=persisted wait; `losses` are the errors of some, by their number.
        self.database = anyio.Event()
        self.database.set()
        self.losses: dict[int, Exception] = {}
        self.unconfirmed = 0
        self.draining = False
        self.jobs: dict[str, Replay] = {}
        self.appends: list[int] = []
        self.acks: list[Ack] = []
        #: What producers said of themselves, the answers they got, and the first places of events by their ids.
        self.stamps: list[Stamp | None] = []
        self.answers: dict[Stamp, Produced] = {}
        self.named: dict[tuple[str, str], tuple[int, Position]] = {}
        self.delays: list[int] = []
        self.redrives: list[Redrive] = []
        self.arrived = 0
        self.given_back = 0
        self.waiting = 0
        self.cancelled = 0
        #: Streams somebody reads, pages they took, events on each, and what was asked for.
        self.reading = 0
        self.pages = 0
        self.page_events = 100
        self.trouble_at_page: int | None = None
        self.spans: list[tuple[Span, Place | None]] = []
        self.audience = Audience()
        self.snapshots = 0
        self._ticks = Changed()
        self._clock = _START_MS
        self._turn = 0
        self._ids = 0
        self._news = anyio.Event()

    # ------------------------------------------------------------------------------------------------- levers

    @contextmanager
    def closed(self) -> Iterator[Callable[[], None]]:
        """Appends wait; call what is given to let them go."""
        self.gate = anyio.Event()
        try:
            yield lambda: self.gate.set()
        finally:
            self.gate.set()

    def drain(self) -> None:
        self.draining = True
        self.audience.end("the node is draining")
        self._ticks.tell()
        self._tell()

    def events(self, topic: str) -> list[StoredEvent]:
        """Every stored event, partition by partition."""
        return [event for log in self.held[topic].log for event in log] if topic in self.held else []

    def _check(self) -> None:
        if self.trouble:
            raise self.trouble.pop(0)

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def _find(self, topic: str) -> FakeTopic:
        if topic not in self.held:
            raise NotFound(f"there is no topic {topic}", topic=topic)
        return self.held[topic]

    def _group(self, topic: str, group: str) -> FakeGroup:
        found = self._find(topic)
        if group not in found.groups:
            raise NotFound(f"topic {topic} has no group {group}", topic=topic, group=group)
        return found.groups[group]

    # ------------------------------------------------------------------------------------------------- topics

    async def put_topic(self, name: str, partitions: int | None, settings: TopicSettings) -> tuple[Topic, bool]:
        self._check()
        known = self.held.get(name)
        if known is None:
            self._ids += 1
            topic = Topic(self._ids, name, partitions or PARTITIONS_DEFAULT, settings, _START_MS)
            self.held[name] = FakeTopic(topic, [[] for _ in range(topic.partitions)])
            return topic, True
        if partitions not in {None, known.topic.partitions}:
            raise Conflict(f"topic {name} has {known.topic.partitions} partitions", topic=name)
        known.topic = Topic(known.topic.id, name, known.topic.partitions, settings, _START_MS)
        return known.topic, False

    async def topics(self) -> list[Topic]:
        self._check()
        return [self.held[name].topic for name in sorted(self.held)]

    async def topic(self, name: str) -> Topic:
        self._check()
        return self._find(name).topic

    async def delete_topic(self, name: str) -> Topic:
        self._check()
        found = self._find(name)
        del self.held[name]
        return found.topic

    # ------------------------------------------------------------------------------------------------ produce

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
        await self.gate.wait()
        self._check()
        self.stamps.append(stamp)
        if stamp is not None and stamp in self.answers:
            done = self.answers[stamp]
            return replace(done, duplicates=frozenset(range(len(done.results))))
        known = self.held.get(topic)
        if known is None:
            await self.put_topic(topic, partitions, TopicSettings())
            known = self.held[topic]
        elif partitions not in {None, known.topic.partitions}:
            raise Conflict(f"topic {topic} has {known.topic.partitions} partitions", topic=topic)
        count = known.topic.partitions
        self._turn += 1
        results = []
        for event in events:
            key = event.partition_key
            partition = self._turn % count if key is None else partition_of(key, count)
            self._clock += 1
            at = Position(self._clock, 0)
            known.log[partition].append(
                StoredEvent(at, event.event_type, key, event.payload, event.timestamp_ms, event.headers)
            )
            results.append((partition, at))
        self.appends.append(len(events))
        self.acks.append(ack)
        done = Produced(topic, count, results, self._seen(topic, events, results))
        if stamp is not None:
            self.answers[stamp] = done
        self._tell()
        number = len(self.appends) - 1
        if on_appended is not None:
            on_appended()
        if ack is Ack.PERSISTED:
            self.unconfirmed += 1
            try:
                await self.database.wait()
                if number in self.losses:
                    raise self.losses[number]
            finally:
                self.unconfirmed -= 1
        return done

    def _seen(self, topic: str, events: Sequence[NewEvent], results: list[tuple[int, Position]]) -> frozenset[int]:
        """Which of these have an id that came before; their results become the first ones."""
        seen = set()
        for index, event in enumerate(events):
            if event.event_id is not None:
                first = self.named.setdefault((topic, event.event_id), results[index])
                if first != results[index]:
                    results[index] = first
                    seen.add(index)
        return frozenset(seen)

    # ------------------------------------------------------------------------------------------------- groups

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
        self._check()
        found = self._find(topic)
        start = start_id if start_id is not None else f"{start_ms}-0"
        count = found.topic.partitions
        is_new = group not in found.groups
        if is_new:
            at = {partition: self._start(found, partition, start) for partition in range(count)}
            found.groups[group] = FakeGroup(
                group, start, at, {p: {} for p in range(count)}, {p: {} for p in range(count)}, visibility, settings
            )
        return GroupCreated(self._told(topic, group), count, count if is_new else 0, is_new)

    def _told(self, topic: str, group: str) -> Group:
        known = self._group(topic, group)
        return Group(self._find(topic).topic.id, topic, group, known.start_id, 0, known.visibility, known.settings)

    async def group(self, topic: str, group: str) -> Group:
        self._check()
        return self._told(topic, group)

    async def alter_group(self, topic: str, group: str, change: Callable[[GroupSettings], GroupSettings]) -> Group:
        self._check()
        known = self._group(topic, group)
        known.settings = change(known.settings)
        return self._told(topic, group)

    @staticmethod
    def _start(found: FakeTopic, partition: int, start: str) -> Position:
        if start == "$":
            return found.log[partition][-1].position if found.log[partition] else ZERO
        return Position.parse(start)

    async def groups(self, topic: str) -> list[str]:
        self._check()
        return sorted(self._find(topic).groups)

    async def describe_group(self, topic: str, group: str) -> list[GroupPartition]:
        self._check()
        known, log = self._group(topic, group), self._find(topic).log
        found = []
        for partition, at in known.at.items():
            held = known.pending[partition]
            names = sorted({one.consumer for one in held.values()})
            consumers = [ConsumerInfo(name, sum(one.consumer == name for one in held.values()), 5) for name in names]
            lag = sum(event.position > at for event in log[partition])
            found.append(GroupPartition(partition, at, len(held), lag, 7 if lag else 0, consumers))
        return found

    async def delete_group(self, topic: str, group: str) -> None:
        self._check()
        self._group(topic, group)
        del self._find(topic).groups[group]

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
        self._check()
        self._group(topic, group)
        numbers = self._numbers(topic, partitions)
        self.waiting += 1
        try:
            with anyio.move_on_after(block_ms / 1000):
                while not self.draining and not self._ready(topic, group, numbers):
                    await self._news.wait()
        except BaseException:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        return self._hand_out(topic, group, consumer, self._take(topic, group, consumer, numbers, count))

    def _numbers(self, topic: str, partitions: Sequence[int] | None) -> list[int]:
        count = self._find(topic).topic.partitions
        numbers = list(range(count)) if partitions is None else list(partitions)
        if any(number >= count for number in numbers):
            raise InvalidRequest(f"topic {topic} has partitions 0 to {count - 1}", topic=topic)
        return numbers

    def _ready(self, topic: str, group: str, numbers: list[int]) -> bool:
        known, log = self._group(topic, group), self._find(topic).log
        return any(known.released[n] or (log[n] and log[n][-1].position > known.at[n]) for n in numbers)

    def _take(self, topic: str, group: str, consumer: str, numbers: list[int], count: int) -> list[Delivery]:
        known, log = self._group(topic, group), self._find(topic).log
        taken: list[Delivery] = []
        for number in numbers:
            for at in sorted(known.released[number])[: count - len(taken)]:
                one = known.released[number].pop(at)
                known.pending[number][at] = Pending(consumer, one.event, one.deliveries + 1)
                taken.append(Delivery(number, one.event, one.deliveries + 1))
            fresh = [event for event in log[number] if event.position > known.at[number]][: count - len(taken)]
            for event in fresh:
                known.at[number] = event.position
                known.pending[number][event.position] = Pending(consumer, event, 1)
                taken.append(Delivery(number, event, 1))
        return taken

    def _hand_out(self, topic: str, group: str, consumer: str, taken: list[Delivery]) -> Handout:
        settled = False

        def settle() -> None:
            nonlocal settled
            assert not settled, "a handout is settled once"
            settled = True

        def arrived() -> None:
            settle()
            self.arrived += 1

        def give_back() -> None:
            settle()
            self.given_back += 1
            known = self._group(topic, group)
            for delivery in taken:
                one = known.pending[delivery.partition].pop(delivery.event.position)
                one.deliveries -= 1  # it never arrived
                known.released[delivery.partition][delivery.event.position] = one
            self._tell()

        return Handout(taken, arrived, give_back)

    async def ack(self, topic: str, group: str, items: dict[int, list[Position]]) -> int:
        self._check()
        known = self._group(topic, group)
        self._numbers(topic, list(items))
        return sum(known.pending[n].pop(at, None) is not None for n, ats in items.items() for at in ats)

    async def nack(
        self, topic: str, group: str, items: dict[int, list[Position]], *, consumer: str | None, delay_ms: int
    ) -> GivenBack:
        self._check()
        known = self._group(topic, group)
        self._numbers(topic, list(items))
        self.delays.append(delay_ms)
        again = dead = 0
        for number, positions in items.items():
            for at in positions:
                one = known.pending[number].get(at)
                if one is None or consumer not in (None, one.consumer):
                    continue
                del known.pending[number][at]
                if one.deliveries >= (known.settings.max_deliveries or 10**9):
                    dead += 1
                    letter = DeadLetter(number, one.event, topic, number, at, group, Reason.NACKED, one.deliveries, "c")
                    known.letters.append(Letter(letter, redriven=False))
                else:
                    again += 1
                    known.released[number][at] = one
        self._tell()
        return GivenBack(again, dead)

    async def extend(
        self, topic: str, group: str, consumer: str, items: dict[int, list[Position]]
    ) -> Mapping[int, Sequence[Position]]:
        self._check()
        known = self._group(topic, group)
        self._numbers(topic, list(items))
        held = {
            number: [at for at, one in known.pending[number].items() if one.consumer == consumer] for number in items
        }
        lost = {number: [at for at in positions if at not in held[number]] for number, positions in items.items()}
        return {number: positions for number, positions in lost.items() if positions}

    async def dead_letters(self, topic: str, group: str, *, limit: int, at: Place | None = None) -> LetterPage:
        self._check()
        known = self._group(topic, group)
        rest = [one for one in known.letters if at is None or _place_of(one) >= at]
        following = _place_of(rest[limit]) if len(rest) > limit else None
        return LetterPage(dead_letter_topic(self._told(topic, group)), rest[:limit], following)

    async def redrive(
        self, topic: str, group: str, *, to: Redrive, ids: Sequence[Place] | None, at: Place | None = None
    ) -> Redriven:
        self._check()
        known = self._group(topic, group)
        done = Redriven(dead_letter_topic(self._told(topic, group)))
        places = {_place_of(one): one for one in known.letters}
        wanted = [place for place in places if at is None or place >= at] if ids is None else ids
        done.unknown = [place for place in wanted if place not in places]
        for place in wanted:
            if place in places and places[place].redriven:
                done.already += 1
            elif place in places:
                done.redriven += 1
                known.letters[known.letters.index(places[place])] = Letter(places[place].letter, redriven=True)
        self.redrives.append(to)
        return done

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
        self._check()
        known = self._group(topic, group)
        taken: list[Delivery] = []
        for number in self._numbers(topic, partitions):
            for one in list(known.pending[number].values())[: count - len(taken)]:
                one.consumer, one.deliveries = consumer, one.deliveries + 1
                taken.append(Delivery(number, one.event, one.deliveries))
        return self._hand_out(topic, group, consumer, taken)

    async def reset(
        self,
        topic: str,
        group: str,
        *,
        start_id: str | None,
        start_ms: int | None,
        partitions: Sequence[int] | None = None,
    ) -> ResetDone:
        self._check()
        known, found = self._group(topic, group), self._find(topic)
        start = start_id if start_id is not None else f"{start_ms}-0"
        numbers = self._numbers(topic, partitions)
        dropped = 0
        for number in numbers:
            dropped += len(known.pending[number]) + len(known.released[number])
            known.pending[number].clear()
            known.released[number].clear()
            known.at[number] = self._start(found, number, start)
        return ResetDone(start, len(numbers), dropped)

    async def preview_reset(
        self,
        topic: str,
        group: str,
        *,
        start_id: str | None,
        start_ms: int | None,
        partitions: Sequence[int] | None = None,
    ) -> ResetPreview:
        self._check()
        known, found = self._group(topic, group), self._find(topic)
        start = start_id if start_id is not None else f"{start_ms}-0"
        seen = []
        for number in self._numbers(topic, partitions):
            old, new = known.at[number], self._start(found, number, start)
            low, high = min(old, new), max(old, new)
            between = sum(low < event.position <= high for event in found.log[number])
            replayed, skipped = (between, 0) if new < old else (0, between)
            pending = len(known.pending[number])
            seen.append(PartitionPreview(number, old, new, pending, replayed, skipped, at_least=False))
        return ResetPreview(start, seen)

    # ------------------------------------------------------------------------------------------------ history

    async def history(
        self, topic: str, partition: int | None, span: Span, *, limit: int, at: Place | None = None
    ) -> HistoryPage:
        self._check()
        self.spans.append((span, at))
        rows = self._kept(topic, partition, span, at)
        following = rows[limit] if len(rows) > limit else None
        return HistoryPage(rows[:limit], Place(following[0], following[1].position) if following else None)

    async def history_pages(
        self, topic: str, partition: int | None, span: Span, *, at: Place | None = None
    ) -> AsyncGenerator[HistoryPage, None]:
        self.spans.append((span, at))
        rows = self._kept(topic, partition, span, at)
        self.reading += 1
        try:
            for start in range(0, len(rows), self.page_events):
                await self.gate.wait()
                self._check()
                if self.draining or start == self.page_events * (self.trouble_at_page or -1):
                    raise Unavailable("the node is draining", backend="node")
                self.pages += 1
                yield HistoryPage(rows[start : start + self.page_events], None)
        finally:
            self.reading -= 1

    def _kept(self, topic: str, partition: int | None, span: Span, at: Place | None) -> list[tuple[int, StoredEvent]]:
        logs = self._find(topic).log
        if partition is not None and partition >= len(logs):
            raise NotFound(f"topic {topic} has partitions 0 to {len(logs) - 1}", topic=topic)
        return [
            (number, event)
            for number, log in enumerate(logs)
            for event in log
            if partition in {None, number}
            and (at is None or (number, event.position) >= at)
            and span.first <= event.position <= span.last
            and span.takes(event)
        ]

    # ------------------------------------------------------------------------------------------------ replays

    async def create_replay(self, topic: str, wish: ReplayWish) -> Replay:
        self._check()
        source = self._find(topic).topic
        first = wish.from_id if wish.from_ms is None else Position(wish.from_ms, 0)
        last = wish.to_id if wish.to_ms is None else Position(wish.to_ms, 2**63 - 1)
        if first is not None and last is not None and last < first:
            raise InvalidRequest("the replay ends before it begins")
        target, _ = await self.put_topic(wish.target, None, TopicSettings())
        numbers = self._numbers(topic, wish.partitions)
        parts = [Part(number, ZERO, Position(9, 9), ZERO) for number in numbers]
        wished = NewReplay(
            id=f"rp_{len(self.jobs)}",
            source_id=source.id,
            source=topic,
            target_id=target.id,
            target=wish.target,
            target_partitions=target.partitions,
            first=first,
            last=last,
            rate_per_s=wish.rate_per_s,
            total=len(self.events(topic)),
            parts=parts,
        )
        made = as_made(wished, _START_MS)
        self.jobs[made.id] = made
        return made

    async def replays(self) -> list[Replay]:
        self._check()
        return [replace(job, parts=[]) for job in reversed(self.jobs.values())]

    async def replay(self, replay_id: str) -> Replay:
        self._check()
        if replay_id not in self.jobs:
            raise NotFound(f"there is no replay {replay_id}", replay_id=replay_id)
        return self.jobs[replay_id]

    async def cancel_replay(self, replay_id: str) -> Replay:
        found = await self.replay(replay_id)
        if found.state in {ReplayState.DONE, ReplayState.FAILED}:
            raise Conflict(f"the replay has ended: it is {found.state}", replay_id=replay_id)
        self.jobs[replay_id] = replace(found, state=ReplayState.CANCELLED, finished_ms=_START_MS)
        return self.jobs[replay_id]

    # ----------------------------------------------------------------------------------------------- watching

    def summary(self, allows: Callable[[str], bool]) -> dict[str, Any]:
        return {
            "topics": [
                {"topic": name, "partitions": held.topic.partitions, "partition_stats": []}
                for name, held in sorted(self.held.items())
                if allows(name)
            ],
            "redis": {"used_memory": 1, "used_memory_human": "1B"},
            "postgres": {},
            "nodes": [],
        }

    def live(self, allows: Callable[[str], bool], *, topic: str | None, everything: bool) -> dict[str, Any]:
        self.snapshots += 1
        names = [name for name in sorted(self.held) if allows(name)]
        return {"topics": names, "detail": topic, "restarts": [] if everything else None}

    def live_history(self) -> dict[str, Any]:
        return {"fields": ["at_ms"], "points": [[1]]}

    def live_mark(self) -> anyio.Event:
        return self._ticks.mark()

    async def live_news(self, since: anyio.Event, seconds: float) -> bool:
        """Until `tick()`, so that no test waits for the clock; and never longer than asked for."""
        if not self.draining:
            with anyio.move_on_after(seconds):
                await since.wait()
        return not self.draining

    def tick(self) -> None:
        self._ticks.tell()

    async def tail(
        self,
        topic: str,
        *,
        partitions: Sequence[int] | None = None,
        key: str | None = None,
        event_type: str | None = None,
    ) -> Seat:
        self._check()
        numbers = self._numbers(topic, partitions)
        seat = self.audience.sit([TopicPartition(topic, n) for n in numbers], Span(key=key, event_type=event_type))
        seat.begin()
        return seat

    def show(self, partition: int, event: StoredEvent) -> None:
        """What the broadcaster would do."""
        for seat in self.audience.seats():
            seat.offer(partition, event)

    def cluster(self) -> dict[str, Any]:
        return {"nodes": [{"id": "n1"}], "partitions": [], "tree": {"id": "node", "children": []}}

    def readiness(self) -> list[Check]:
        return [Check("redis", True, "2 ms"), Check("postgres", True), Check("not draining", not self.draining)]

    def metrics(self, accept: str) -> tuple[str, bytes]:
        return "text/plain; version=0.0.4; charset=utf-8", b"# HELP up up\nup 1.0\n"


def _place_of(one: Letter) -> Place:
    return Place(one.letter.partition, one.letter.event.position)


class Trouble(OpenStreamError):
    """An error of the domain that no client can cause."""

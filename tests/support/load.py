"""Producers and consumers over HTTP that record what they did and saw, and a run that puts them together.

Every loop has a deadline, and memory is bounded by the number of events asked for.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from support.history import Ack, Delivered, Ev, History, Outcome, Read, parse_id, payload_of, seen
from support.nodes import Answer, Nodes

# How long a refused request is put off: what Retry-After says, inside these bounds, so that a load test stays a load.
MIN_PAUSE_S, MAX_PAUSE_S = 0.02, 2.0
# Kept, but not as safely as asked.
_WEAKER = ("not_replicated", "not_persisted")


class _Result(msgspec.Struct):
    partition: int | None = None
    redis_id: str | None = None
    status: str | int | None = None


class _Produced(msgspec.Struct):
    results: list[_Result] = []
    outcome: str | None = None
    retry_after_ms: float | None = None


class _Event(msgspec.Struct):
    partition: int
    redis_id: str
    payload: msgspec.Raw
    deliveries: int
    partition_key: str | None = None


class _Events(msgspec.Struct):
    events: list[_Event]


class _Acked(msgspec.Struct):
    acked: int


@dataclass(slots=True)
class Producer:
    """Sends events in batches, one request in flight, so that the order of a key is the order of its seq.

    A batch that was refused (429, 503 not_stored, no connection) is sent again as it was, before anything else. One of
    unknown outcome is marked so and never sent again. One that is partly done is finished by sending what was refused.
    """

    history: History
    nodes: Nodes
    name: str
    keys: Sequence[str]
    events: int
    batch: int = 100
    fill: int = 0
    ack: str = "appended"
    partitions: int | None = None
    #: Events a second at most; None: as fast as they are taken.
    rate: float | None = None
    timeout_s: float = 10.0
    seed: int = 0
    seq: int = 0
    refused: int = 0

    async def run(self, deadline: float, stop: anyio.Event) -> None:
        """Until all is sent, `stop` is set or the deadline (monotonic seconds) has passed."""
        chance = random.Random(f"{self.name}/{self.seed}")
        began = time.monotonic()
        while self.seq < self.events and not stop.is_set() and time.monotonic() < deadline:
            if self.rate is not None:
                await anyio.sleep(max(0.0, began + self.seq / self.rate - time.monotonic()))
            batch: dict[Ev, tuple[str, bytes]] = {}
            for seq in range(self.seq, min(self.seq + self.batch, self.events)):
                ev, key = (self.name, seq), chance.choice(self.keys)
                batch[ev] = (key, payload_of(ev, key, self.fill))
                self.history.invoke(ev, *batch[ev])
            self.seq += len(batch)
            await self._deliver(batch, deadline)

    async def _deliver(self, batch: dict[Ev, tuple[str, bytes]], deadline: float) -> None:
        """Bring every event of the batch to an end. A stop does not interrupt this: an order once begun is finished."""
        try:
            while batch:
                answer = await self.nodes.post(
                    f"/v1/topics/{self.history.topic}/events", self._body(batch), timeout=self.timeout_s
                )
                pause = self._settle(batch, answer)
                if not batch:
                    return
                if time.monotonic() >= deadline:
                    for ev in batch:
                        self.history.fail(ev)  # refused to the last
                    return
                self.refused += 1
                await anyio.sleep(pause)
        except BaseException:  # cancelled in flight: nobody knows
            for ev in batch:
                self.history.lose_track(ev)
            raise

    def _settle(self, batch: dict[Ev, tuple[str, bytes]], answer: Answer) -> float:
        """Record what the answer says and take it out of the batch; what stays was not kept. Seconds to wait."""
        history = self.history
        try:
            told = msgspec.json.decode(answer.body, type=_Produced)
        except msgspec.MsgspecError:
            told = _Produced()
        wait_s = answer.retry_after_s if told.retry_after_ms is None else told.retry_after_ms / 1_000
        pause = min(max(wait_s, MIN_PAUSE_S), MAX_PAUSE_S)
        if not answer.sent:
            return pause
        if answer.status == 200 and len(told.results) != len(batch):
            history.note(f"{self.name}: 200 with {len(told.results)} results for {len(batch)} events")
        elif told.results and len(told.results) == len(batch):
            for ev, result in zip(list(batch), told.results, strict=True):
                if result.status in _WEAKER:
                    history.lose_track(ev)  # it is there, and nobody promises for how long
                    del batch[ev]
                elif result.redis_id is not None and result.partition is not None:
                    history.succeed(ev, result.partition, parse_id(result.redis_id))
                    del batch[ev]
                elif result.status == "unknown":
                    history.lose_track(ev)
                    del batch[ev]
            return pause
        elif answer.status == 429 or (answer.status == 503 and told.outcome == "not_stored"):
            return pause
        elif answer.status is not None and 400 <= answer.status < 500:
            history.note(f"{self.name}: {answer}")
            for ev in batch:
                history.fail(ev)
            batch.clear()
            return 0.0
        elif told.outcome != "unknown":
            history.note(f"{self.name}, taken as unknown: {answer}")  # a 503 says which of the two it is
        for ev in batch:
            history.lose_track(ev)
        batch.clear()
        return 0.0

    def _body(self, batch: dict[Ev, tuple[str, bytes]]) -> bytes:
        # By hand: a serializer would rewrite the payloads.
        events = b",".join(
            b'{"event_type":"load","partition_key":"%b","payload":%b}' % (key.encode(), payload)
            for key, payload in batch.values()
        )
        count = b"" if self.partitions is None else b',"partitions":%d' % self.partitions
        return b'{"events":[%b],"ack":"%b"%b}' % (events, self.ack.encode(), count)


@dataclass(slots=True)
class Consumer:
    """Reads and acknowledges in a loop, as one consumer of a group, on whatever node answers."""

    history: History
    nodes: Nodes
    group: str
    name: str
    count: int = 500
    block_ms: int = 1_000
    #: Seconds between claims; None: never claims.
    claim_every_s: float | None = None
    claim_idle_ms: int = 60_000
    #: Seconds of work between reading and acknowledging.
    work_s: float = 0.0
    got: int = 0
    last_event: float = field(default_factory=time.monotonic)

    async def run(self, deadline: float, stop: anyio.Event) -> None:
        """Until `stop` is set (a read is finished and acknowledged first) or the deadline has passed."""
        next_claim = time.monotonic() + (self.claim_every_s or 0.0)
        while not stop.is_set() and time.monotonic() < deadline:
            claim = self.claim_every_s is not None and time.monotonic() >= next_claim
            if claim:
                next_claim = time.monotonic() + (self.claim_every_s or 0.0)
            items, pause = await self._fetch(claim=claim)
            if items:
                self.got += len(items)
                self.last_event = time.monotonic()
                await anyio.sleep(self.work_s)
                await self._acknowledge(items)
            elif pause:
                await anyio.sleep(pause)

    async def _fetch(self, *, claim: bool) -> tuple[list[Delivered], float]:
        what: dict[str, Any] = {"consumer": self.name, "count": self.count}
        what |= {"min_idle_ms": self.claim_idle_ms} if claim else {"block_ms": self.block_ms}
        invoked = time.monotonic()
        record = Read(self.group, self.name, invoked, invoked, ok=False, is_claim=claim)
        self.history.asks(record)
        try:
            answer = await self._post("claim" if claim else "read", what, timeout=self.block_ms / 1_000 + 10)
            if answer.status == 200:
                events = msgspec.json.decode(answer.body, type=_Events).events
                record.items = items = [
                    Delivered(
                        seen(event.partition, parse_id(event.redis_id), event.partition_key, bytes(event.payload)),
                        event.deliveries,
                    )
                    for event in events
                ]
                record.ok = True
                return items, 0.0
            # What never arrived, or was refused for its rate, handed nothing out; anything else may have.
            record.ok = not answer.sent or answer.status == 429
            if answer.status is not None and answer.status not in (429, 503):
                self.history.note(f"{self.group}/{self.name}: {answer}")
            return [], min(max(answer.retry_after_s, MIN_PAUSE_S), MAX_PAUSE_S)
        finally:
            record.ended = time.monotonic()
            self.history.saw(record)

    async def _acknowledge(self, items: Sequence[Delivered]) -> None:
        """Acknowledge, up to three times: it may be repeated, and what is not acknowledged comes again."""
        places = [(item.seen.partition, item.seen.id) for item in items]
        by_partition: dict[int, list[str]] = {}
        for partition, (ms, seq) in places:
            by_partition.setdefault(partition, []).append(f"{ms}-{seq}")
        what = {"items": [{"partition": number, "redis_ids": ids} for number, ids in by_partition.items()]}
        for _attempt in range(3):
            invoked = time.monotonic()
            record = Ack(self.group, self.name, invoked, invoked, ok=False, items=places)
            self.history.asks(record)
            try:
                answer = await self._post("ack", what, timeout=10)
                if answer.status == 200:
                    record.acked = msgspec.json.decode(answer.body, type=_Acked).acked
                    record.ok = True
                    return
            finally:
                record.ended = time.monotonic()
                self.history.acknowledged(record)
            if answer.status is not None and answer.status not in (429, 503):
                self.history.note(f"{self.group}/{self.name} ack: {answer}")
            await anyio.sleep(min(max(answer.retry_after_s, MIN_PAUSE_S), MAX_PAUSE_S))

    async def _post(self, verb: str, what: dict[str, Any], *, timeout: float) -> Answer:
        path = f"/v1/topics/{self.history.topic}/groups/{self.group}/{verb}"
        return await self.nodes.post(path, msgspec.json.encode(what), timeout=timeout)


@dataclass(slots=True)
class Plan:
    """What a run does."""

    events: int = 10_000
    producers: int = 8
    consumers: int = 4
    groups: Sequence[str] = ("load",)
    partitions: int = 8
    #: More for the PUT that creates the topic: `{"retention_ms": 500}` to see trims, for one.
    topic_settings: Mapping[str, int] = field(default_factory=dict)
    batch: int = 100
    keys: int = 64
    fill: int = 40
    ack: str = "appended"
    rate: float | None = None
    claim_every_s: float | None = None
    claim_idle_ms: int = 60_000
    #: All of it, drain included.
    deadline_s: float = 90.0
    #: After the last event that must come: how long nothing more has to come. Longer than the time after which the
    #: nodes give abandoned deliveries to others, when there are faults.
    quiet_s: float = 2.0
    progress_s: float = 5.0
    seed: int = 0
    #: Producers go on as long as what happens `during` the run does, however many `events` are left then.
    while_during: bool = False


async def run_load(
    history: History, nodes: Nodes, plan: Plan, during: Callable[[], Coroutine[Any, Any, None]] | None = None
) -> bool:
    """Create topic and groups, produce and consume all of it, drain; True when every event came to every group in time.

    `during` runs beside it (faults, for one); the drain begins when it has returned.
    """
    deadline = time.monotonic() + plan.deadline_s
    await prepare(history, nodes, plan, deadline)
    names = [f"p{number}" for number in range(plan.producers)]
    keys = [f"k{number}" for number in range(plan.keys)]
    share, rest = divmod(plan.events, plan.producers)
    producers = [
        Producer(
            history, nodes, name, keys, events=share + (number < rest), batch=plan.batch, fill=plan.fill, ack=plan.ack,
            rate=None if plan.rate is None else plan.rate / plan.producers, seed=plan.seed,
        )
        for number, name in enumerate(names)
    ]  # fmt: skip
    consumers = [
        Consumer(
            history, nodes, group, f"c{number}", claim_every_s=plan.claim_every_s, claim_idle_ms=plan.claim_idle_ms
        )
        for group in plan.groups
        for number in range(plan.consumers)
    ]
    async with _consuming(consumers, deadline), anyio.create_task_group() as work:
        work.start_soon(_show_progress, history, plan, consumers)
        enough = anyio.Event()
        async with anyio.create_task_group() as sources:
            for producer in producers:
                sources.start_soon(producer.run, deadline, enough)
            if during is not None:
                await during()
            if plan.while_during:
                enough.set()
        drained = await _drained(history, plan, consumers, deadline)
        work.cancel_scope.cancel()
    return drained


async def prepare(history: History, nodes: Nodes, plan: Plan, deadline: float) -> None:
    """The topic, and the groups at its beginning; tried until it works."""
    topic = f"/v1/topics/{history.topic}"
    wishes: list[tuple[str, str, dict[str, Any]]] = [
        ("PUT", topic, {"partitions": plan.partitions, **plan.topic_settings})
    ]
    wishes += [("POST", f"{topic}/groups", {"group": group, "start_id": "0-0"}) for group in plan.groups]
    for method, path, what in wishes:
        while True:
            answer = await nodes.request(method, path, msgspec.json.encode(what))
            if answer.status in (200, 201):
                break
            is_mistake = answer.status is not None and 400 <= answer.status < 500 and answer.status != 429
            if is_mistake or time.monotonic() >= deadline:
                raise AssertionError(f"{method} {path}: {answer}")
            await anyio.sleep(min(max(answer.retry_after_s, 0.1), MAX_PAUSE_S))


async def _drained(history: History, plan: Plan, consumers: Sequence[Consumer], deadline: float) -> bool:
    """Wait until every ok event came to every group, and then nothing more for `quiet_s`."""
    while time.monotonic() < deadline:
        wanted = set(history.with_outcome(Outcome.OK))
        complete = all(wanted <= history.delivered_to(group) for group in plan.groups)
        quiet_for = time.monotonic() - max((consumer.last_event for consumer in consumers), default=0.0)
        if complete and quiet_for >= plan.quiet_s:
            return True
        await anyio.sleep(0.25 if complete else 0.5)
    return False


async def _show_progress(history: History, plan: Plan, consumers: Sequence[Consumer]) -> None:
    while True:
        await anyio.sleep(plan.progress_s)
        got = ", ".join(f"{group} {len(history.delivered_to(group))}" for group in plan.groups)
        of = "" if plan.while_during else f" of {plan.events}"
        print(
            f"[{history.topic}] {time.monotonic() - history.began:6.1f} s: sent {len(history.sent)}{of},"
            f" delivered {got}; {sum(consumer.got for consumer in consumers)} handed out",
            flush=True,
        )


@asynccontextmanager
async def _consuming(consumers: Sequence[Consumer], deadline: float) -> AsyncIterator[None]:
    """The consumers run while the block does, and finish what they hold when it ends."""
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for consumer in consumers:
            tasks.start_soon(consumer.run, deadline, stop)
        yield
        stop.set()

"""A world for actors on fakes and virtual time: what a test of an actor, the gateway or the tree begins with.

Time costs nothing here: when every task waits, the clock jumps to the next deadline. A test may wait for minutes, and
no test depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
from trio.testing import MockClock

from openstream_runtime.actors.board import Board
from openstream_runtime.actors.tailer import Tailer
from openstream_runtime.actors.world import Limits, World
from openstream_runtime.domain.events import Delivery, NewEvent, StoredEvent
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.topics import Topic, TopicSettings
from openstream_runtime.ports.log import AppendBatch, Appended
from openstream_runtime.ports.nodes import NodeInfo
from openstream_runtime.ports.tracing import NO_TRACER, Tracer
from supervisors import Actor, ChildSpec, Context, Supervisor, TreeEvent, run
from supervisors.context import current_context
from support.fake_history import FakeGroupPositions, FakeHistory
from support.fake_log import FakeLog
from support.fake_redis import FakeRedis
from support.fake_store import FakeStore


class _JumpingSelector(selectors.SelectSelector):
    """Does not sleep: it moves the clock. What is ready comes first."""

    now = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on virtual time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def virtual_backend(name: str) -> tuple[str, dict[str, object]]:
    """`asyncio` or `trio` on virtual time, for an `anyio_backend` fixture."""
    if name == "asyncio":
        return name, {"loop_factory": JumpingLoop}
    return name, {"clock": MockClock(autojump_threshold=0)}


def run_virtual(main: Callable[..., Any], *args: Any, backend: str = "trio") -> Any:
    """Run an async function to its end on virtual time: for tests that hypothesis calls."""
    name, options = virtual_backend(backend)
    return anyio.run(main, *args, backend=name, backend_options=options)


class FakeClock:
    """The clock of the event loop, so that it is virtual where the loop's is."""

    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis

    def monotonic(self) -> float:
        return 1_000.0 + anyio.current_time()

    def now_ms(self) -> int:
        return self._redis.now_ms()


class Recorder:
    """A Meter that remembers everything: `of("persisted")` are the arguments of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]

    def count(self, name: str) -> Counter[tuple[Any, ...]]:
        return Counter(self.of(name))

    def appended(self, topic: str, partition: int, events: int, size: int) -> None:
        self.calls.append(("appended", (topic, partition, events, size)))

    def group_commit(self, events: int, seconds: float) -> None:
        self.calls.append(("group_commit", (events, seconds)))

    def produce_persisted(self, seconds: float) -> None:
        self.calls.append(("produce_persisted", (seconds,)))

    def ingest_request(self, status: str) -> None:
        self.calls.append(("ingest_request", (status,)))

    def rejected(self, reason: str) -> None:
        self.calls.append(("rejected", (reason,)))

    def read(self, topic: str, group: str, events: int) -> None:
        self.calls.append(("read", (topic, group, events)))

    def acked(self, topic: str, group: str, events: int) -> None:
        self.calls.append(("acked", (topic, group, events)))

    def claimed(self, topic: str, group: str, events: int) -> None:
        self.calls.append(("claimed", (topic, group, events)))

    def released(self, topic: str, group: str, events: int) -> None:
        self.calls.append(("released", (topic, group, events)))

    def nacked(self, topic: str, group: str, events: int) -> None:
        self.calls.append(("nacked", (topic, group, events)))

    def dead_lettered(self, topic: str, group: str, events: int) -> None:
        self.calls.append(("dead_lettered", (topic, group, events)))

    def persisted(self, topic: str, partition: int, events: int, quarantined: int) -> None:
        self.calls.append(("persisted", (topic, partition, events, quarantined)))

    def persist_delay(self, topic: str, partition: int, events: Sequence[StoredEvent], now_ms: int) -> None:
        self.calls.append(("persist_delay", (topic, partition, tuple(event.position for event in events), now_ms)))

    def delivery_delay(self, topic: str, group: str, deliveries: Sequence[Delivery], now_ms: int) -> None:
        self.calls.append(("delivery_delay", (topic, group, tuple(one.event.position for one in deliveries), now_ms)))

    def store_failed(self) -> None:
        self.calls.append(("store_failed", ()))

    def loop_lag(self, seconds: float) -> None:
        self.calls.append(("loop_lag", (seconds,)))

    def store_commit(self, events: int, seconds: float) -> None:
        self.calls.append(("store_commit", (events, seconds)))

    def trimmed(self, topic: str, partition: int, events: int) -> None:
        self.calls.append(("trimmed", (topic, partition, events)))

    def lost_tail(self, topic: str, partition: int, events: int) -> None:
        self.calls.append(("lost_tail", (topic, partition, events)))

    def history_dropped(self, tables: int) -> None:
        self.calls.append(("history_dropped", (tables,)))

    def lease(self, change: str) -> None:
        self.calls.append(("lease", (change,)))

    def replayed(self, topic: str, events: int) -> None:
        self.calls.append(("replayed", (topic, events)))

    def replays_running(self, change: int) -> None:
        self.calls.append(("replays_running", (change,)))

    def http_request(self, method: str, path: str, status: int, seconds: float) -> None:
        self.calls.append(("http_request", (method, path, status, seconds)))

    def forget_topic(self, topic: str) -> None:
        self.calls.append(("forget_topic", (topic,)))

    def forget_group(self, topic: str, group: str) -> None:
        self.calls.append(("forget_group", (topic, group)))


@dataclass
class Rig:
    """One node's world, and the fakes behind it. `node("b")` is another node on the same Redis and PostgreSQL."""

    world: World
    redis: FakeRedis
    store: FakeStore
    meter: Recorder
    log: FakeLog
    positions: FakeGroupPositions
    events: list[TreeEvent] = field(default_factory=list)

    def node(self, name: str, **limits: Any) -> Rig:
        return make_world(name, redis=self.redis, store=self.store, positions=self.positions, **limits)

    async def topic(self, name: str = "orders", partitions: int = 1, **settings: Any) -> Topic:
        """A topic that PostgreSQL and the board know."""
        topic, _ = await self.store.catalog.create_topic(name, partitions, TopicSettings(**settings))
        self.world.board.add_topic(topic)
        return topic

    async def verify(self, topic: Topic) -> None:
        """Have every partition ready for appends."""
        for number in range(topic.partitions):
            cursor = await self.store.events.cursor(topic.id, number)
            assert cursor is not None
            await self.world.log.verify(topic, number, cursor)

    async def append(self, topic: Topic, *payloads: int | str, partition: int = 0) -> list[Position]:
        """Append past every actor, verified first."""
        cursor = await self.store.events.cursor(topic.id, partition)
        assert cursor is not None
        await self.world.log.verify(topic, partition, cursor)
        batch = AppendBatch(topic, partition, [event(one) for one in payloads], 10**9, 10**9)
        [outcome] = await self.world.log.append([batch])
        assert isinstance(outcome, Appended), outcome
        return list(outcome.positions)

    def stored(self, topic: Topic, partition: int = 0) -> list[str]:
        """The payloads PostgreSQL has, in order."""
        return [one.payload.decode() for _, one in self.store.rows(topic.id, partition)]

    def retained(self, topic: Topic, partition: int = 0) -> list[str]:
        """The payloads Redis has, in order."""
        stream = self.redis.streams.get(TopicPartition(topic.name, partition))
        return [one.payload.decode() for one in stream.entries.values()] if stream else []


def make_world(
    name: str = "a",
    *,
    redis: FakeRedis | None = None,
    store: FakeStore | None = None,
    positions: FakeGroupPositions | None = None,
    tracer: Tracer = NO_TRACER,
    **limits: Any,
) -> Rig:
    """A node called `name` on fakes; keywords are fields of Limits."""
    log = FakeLog(redis)
    store = store or FakeStore(log.redis.now_ms)
    positions = positions or FakeGroupPositions(store)
    meter = Recorder()
    world = World(
        log=log.events,
        producers=log.producers,
        tail=log.tail,
        groups=log.groups,
        leases=log.leases,
        members=log.members,
        store=store.events,
        catalog=store.catalog,
        history=FakeHistory(store),
        positions=positions,
        replays=store.replays,
        redrives=store.redrives,
        clock=FakeClock(log.redis),
        meter=meter,
        board=Board(NodeInfo(name, f"http://{name}:8000", 1, "test")),
        limits=replace(Limits(), **limits),
        tracer=tracer,
    )
    return Rig(world, log.redis, store, meter, log, positions)


def event(payload: int | str = "x", key: str | None = None) -> NewEvent:
    """An event with that payload."""
    return NewEvent("test", key, str(payload).encode(), 1)


@asynccontextmanager
async def running(actor: Actor, *, name: str = "actor", grace: float = 10.0) -> AsyncIterator[Context]:
    """An actor on its own, ready; asked to stop when the block ends, and cancelled when its grace is over.

    What it raises comes out of the block.
    """
    ctx = Context(name)

    async def live() -> None:
        current_context.set(ctx)
        try:
            await actor.run(ctx)
        finally:
            ctx.release_all()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live)
        with anyio.fail_after(10):
            await ctx.started.wait()
        yield ctx
        ctx.ask_to_stop()
        tasks.cancel_scope.deadline = anyio.current_time() + grace


@asynccontextmanager
async def supervised(
    *specs: ChildSpec, events: list[TreeEvent] | None = None, **options: Any
) -> AsyncIterator[Supervisor]:
    """Actors under a real supervisor, ready; stopped in order when the block ends."""
    stop = anyio.Event()
    tree = Supervisor(specs, **{"max_restarts": 1000, **options})
    observer = events.append if events is not None else None
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(run, tree, name="node", stop=stop, observer=observer))
        yield tree
        stop.set()


def tailer(rig: Rig) -> ChildSpec:
    """The tailer of that node."""
    return Tailer.spec(rig.world.tail, rig.world.watch, grace=1.0)


async def eventually(claim: Callable[[], object], *, within: float = 60.0) -> None:
    """Wait until the claim holds."""
    with anyio.move_on_after(within):
        while not claim():  # noqa: ASYNC110 (virtual time: polling costs nothing)
            await anyio.sleep(0.01)
    assert claim(), f"not within {within} s"


async def settle(ticks: int = 20) -> None:
    """Let every task that can run go on, without moving the clock."""
    for _ in range(ticks):
        await anyio.lowlevel.checkpoint()

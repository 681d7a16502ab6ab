"""A whole cluster in one task on virtual time: real trees and gateways on fakes, clients, trouble drawn from a seed.

The same seed is the same run, to the last step: nothing in it looks at the real clock or at real chance.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import TypeVar

import anyio
import trio._core._run as trio_run
from anyio.abc import TaskGroup

from openstream_runtime.actors.world import World
from openstream_runtime.domain.topics import TopicSettings
from openstream_runtime.gateway.gateway import Gateway
from support.actors import make_world, run_virtual
from support.checks import Report, Violation, check
from support.dumps import PgDump, RedisDump, Row
from support.fake_history import FakeGroupPositions
from support.fake_redis import FakeRedis
from support.fake_store import FakeStore
from support.history import History, seen
from support.links import Links
from support.simulated_clients import PARTITIONS, PATIENCE, NoAnswer, SimulatedConsumer, SimulatedProducer
from support.tree_node import TreeNode

T = TypeVar("T")
TOPIC, GROUPS = "orders", ("early", "other")
NODES = 3
#: Seconds of trouble, and until everything must have come to rest afterwards.
TROUBLE_S, REST_S = 12.0, 60.0
LEASE_MS = 1_000
#: Writes of Redis whose answers are lost, carried out or not.
ANSWERS = ("append", "append", "append", "read", "mark_persisted", "advance", "acquire", "release", "begin", "finish")


#: A world in which something is broken.
Defect = Callable[[World], World]


def simulate(seed: int, defect: Defect | None = None) -> tuple[Report, History]:
    """One run from its beginning to its verdict. With a defect every node has it.

    On trio, which can be told to run its tasks in an order of its own and not in that of their addresses.
    """
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    random.seed(seed)  # what the product leaves to chance

    async def run() -> tuple[Report, History]:
        simulation = Simulation(seed, defect or (lambda world: world))
        return await simulation.run(), simulation.history

    found: tuple[Report, History] = run_virtual(run, backend="trio")
    return found


class LiveNode:
    """One life of a node."""

    def __init__(
        self,
        name: str,
        chance: Random,
        defect: Defect,
        redis: FakeRedis,
        store: FakeStore,
        positions: FakeGroupPositions,
    ) -> None:
        self.links = links = Links(chance)
        rig = make_world(
            name, redis=redis, store=store, positions=positions, lease_ms=LEASE_MS, claim_idle_ms=2_000, grace_ms=4_000,
            max_unpersisted=60, max_stream_len=10_000,
        )  # fmt: skip
        world = defect(rig.world)
        ports = ("log", "producers", "tail", "groups", "leases", "members", "store", "catalog", "history", "positions")
        rig.world = replace(world, **{port: links(getattr(world, port)) for port in ports})
        self.tree = TreeNode(rig)
        self.life = anyio.CancelScope()
        self.requests: dict[anyio.CancelScope, None] = {}  # in order, which a set of objects has not
        self.ended = anyio.Event()
        self.serves = False

    async def live(self) -> None:
        """Until it is stopped or killed."""
        try:
            with self.life:
                async with anyio.create_task_group() as tasks:
                    await tasks.start(self._tree)
                    self.serves = True
        finally:
            self.serves = False
            self.ended.set()

    async def _tree(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        await self.tree.live(task_status=task_status)

    def kill(self) -> None:
        """As a power cut: nothing is said to anybody."""
        self.serves = False
        for scope in (*self.requests, self.life):
            scope.cancel()

    async def stop(self) -> None:
        """As SIGTERM: it drains."""
        self.serves = False
        self.tree.gateway.begin_draining()
        self.tree.stop.set()
        await self.ended.wait()


class Simulation:
    """What one run consists of."""

    def __init__(self, seed: int, defect: Defect) -> None:
        self._defect = defect
        self._chance = Random(seed)
        self._redis = FakeRedis()
        self._store = FakeStore(self._redis.now_ms)
        self._positions = FakeGroupPositions(self._store)
        self._nodes: list[LiveNode] = []
        self._born = 0
        self.history = History(TOPIC, clock=anyio.current_time, began=anyio.current_time())

    async def run(self) -> Report:
        """The verdict on everything, once all has come to rest."""
        consumers = [
            SimulatedConsumer(self.history, self, Random(self._chance.random()), group, f"c{number}")
            for group in GROUPS
            for number in range(2)
        ]
        async with anyio.create_task_group() as tasks:
            for _ in range(NODES):
                self._start(tasks)
            topic, _ = await self._store.catalog.create_topic(TOPIC, PARTITIONS, TopicSettings(retention_ms=500))
            for group in GROUPS:
                await self.call(partial(Gateway.create_group, topic=TOPIC, group=group, start_id="0-0", start_ms=None))
            for consumer in consumers:
                tasks.start_soon(consumer.run)
            async with anyio.create_task_group() as work:
                for number in range(4):
                    producer = SimulatedProducer(
                        self.history, self, Random(self._chance.random()), f"p{number}", events=60,
                        repeats=number % 2 == 1, pause=0.5,
                    )  # fmt: skip
                    work.start_soon(producer.run)
                for _ in range(2):
                    work.start_soon(self._make_trouble, tasks)
            for consumer in consumers:
                consumer.tidy = True
            await self._come_to_rest(topic.id)
            rested = self._at_rest(topic.id)
            tasks.cancel_scope.cancel()
        report = check(self.history, self._redis_dump(), self._pg_dump(topic.id), groups=GROUPS)
        if rested:
            return report
        found = Violation("C13 liveness", 1, [str(self._redis.streams)])
        return replace(report, violations=[*report.violations, found])

    # ---- nodes

    def _start(self, tasks: TaskGroup) -> None:
        self._born += 1
        chance = Random(self._chance.random())
        node = LiveNode(f"n{self._born}", chance, self._defect, self._redis, self._store, self._positions)
        self._nodes.append(node)
        tasks.start_soon(node.live)

    async def call(self, request: Callable[[Gateway], Awaitable[T]], *, patience: float = PATIENCE) -> T:
        """At one of the nodes that serve; NoAnswer when it dies, or takes too long."""
        while not (serving := [node for node in self._nodes if node.serves]):  # noqa: ASYNC110 (virtual time)
            await anyio.sleep(0.1)
        node = self._chance.choice(serving)
        with anyio.move_on_after(patience) as scope:
            node.requests[scope] = None
            try:
                return await request(node.tree.gateway)
            finally:
                node.requests.pop(scope, None)
        raise NoAnswer

    # ---- trouble

    async def _make_trouble(self, tasks: TaskGroup) -> None:
        """One thing after the other; two of these go on at a time, so that troubles overlap."""
        ends = anyio.current_time() + TROUBLE_S
        makers = (
            self._redis_away, self._answer_lost, self._answer_lost, self._store_away, self._commit_lost,
            self._store_slow, self._held, self._held, self._killed, self._stopped, self._redis_restarted, self._full,
        )  # fmt: skip
        while anyio.current_time() < ends:
            await anyio.sleep(self._chance.random() * 0.8)
            make = self._chance.choice(makers)
            self.history.note(make.__name__.strip("_"))
            await make(tasks)

    def _while(self) -> float:
        """Seconds: some shorter than a lease, some longer."""
        return self._chance.choice((0.2, 0.8, 1.5, 3.0))

    async def _redis_away(self, _: TaskGroup) -> None:
        self._redis.unavailable = True
        await anyio.sleep(self._while())
        self._redis.unavailable = False

    async def _answer_lost(self, _: TaskGroup) -> None:
        self._redis.lose_answer(self._chance.choice(ANSWERS), kept=self._chance.random() < 0.5)

    async def _store_away(self, _: TaskGroup) -> None:
        self._store.trouble.unavailable = True
        await anyio.sleep(self._while())
        self._store.trouble.unavailable = False

    async def _commit_lost(self, _: TaskGroup) -> None:
        self._store.trouble.lost_commits.append(self._chance.random() < 0.5)

    async def _store_slow(self, _: TaskGroup) -> None:
        if self._store.trouble.gate is None:
            gate = self._store.trouble.hold_writes()
            await anyio.sleep(self._while())
            gate.set()
            self._store.trouble.gate = None

    async def _held(self, _: TaskGroup) -> None:
        """A node is cut off, or paused, perhaps for longer than its leases; then it goes on where it was."""
        node = self._chance.choice(self._nodes)
        node.links.hold()
        await anyio.sleep(self._while())
        node.links.release()

    async def _killed(self, tasks: TaskGroup) -> None:
        if len([node for node in self._nodes if node.serves]) > 1:
            node = self._chance.choice(self._nodes)
            self._nodes.remove(node)
            node.kill()
            await anyio.sleep(self._while())
            self._start(tasks)

    async def _stopped(self, tasks: TaskGroup) -> None:
        if len([node for node in self._nodes if node.serves]) > 1:
            node = self._chance.choice(self._nodes)
            self._nodes.remove(node)
            await node.stop()
            self._start(tasks)

    async def _redis_restarted(self, _: TaskGroup) -> None:
        self._redis.restart()

    async def _full(self, _: TaskGroup) -> None:
        self._redis.out_of_memory = True
        await anyio.sleep(self._while())
        self._redis.out_of_memory = False

    # ---- the end

    async def _come_to_rest(self, topic_id: int) -> None:
        """Everything persisted, and everything delivered to every group and acked; or nothing more happens."""
        with anyio.move_on_after(REST_S):
            while not self._at_rest(topic_id):  # noqa: ASYNC110 (virtual time)
                await anyio.sleep(0.2)

    def _at_rest(self, topic_id: int) -> bool:
        stored = {row.seen.ev for rows in self._pg_dump(topic_id).values() for row in rows}
        there = {entry.ev for entries in self._redis_dump().values() for entry in entries}
        return (
            there <= stored
            and all(stored <= self.history.delivered_to(group) for group in GROUPS)
            and not any(group.pending for stream in self._redis.streams.values() for group in stream.groups.values())
        )

    def _redis_dump(self) -> RedisDump:
        return {
            at.partition: [
                seen(at.partition, (one.position.ms, one.position.seq), one.partition_key, one.payload)
                for one in stream.entries.values()
            ]
            for at, stream in self._redis.streams.items()
            if at.topic == TOPIC
        }

    def _pg_dump(self, topic_id: int) -> PgDump:
        return {
            partition: [
                Row(generation, seen(partition, (one.position.ms, one.position.seq), one.partition_key, one.payload))
                for generation, one in self._store.rows(topic_id, partition)
            ]
            for partition in range(PARTITIONS)
        }

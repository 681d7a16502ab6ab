"""Two nodes persist the same partitions through every kind of trouble, by random schedules from fixed seeds.

What must hold at every moment: nothing is trimmed that is not stored. What must hold at the end: every event that was
appended is in PostgreSQL exactly once, in order.
"""

from __future__ import annotations

import random

import anyio
import pytest

from openstream_runtime.actors.persister import Persister
from openstream_runtime.actors.store_writer import StoreWriter, store_mailbox
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.log import AppendBatch, Appended
from supervisors import ChildSpec, Supervisor, run
from support.actors import Rig, event, eventually, make_world, run_virtual, tailer
from support.persisting import only_trims_what_is_stored

PARTITIONS = 2


class Node:
    """A node that persists, and can be killed in the middle of anything."""

    def __init__(self, rig: Rig, topic: Topic) -> None:
        self.rig, self.topic = rig, topic
        self.stop = anyio.Event()
        self.killed = anyio.CancelScope()

    async def live(self) -> None:
        writer = store_mailbox()
        specs = [tailer(self.rig), StoreWriter.spec(self.rig.world, writer)]
        for at in self.topic.all_partitions():
            spec = Persister.spec(self.rig.world, self.topic, at, writer)
            specs.append(ChildSpec(id=str(at), actor=spec.actor, grace=spec.grace))
        with self.killed:
            await run(Supervisor(specs, max_restarts=10_000), stop=self.stop)


class Schedule:
    """Random trouble, and appends all the while."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.rigs = {"a": make_world("a", retention_ms=0, lease_ms=2_000)}
        self.rigs["b"] = self.rigs["a"].node("b", retention_ms=0, lease_ms=2_000)
        self.redis, self.store = self.rigs["a"].redis, self.rigs["a"].store
        self.appended: dict[int, list[str]] = {number: [] for number in range(PARTITIONS)}
        self.nodes: dict[str, Node] = {}
        self.serial = 0

    async def run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rig = self.rigs["a"]
        topic = self.topic = await rig.topic(partitions=PARTITIONS)
        await rig.verify(topic)
        only_trims_what_is_stored(monkeypatch, self.store, topic)
        async with anyio.create_task_group() as tasks:
            self.tasks = tasks
            for name in self.rigs:
                self.begin(name)
            for _ in range(60):
                await self.step()
                await anyio.sleep(self.random.choice([0, 0.001, 0.01, 0.1, 0.5, 2]))
            self.heal()
            for number, expected in self.appended.items():
                await eventually(lambda n=number, e=expected: rig.stored(topic, n) == e)  # type: ignore[misc]
                await eventually(lambda n=number: rig.retained(topic, n) == [])  # type: ignore[misc]
            for node in self.nodes.values():
                node.stop.set()
        await anyio.sleep(2.1)  # a node that was killed while Redis was away could not give its lease back
        assert all(self.redis.holder(at) is None for at in topic.all_partitions())

    def begin(self, name: str) -> None:
        node = self.nodes[name] = Node(self.rigs[name], self.topic)
        self.tasks.start_soon(node.live)

    def heal(self) -> None:
        self.redis.unavailable = False
        self.store.trouble.unavailable = False
        self.release_writes()

    def release_writes(self) -> None:
        if self.store.trouble.gate is not None:
            self.store.trouble.gate.set()
            self.store.trouble.gate = None

    async def step(self) -> None:
        trouble, chance = self.store.trouble, self.random
        at = TopicPartition(self.topic.name, chance.randrange(PARTITIONS))
        match chance.choice("AAAAAAAARPWLMTUKSG"):
            case "A":
                await self.append(at.partition)
            case "R":
                self.redis.unavailable = not self.redis.unavailable
            case "P":
                trouble.unavailable = not trouble.unavailable
            case "W":
                trouble.unavailable_writes += 1
            case "L":
                trouble.lost_commits.append(chance.random() < 0.5)
            case "M":
                self.redis.lose_answer("mark_persisted", kept=chance.random() < 0.5)
            case "T":  # the lease is somebody else's, who then dies
                self.redis.leases[at] = ("c:1", self.redis.now_ms() + 1_000)
            case "U":
                self.store.usurp(self.topic.id, at.partition)
            case "K":  # killed, and started again
                name = chance.choice(list(self.nodes))
                self.nodes[name].killed.cancel()
                self.begin(name)
            case "S":  # stopped in order, and started again
                name = chance.choice(list(self.nodes))
                self.nodes[name].stop.set()
                self.begin(name)
            case "G":
                if trouble.gate is None:
                    trouble.hold_writes()
                else:
                    self.release_writes()

    async def append(self, partition: int) -> None:
        payloads = [f"{partition}.{self.serial + n}" for n in range(self.random.randrange(1, 30))]
        batch = AppendBatch(self.topic, partition, [event(one) for one in payloads], 10**9, 10**9)
        [outcome] = await self.rigs["a"].world.log.append([batch])
        if isinstance(outcome, Appended):
            self.serial += len(payloads)
            self.appended[partition] += payloads


@pytest.mark.parametrize("seed", range(24))
def test_every_event_is_stored_once_in_order_and_only_trimmed_when_stored(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(seed)
    run_virtual(schedule.run, monkeypatch, backend="trio" if seed % 2 else "asyncio")
    assert sum(map(len, schedule.appended.values())) > 20


@pytest.mark.parametrize("gap", [0.0, 0.003, 0.02, 0.2])
def test_a_stopped_node_hands_over_at_once(gap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        schedule = Schedule(0)
        rig = schedule.rigs["a"]
        topic = schedule.topic = await rig.topic(partitions=PARTITIONS)
        await rig.verify(topic)
        only_trims_what_is_stored(monkeypatch, schedule.store, topic)
        async with anyio.create_task_group() as schedule.tasks:
            schedule.begin("a")
            await eventually(lambda: len(rig.world.board.held) == PARTITIONS)
            schedule.begin("b")
            for _ in range(20):
                await schedule.append(0)
                await anyio.sleep(gap)
            schedule.nodes["a"].stop.set()
            await schedule.append(1)
            await eventually(lambda: len(schedule.rigs["b"].world.board.held) == PARTITIONS, within=1)
            for number, expected in schedule.appended.items():
                await eventually(lambda n=number, e=expected: rig.stored(topic, n) == e, within=2)  # type: ignore[misc]
            schedule.nodes["b"].stop.set()

    run_virtual(main)

"""Clusters on virtual time through trouble that seeds draw: nothing acknowledged is lost, doubled or reordered.

`make chaos` runs many more seeds than a commit can wait for. A seed that fails is the whole story: run it again alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from openstream_runtime.domain.errors import OutcomeUnknown
from openstream_runtime.domain.history import END
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.ports import AppendBatch, AppendOutcome, Committed, GroupRead, PersistBatch, Unknown
from support.actors import run_virtual
from support.checks import Report
from support.simulation import Defect, Simulation

SEEDS = range(16)
MANY = range(1_000, 1_000 + int(os.environ.get("SEEDS", "500")))
#: So many runs a defect has to show itself.
PATIENCE = 25


def outcome_of(seed: int, defect: Defect = lambda world: world) -> tuple[Report, Simulation]:
    async def run() -> tuple[Report, Simulation]:
        simulation = Simulation(seed, defect)
        return await simulation.run(), simulation

    found: tuple[Report, Simulation] = run_virtual(run, backend="asyncio")
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cluster_in_trouble_keeps_its_promises(seed: int) -> None:
    report, _ = outcome_of(seed)
    assert not report.violations, f"seed {seed}: {report}"


@pytest.mark.chaos
@pytest.mark.timeout(1_800)
def test_many_clusters_in_trouble_keep_their_promises() -> None:
    for seed in MANY:
        report, _ = outcome_of(seed)
        assert not report.violations, f"seed {seed}: {report}"


def test_a_seed_is_the_same_run_again() -> None:
    first, second = (outcome_of(3) for _ in range(2))
    assert first[0].figures == second[0].figures
    assert first[0].notes == second[0].notes
    assert first[1].history.sent == second[1].history.sent
    assert first[1].history.reads == second[1].history.reads
    assert first[1].history.acks == second[1].history.acks
    assert outcome_of(4)[1].history.reads != second[1].history.reads


# ------------------------------------------------------------------------- builds that are broken, and must be caught


class Broken:
    """A port with some of its methods replaced."""

    def __init__(self, port: Any) -> None:
        self.port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self.port, name)


class AppendsBlindly(Broken):
    """What got no answer is appended again."""

    async def append(self, batches: Sequence[AppendBatch], *, replicas: int | None = None) -> list[AppendOutcome]:
        outcomes: list[AppendOutcome] = await self.port.append(batches, replicas=replicas)
        return await self.port.append(batches) if any(isinstance(one, Unknown) for one in outcomes) else outcomes


class ForgetsProducers(Broken):
    """The partition does not look whether it has kept a share before."""

    async def append(self, batches: Sequence[AppendBatch], *, replicas: int | None = None) -> list[AppendOutcome]:
        found: list[AppendOutcome] = await self.port.append([replace(one, once=None) for one in batches])
        return found


class TrimsByLength(Broken):
    """The bound of what is persisted is not kept."""

    async def mark_persisted(self, at: TopicPartition, token: str, cursor: Position, **options: Any) -> int:
        trimmed: int = await self.port.mark_persisted(at, token, cursor, **options)
        more: int = self.port._redis.stream(at).trim(END)
        return trimmed + more


class TrimsUnderAnyLease(Broken):
    """Whoever once owned the partition publishes what he believes, and trims."""

    async def mark_persisted(self, at: TopicPartition, token: str, cursor: Position, **options: Any) -> int:
        holder = self.port._redis.leases.get(at)
        self.port._redis.leases[at] = (token, END.ms)
        try:
            trimmed: int = await self.port.mark_persisted(at, token, cursor, **options)
        finally:
            self.port._redis.leases.pop(at)
            if holder is not None:
                self.port._redis.leases[at] = holder
        return trimmed


class BelievesInCommits(Broken):
    """A commit that got no answer is taken for done."""

    async def write(self, batches: Sequence[PersistBatch]) -> Any:
        try:
            return await self.port.write(batches)
        except OutcomeUnknown:
            return [Committed()] * len(batches)


class IsNotFenced(Broken):
    """Every owner writes under the epoch that counts, wherever the cursor is."""

    async def write(self, batches: Sequence[PersistBatch]) -> Any:
        for batch in batches:
            state = self.port._store._partitions[batch.topic_id, batch.partition]
            state.epoch, state.position = batch.epoch, batch.after
        return await self.port.write(batches)


class IgnoresAcks(Broken):
    """Acks are counted and forgotten."""

    async def ack(self, topic: str, group: str, items: Mapping[int, Sequence[Position]]) -> int:
        return sum(map(len, items.values()))


class ReadsBackwards(Broken):
    """The newest of an answer comes first."""

    async def read(self, *arguments: Any, **options: Any) -> GroupRead:
        found: GroupRead = await self.port.read(*arguments, **options)
        return replace(found, deliveries=list(reversed(found.deliveries)))


class MovesColdGroupsBlindly(Broken):
    """A group is moved over a page although somebody else has moved it already."""

    async def advance(self, topic: str, group: str, consumer: str, cold: Any, *arguments: Any) -> bool:
        await self.port.advance(topic, group, consumer, cold, *arguments)
        return True


DEFECTS: dict[str, tuple[Defect, set[str]]] = {
    "blind retry": (lambda world: replace(world, log=AppendsBlindly(world.log)), {"C5 duplicate"}),
    "producers forgotten": (lambda world: replace(world, log=ForgetsProducers(world.log)), {"C5 duplicate"}),
    "trim by length": (lambda world: replace(world, log=TrimsByLength(world.log)), {"C1 lost"}),
    "commit believed": (lambda world: replace(world, store=BelievesInCommits(world.store)), {"C1 lost"}),
    "fencing removed": (lambda world: replace(world, store=IsNotFenced(world.store)), {"C1 lost"}),
    "any lease": (lambda world: replace(world, log=TrimsUnderAnyLease(world.log)), {"C1 lost"}),
    "acks ignored": (lambda world: replace(world, groups=IgnoresAcks(world.groups)), {"C10 ack ignored"}),
    "backwards": (lambda world: replace(world, groups=ReadsBackwards(world.groups)), {"C8 order delivered"}),
    "no compare": (
        lambda world: replace(world, groups=MovesColdGroupsBlindly(world.groups)),
        {"C8 order delivered"},
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_broken_build_is_caught(name: str) -> None:
    defect, rules = DEFECTS[name]
    broken: set[str] = set()
    for seed in range(PATIENCE):
        try:
            broken |= outcome_of(seed, defect)[0].broken
        except AssertionError as error:  # it never came to rest
            broken.add(str(error)[:60])
        if broken & rules:
            print(f"{name}: seed {seed}: {sorted(broken)}")
            return
    pytest.fail(f"{name} was not caught by {PATIENCE} runs; broken: {broken}")

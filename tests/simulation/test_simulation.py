"""Clusters on virtual time through trouble that seeds draw: nothing acknowledged is lost, doubled or reordered.

`make chaos-long` runs many more seeds than a commit can wait for. A seed that fails is the whole story: run it alone.
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
from openstream_runtime.ports.groups import GroupRead
from openstream_runtime.ports.log import AppendBatch, AppendOutcome, Unknown
from openstream_runtime.ports.store import Committed, PersistBatch
from support.simulation import Defect, simulate

SEEDS = range(10)
MANY = range(1_000, 1_000 + int(os.environ.get("SEEDS", "500")))
#: So many runs a defect has to show itself.
PATIENCE = 25


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cluster_in_trouble_keeps_its_promises(seed: int) -> None:
    report, _ = simulate(seed)
    assert not report.violations, f"seed {seed}: {report}"


@pytest.mark.chaos
@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_many_clusters_in_trouble_keep_their_promises() -> None:
    for seed in MANY:
        report, _ = simulate(seed)
        assert not report.violations, f"seed {seed}: {report}"


def test_a_seed_is_the_same_run_again() -> None:
    (first, one), (second, two), (_, other) = simulate(3), simulate(3), simulate(4)
    assert (first.figures, first.notes) == (second.figures, second.notes)
    assert (one.sent, one.reads, one.acks) == (two.sent, two.reads, two.acks)
    assert one.reads != other.reads


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


class BelievesInCommits(Broken):
    """A commit that got no answer is taken for done."""

    async def write(self, batches: Sequence[PersistBatch]) -> Any:
        try:
            return await self.port.write(batches)
        except OutcomeUnknown:
            return [Committed()] * len(batches)


class IgnoresAcks(Broken):
    """Acks are counted and forgotten."""

    async def ack(self, topic: str, group: str, items: Mapping[int, Sequence[Position]]) -> int:
        return sum(map(len, items.values()))


class ReadsBackwards(Broken):
    """The newest of an answer comes first."""

    async def read(self, *arguments: Any, **options: Any) -> GroupRead:
        found: GroupRead = await self.port.read(*arguments, **options)
        return replace(found, deliveries=list(reversed(found.deliveries)))


DEFECTS: dict[str, tuple[Defect, str]] = {
    "blind retry": (lambda world: replace(world, log=AppendsBlindly(world.log)), "C5 duplicate"),
    "producers forgotten": (lambda world: replace(world, log=ForgetsProducers(world.log)), "C5 duplicate"),
    "trim by length": (lambda world: replace(world, log=TrimsByLength(world.log)), "C1 lost"),
    "commit believed": (lambda world: replace(world, store=BelievesInCommits(world.store)), "C1 lost"),
    "acks ignored": (lambda world: replace(world, groups=IgnoresAcks(world.groups)), "C10 ack ignored"),
    "backwards": (lambda world: replace(world, groups=ReadsBackwards(world.groups)), "C8 order delivered"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_broken_build_is_caught(name: str) -> None:
    defect, rule = DEFECTS[name]
    seen: set[str] = set()
    for seed in range(PATIENCE):
        report, _ = simulate(seed, defect)
        seen |= report.broken
        if rule in report.broken:
            print(f"{name}: caught by seed {seed}, which broke {sorted(report.broken)}")
            return
    pytest.fail(f"{name} was not caught by {PATIENCE} runs; they broke {seen}")

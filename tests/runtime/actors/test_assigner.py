"""The assigner: what should run runs, and nothing moves without need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest

from openstream_runtime.actors.assigner import RECONCILE, Assigner
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.nodes import NodeInfo
from supervisors import ChildSpec, Context, Supervisor
from support.actors import Rig, eventually, make_world, supervised

pytestmark = pytest.mark.anyio


@dataclass
class Team:
    """A board, a supervisor of partitions that only note that they run, and the assigner between them."""

    rig: Rig
    partitions: Supervisor = field(default_factory=lambda: Supervisor(stop_together=True))
    begun: list[str] = field(default_factory=list)
    running: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def make(self, topic: Topic, at: TopicPartition) -> ChildSpec:
        team = self

        class Partition:
            async def run(self, ctx: Context) -> None:
                if str(at) in team.broken:
                    raise ValueError("it cannot start")
                ctx.ready()
                team.begun.append(str(at))
                team.running[str(at)] = topic.id
                try:
                    await ctx.stopping.wait()
                finally:
                    del team.running[str(at)]

        return ChildSpec(id=str(at), actor=Partition, grace=5.0)

    def see(self, *names: str) -> None:
        self.rig.world.board.set_nodes([NodeInfo(name, "", 0, "") for name in names])


@asynccontextmanager
async def at_work(*teams: Team) -> AsyncIterator[None]:
    specs = []
    for team in teams:
        name = team.rig.world.board.node.id
        assigner = Assigner.spec(team.rig.world.board, team.partitions, team.make, grace=2.0)
        specs.append(ChildSpec(id=f"{name} partitions", actor=lambda team=team: team.partitions))  # type: ignore[misc]
        specs.append(ChildSpec(id=f"{name} assigner", actor=assigner.actor, grace=2.0))
    async with supervised(*specs):
        yield


async def three() -> list[Team]:
    first = make_world("a")
    await first.topic(partitions=200)
    teams = [Team(first), Team(first.node("b")), Team(first.node("c"))]
    for team in teams:
        team.rig.world.board.topics = first.world.board.topics
        team.see("a", "b", "c")
    return teams


async def test_200_partitions_over_3_nodes_are_owned_once_each_and_about_evenly() -> None:
    teams = await three()
    async with at_work(*teams):
        await eventually(lambda: sum(len(team.running) for team in teams) == 200)
        owned = [set(team.running) for team in teams]
        assert len(set.union(*owned)) == 200
        assert all(45 < len(one) < 90 for one in owned)


async def test_what_a_leaver_had_moves_and_little_else_and_all_comes_back_to_a_joiner() -> None:
    teams = await three()
    async with at_work(*teams):
        await eventually(lambda: sum(len(team.running) for team in teams) == 200)
        before = [set(team.running) for team in teams]
        teams[2].rig.world.board.begin_draining()
        for team in teams[:2]:
            team.see("a", "b")
        await eventually(lambda: sum(len(team.running) for team in teams[:2]) == 200, within=1)
        assert not teams[2].running
        assert [len(team.running) for team in teams[:2]] == [100, 100]
        assert sum(len(before[n] - set(teams[n].running)) for n in range(2)) < len(before[2])
        for team in teams[:2]:
            team.see("a", "b", "c")
        await eventually(lambda: [set(team.running) for team in teams[:2]] == before[:2], within=1)


async def test_a_topic_that_goes_takes_its_partitions_along_and_made_again_it_gets_new_ones(rig: Rig) -> None:
    team = Team(rig)
    team.see("a")
    async with at_work(team):
        old = await rig.topic(partitions=2)
        await eventually(lambda: team.running == {"orders/0": old.id, "orders/1": old.id})
        new = Topic(old.id + 1, "orders", 3)
        rig.world.board.add_topic(new)  # deleted and made again between two looks at the catalog
        await eventually(lambda: team.running == dict.fromkeys(["orders/0", "orders/1", "orders/2"], new.id))
        rig.world.board.add_topic(Topic(new.id, "orders", 3, deleting=True))
        await eventually(lambda: team.running == {})


async def test_a_restart_of_the_assigner_costs_no_partition(rig: Rig) -> None:
    team = Team(rig)
    team.see("a")
    await rig.topic(partitions=8)
    partitions = ChildSpec(id="partitions", actor=lambda: team.partitions)
    spec = Assigner.spec(rig.world.board, team.partitions, team.make, grace=2.0)
    async with supervised(partitions, spec) as tree:
        await eventually(lambda: len(team.running) == 8)
        await tree.remove("assigner")
        await tree.add(spec)
        await anyio.sleep(3 * RECONCILE)
        assert len(team.begun) == 8


async def test_broken_off_in_the_middle_of_an_addition_it_costs_no_partition_either(rig: Rig) -> None:
    team = Team(rig)
    team.see("a")
    await rig.topic(partitions=8)
    partitions = ChildSpec(id="partitions", actor=lambda: team.partitions)
    spec = Assigner.spec(rig.world.board, team.partitions, team.make, grace=2.0)
    async with supervised(partitions, spec) as tree:
        for _ in range(6):
            await tree.remove("assigner")
            await tree.add(spec)
            await anyio.lowlevel.checkpoint()
        await eventually(lambda: len(team.running) == 8)
        assert len(team.begun) == 8


async def test_a_supervisor_that_lost_its_children_gets_them_back(rig: Rig) -> None:
    team = Team(rig)
    team.see("a")
    await rig.topic(partitions=4)
    partitions = ChildSpec(id="partitions", actor=lambda: team.partitions)
    async with supervised(partitions, Assigner.spec(rig.world.board, team.partitions, team.make, grace=2.0)) as tree:
        await eventually(lambda: len(team.running) == 4)
        await tree.remove("partitions")
        await anyio.sleep(2 * RECONCILE)  # nothing to add to: it waits
        assert team.running == {}
        await tree.add(partitions)
        await eventually(lambda: len(team.running) == 4, within=2 * RECONCILE)


async def test_a_partition_that_cannot_start_is_tried_again_and_holds_up_nobody(rig: Rig) -> None:
    team = Team(rig)
    team.see("a")
    team.broken = {"orders/1"}
    await rig.topic(partitions=3)
    async with at_work(team):
        await eventually(lambda: set(team.running) == {"orders/0", "orders/2"})
        team.broken = set()
        await eventually(lambda: len(team.running) == 3, within=2 * RECONCILE)


async def test_without_a_view_of_the_nodes_nothing_runs(rig: Rig) -> None:
    team = Team(rig)
    await rig.topic(partitions=3)
    async with at_work(team):
        await anyio.sleep(3 * RECONCILE)
        assert team.begun == []


async def test_it_tells_how_much_it_has_assigned(rig: Rig) -> None:
    team = Team(rig)
    assert Assigner(rig.world.board, team.partitions, team.make, {"x": 1}).describe() == {"assigned": 1}
    assert Assigner(rig.world.board, team.partitions, team.make).describe() == {"assigned": 0}

"""Membership: who lives, as Redis' clock sees it, and no hasty conclusions."""

from __future__ import annotations

import anyio
import pytest

from openstream_runtime.actors.membership import Membership
from openstream_runtime.domain.errors import Unavailable
from openstream_runtime.ports.nodes import NodeInfo
from support.actors import Rig, eventually, make_world, running, supervised, tailer

pytestmark = pytest.mark.anyio


def names(rig: Rig) -> list[str]:
    return [node.id for node in rig.world.board.nodes]


async def test_nodes_see_each_other_come_and_go(rig: Rig) -> None:
    other = rig.node("b")
    async with supervised(Membership.spec(rig.world), tailer(rig)):
        await eventually(lambda: names(rig) == ["a"])
        async with supervised(Membership.spec(other.world), tailer(other)):
            await eventually(
                lambda: names(rig) == names(other) == ["a", "b"], within=0.5
            )  # the bell, not the next beat
        await eventually(lambda: names(rig) == ["a"], within=0.5)
    assert rig.redis.nodes == {}
    assert names(rig) == []


async def test_a_node_that_dies_is_gone_when_its_heartbeat_ends(rig: Rig) -> None:
    await rig.world.members.beat(NodeInfo("dead", "", 0, ""), 5_000)
    async with supervised(Membership.spec(rig.world)):
        await eventually(lambda: names(rig) == ["a", "dead"])
        began = anyio.current_time()
        await eventually(lambda: names(rig) == ["a"], within=7)
        assert anyio.current_time() - began > 4


async def test_a_blip_changes_nothing_and_health_says_what_it_is(rig: Rig) -> None:
    async with supervised(Membership.spec(rig.world)):
        await eventually(lambda: rig.world.board.redis.ok)
        rig.redis.unavailable = True
        await eventually(lambda: not rig.world.board.redis.ok, within=3)
        assert names(rig) == ["a"]
        before = rig.redis.calls["beat"]
        await anyio.sleep(60)
        assert rig.redis.calls["beat"] - before < 120
        rig.redis.unavailable = False
        await eventually(lambda: rig.world.board.redis.ok, within=2)


async def test_after_an_outage_nobody_counts_as_gone_who_may_only_not_have_beaten_yet(rig: Rig) -> None:
    other = rig.node("b")
    views: list[list[str]] = []
    async with supervised(Membership.spec(rig.world)), supervised(Membership.spec(other.world)):
        await eventually(lambda: names(rig) == names(other) == ["a", "b"])
        rig.redis.unavailable = True
        await anyio.sleep(60)  # every heartbeat has ended
        rig.redis.unavailable = False
        for _ in range(100):
            await anyio.sleep(0.05)
            views += [names(rig), names(other)]
    assert views.count(["a", "b"]) == len(views)


async def test_who_really_died_in_an_outage_is_let_go_of_one_lifetime_later(rig: Rig) -> None:
    async with supervised(Membership.spec(rig.world)):
        await rig.world.members.beat(NodeInfo("dead", "", 0, ""), 5_000)
        await eventually(lambda: names(rig) == ["a", "dead"])
        rig.redis.unavailable = True
        await anyio.sleep(30)
        rig.redis.unavailable = False
        await eventually(lambda: names(rig) == ["a"], within=8)


async def test_a_draining_node_leaves_at_once_and_stays_away(rig: Rig) -> None:
    async with running(Membership(rig.world)):
        await eventually(lambda: names(rig) == ["a"])
        rig.world.board.begin_draining()
        await eventually(lambda: rig.redis.nodes == {}, within=0.1)
        assert names(rig) == []
        await anyio.sleep(30)
        assert rig.redis.nodes == {}


async def test_with_redis_away_it_ends_all_the_same(rig: Rig) -> None:
    async with running(Membership(rig.world)):
        await eventually(lambda: names(rig) == ["a"])
        rig.redis.unavailable = True
        rig.log.tail.ring = rig.log.tail.interrupt  # type: ignore[method-assign,assignment]
    assert names(rig) == []


async def test_a_bell_that_cannot_be_rung_is_no_trouble(rig: Rig) -> None:
    async def ring(_: str) -> None:
        raise Unavailable("no")

    rig.log.tail.ring = ring  # type: ignore[method-assign,assignment]
    async with running(Membership(rig.world)):
        await eventually(lambda: names(rig) == ["a"])


async def test_the_heartbeat_comes_five_times_a_lifetime() -> None:
    rig = make_world(lease_ms=10_000)
    async with running(Membership(rig.world)):
        await anyio.sleep(100)
    assert 40 <= rig.redis.calls["beat"] <= 65

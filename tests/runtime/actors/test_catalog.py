"""The catalog keeper and the board: PostgreSQL's view, and what this node knows better for a moment."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from openstream_runtime.actors.board import Board, Changed
from openstream_runtime.actors.catalog import REFRESH, CatalogKeeper
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Group, Topic, TopicSettings
from openstream_runtime.ports.nodes import NodeInfo
from support.actors import Rig, eventually, running, supervised, tailer

pytestmark = pytest.mark.anyio


async def make(rig: Rig, name: str) -> Topic:
    topic, _ = await rig.store.catalog.create_topic(name, 2, TopicSettings())
    return topic


async def test_what_other_nodes_do_is_seen_within_a_second_or_so(rig: Rig) -> None:
    async with running(CatalogKeeper(rig.world)):
        topic = await make(rig, "orders")
        await eventually(lambda: "orders" in rig.world.board.topics, within=1.3 * REFRESH)
        await rig.store.catalog.create_group(topic, "g", "$")
        await eventually(lambda: ("orders", "g") in rig.world.board.groups, within=1.3 * REFRESH)
        await rig.store.catalog.begin_delete("orders")
        await eventually(lambda: rig.world.board.topics["orders"].deleting, within=1.3 * REFRESH)
        assert rig.world.board.postgres.ok


async def test_a_bell_makes_it_sooner(rig: Rig) -> None:
    async with supervised(tailer(rig), CatalogKeeper.spec(rig.world)):
        await anyio.sleep(3)
        for name in ("a", "b", "c"):
            await make(rig, name)
            await rig.world.tail.ring("topics")
            await eventually(lambda name=name: name in rig.world.board.topics, within=0.1)  # type: ignore[misc]


async def test_without_a_change_only_the_version_is_asked_for(rig: Rig) -> None:
    async with running(CatalogKeeper(rig.world)):
        await anyio.sleep(60)
    assert rig.store.calls["topics"] == 1
    assert 45 < rig.store.calls["version"] < 80


async def test_without_postgresql_the_last_view_stays(rig: Rig) -> None:
    await make(rig, "orders")
    async with running(CatalogKeeper(rig.world)):
        await eventually(lambda: rig.world.board.topics)
        rig.store.trouble.unavailable = True
        before = rig.store.calls["version"]
        await anyio.sleep(60)
        assert not rig.world.board.postgres.ok
        assert "away" in rig.world.board.postgres.detail
        assert "orders" in rig.world.board.topics
        assert rig.store.calls["version"] - before < 40
        rig.store.trouble.unavailable = False
        await eventually(lambda: rig.world.board.postgres.ok, within=6)


async def test_what_this_node_makes_while_the_catalog_is_read_does_not_vanish(rig: Rig) -> None:
    old = await make(rig, "old")
    doomed, _ = await rig.store.catalog.create_group(old, "doomed", "$")
    rig.world.board.add_topic(old)
    rig.world.board.add_group(doomed)
    real = rig.store.catalog.groups
    seen: list[bool] = []

    async def groups() -> Any:
        found = await real()
        if not seen:  # between the reading of the topics and the answer of the groups
            topic, _ = await rig.store.catalog.create_topic("new", 2, TopicSettings())
            rig.world.board.add_topic(topic)
            group, _ = await rig.store.catalog.create_group(topic, "g", "$")
            rig.world.board.add_group(group)
            await rig.store.catalog.delete_group(old, "doomed")
            rig.world.board.drop_group("old", "doomed")
            seen.append(True)
        return found

    rig.store.catalog.groups = groups  # type: ignore[method-assign]
    async with running(CatalogKeeper(rig.world)):
        await eventually(lambda: seen)
        for _ in range(300):
            await anyio.sleep(0.01)
            assert set(rig.world.board.topics) == {"old", "new"}
            assert set(rig.world.board.groups) == {("new", "g")}
    assert rig.store.calls["topics"] >= 2  # read once more, because the first reading was older


async def test_while_draining_it_asks_nobody(rig: Rig) -> None:
    async with running(CatalogKeeper(rig.world)):
        rig.world.board.begin_draining()
        await anyio.sleep(2 * REFRESH)
        before = rig.store.calls["version"]
        await anyio.sleep(60)
        assert rig.store.calls["version"] == before


# ------------------------------------------------------------------------------------------------------- the board


async def test_a_mark_taken_before_a_change_is_told_of_it() -> None:
    changed = Changed()
    mark = changed.mark()
    changed.tell()
    assert mark.is_set()
    assert not changed.mark().is_set()


async def test_only_who_comes_or_goes_is_a_change() -> None:
    board = Board(NodeInfo("a", "", 0, ""))
    board.set_nodes([NodeInfo("a", "", 0, "")])
    mark = board.changed.mark()
    board.set_nodes([NodeInfo("a", "elsewhere", 1, "")])
    assert not mark.is_set()
    assert board.nodes[0].url == "elsewhere"
    board.set_nodes([])
    assert mark.is_set()


async def test_partitions_that_live_are_those_of_topics_that_stay() -> None:
    board = Board(NodeInfo("a", "", 0, ""))
    stays, goes = Topic(1, "stays", 2), Topic(2, "goes", 2, deleting=True)
    assert not board.set_catalog([stays, goes], [Group(1, "stays", "g", "$"), Group(2, "goes", "g", "$")])
    assert board.live_partitions() == [TopicPartition("stays", 0), TopicPartition("stays", 1)]
    assert [group.topic for group in board.groups_of(stays)] == ["stays"]

"""The janitor: deleted topics lose their data, in steps, by one node, and the chores go on."""

from __future__ import annotations

import anyio
import pytest

from openstream_runtime.actors import janitor as module
from openstream_runtime.actors.janitor import MAINTAIN, Janitor
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.nodes import NodeInfo
from support.actors import Rig, eventually, running

pytestmark = pytest.mark.anyio


class Chores:
    def __init__(self) -> None:
        self.swept = 0
        self.maintained: list[int] = []

    async def sweep(self) -> None:
        self.swept += 1

    async def maintain(self, now_ms: int) -> int:
        self.maintained.append(now_ms)
        return 3


def janitor(rig: Rig, chores: Chores | None = None) -> Janitor:
    chores = chores or Chores()
    return Janitor(rig.world, chores.sweep, chores.maintain)


async def a_deleted_topic(rig: Rig, rows: int = 25) -> Topic:
    rig.world.board.set_nodes([NodeInfo("a", "", 0, "")])
    topic = await rig.topic()
    await rig.append(topic, 1, 2, 3)
    for number in range(rows):
        rig.store.plant(topic.id, 0, 0, StoredEvent(Position(number + 1, 0), "t", None, b"1", 1))
    deleted = await rig.store.catalog.begin_delete(topic.name)
    assert deleted is not None
    rig.world.board.add_topic(deleted)
    return deleted


async def test_streams_and_rows_go_in_steps_after_others_have_let_go(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 10)
    topic = await a_deleted_topic(rig)
    async with running(janitor(rig)):
        await anyio.sleep(2)
        assert rig.retained(topic) == ["1", "2", "3"]  # somebody may not have heard of it yet
        await eventually(lambda: rig.redis.bells, within=5)
        assert rig.store.calls["purge"] >= 3
        assert rig.retained(topic) == []
        assert rig.store.rows(topic.id, 0) == []
        assert await rig.store.catalog.topic("orders") is None
        assert rig.redis.bells[0] == "topics"


async def test_only_one_node_cleans_up(rig: Rig) -> None:
    topic = await a_deleted_topic(rig)
    rig.world.board.set_nodes([])
    async with running(janitor(rig)):
        await anyio.sleep(30)
    assert rig.retained(topic) == ["1", "2", "3"]


async def test_with_a_backend_away_it_waits_and_finishes_later(rig: Rig) -> None:
    topic = await a_deleted_topic(rig)
    rig.store.trouble.unavailable = True
    async with running(janitor(rig)):
        await anyio.sleep(60)
        assert rig.store.calls["purge"] < 30
        rig.store.trouble.unavailable = False
        await eventually(lambda: rig.redis.bells, within=12)
    assert rig.store.rows(topic.id, 0) == []


async def test_asked_to_stop_in_the_middle_it_ends_after_a_step(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 1)
    await a_deleted_topic(rig, rows=10_000)
    real = rig.store.catalog.purge
    async with running(janitor(rig)) as ctx:

        async def purge(topic: Topic, *, max_rows: int) -> bool:
            if rig.store.calls["purge"] == 5:
                ctx.ask_to_stop()
            return await real(topic, max_rows=max_rows)

        rig.store.catalog.purge = purge  # type: ignore[method-assign]
        await eventually(ctx.stopping.is_set)
    assert rig.store.calls["purge"] == 6
    assert await rig.store.catalog.topic("orders") is not None


async def test_the_chores_go_on_in_their_pace(rig: Rig) -> None:
    chores = Chores()
    async with running(janitor(rig, chores)):
        await anyio.sleep(2.5 * MAINTAIN)
    first, second = chores.maintained
    assert MAINTAIN * 500 < second - first < MAINTAIN * 1500, "it is told the clock's time"
    assert rig.meter.of("history_dropped") == [(3,), (3,)]
    assert chores.swept > 2 * MAINTAIN


async def test_while_draining_it_leaves_the_rest_to_others(rig: Rig) -> None:
    chores = Chores()
    await a_deleted_topic(rig)
    async with running(janitor(rig, chores)):
        rig.world.board.begin_draining()
        await anyio.sleep(60)
    assert chores.swept <= 1
    assert rig.store.calls["purge"] == 0
    assert Janitor.spec(rig.world, chores.sweep, chores.maintain).id == "janitor"

"""The checkpointer: at what pace it saves, whatever its servers do."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from openstream_runtime.actors.checkpointer import LONGEST, PERIOD, Checkpointer
from openstream_runtime.ports.store import GroupMark
from support.actors import Rig, running

pytestmark = pytest.mark.anyio


class Saves:
    """PostgreSQL as the checkpointer sees it: how long each save takes, and when it began."""

    def __init__(self, rig: Rig, *took: float) -> None:
        self.began: list[float] = []
        self._took = list(took)
        self._save = rig.world.positions.save
        rig.world.positions.save = self.save  # type: ignore[method-assign]

    async def save(self, marks: Sequence[GroupMark]) -> None:
        self.began.append(anyio.current_time())
        await anyio.sleep(self._took.pop(0) if self._took else 0.0)
        await self._save(marks)


async def test_it_saves_about_every_second(rig: Rig) -> None:
    saves = Saves(rig)
    async with running(Checkpointer(rig.world)):
        await anyio.sleep(60)
    assert 48 <= len(saves.began) <= 78


async def test_rounds_that_take_long_come_less_often(rig: Rig) -> None:
    saves = Saves(rig, *[0.2] * 100)
    async with running(Checkpointer(rig.world)):
        await anyio.sleep(60)
    assert 10 <= len(saves.began) <= 20


@pytest.mark.parametrize("stood_still", [3.0, 60.0])
async def test_after_postgresql_stood_still_it_saves_again_within_seconds(rig: Rig, stood_still: float) -> None:
    saves = Saves(rig, stood_still)
    async with running(Checkpointer(rig.world)):
        await anyio.sleep(stood_still + 1.2 * LONGEST + 0.1)
        again = len(saves.began)
        assert again > 1
        await anyio.sleep(3 * PERIOD)
        assert len(saves.began) > again, "and goes on at its pace"

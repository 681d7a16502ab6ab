"""One fault after the other, under load: nothing acknowledged is lost, doubled or reordered, and all goes on again."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.scenarios import FIVE, OVERLAPPING, SCENARIOS
from chaos.stage import Scenario, play
from chaos.table import Table

pytestmark = [pytest.mark.anyio, pytest.mark.chaos, pytest.mark.timeout(300)]

SEEDS = [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"))
async def test_every_promise_is_kept(scenario: Scenario, seed: int, tmp_path: Path, table: Table) -> None:
    played = await play(scenario, seed, tmp_path)
    table.add(played)
    assert not played.wrong, f"{played.wrong}\n{played.report}"


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_promise_is_kept_when_faults_overlap(seed: int, tmp_path: Path, table: Table) -> None:
    played = await play(OVERLAPPING, seed, tmp_path)
    table.add(played)
    assert not played.wrong, f"{played.wrong}\n{played.report}"


@pytest.mark.long
async def test_five_nodes_share_evenly_and_one_writes_at_a_time(tmp_path: Path, table: Table) -> None:
    played = await play(FIVE, 1, tmp_path)
    table.add(played)
    assert not played.wrong, f"{played.wrong}\n{played.report}"

"""A suite that is green for a broken build proves nothing: each defect of `chaos.defects` must turn it red."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chaos.defects import DEFECTS
from chaos.scenarios import named
from chaos.stage import play

pytestmark = [pytest.mark.anyio, pytest.mark.chaos, pytest.mark.timeout(240)]

#: Much of what is broken never comes to rest.
DEADLINE_S, SETTLED_S = 22.0, 5.0


@pytest.mark.parametrize("name", DEFECTS, ids=lambda name: name.replace(" ", "-"))
async def test_a_defect_turns_its_scenario_red(name: str, tmp_path: Path) -> None:
    defect = DEFECTS[name]
    scenario = named(defect.scenario)
    broken = replace(scenario, name=f"{name}: {scenario.name}", oddity=name, deadline_s=DEADLINE_S, settled_s=SETTLED_S)
    played = await play(broken, 1, tmp_path, keep=False)
    assert defect.rules <= played.report.broken, str(played.report)

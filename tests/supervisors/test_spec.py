"""A wrong spec, budget or backoff fails where it is written; the right ones are pure arithmetic."""

import math
from typing import Any

import pytest

from supervisors import (
    Backoff,
    ChildSpec,
    DuplicateChild,
    Restart,
    RestartBudget,
    Strategy,
    Supervisor,
    SupervisorError,
)
from supervisors.errors import LONGEST_TEXT, NotRunning, flatten


class Nobody:
    async def run(self, ctx: object) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"id": ""}, "the id of a child is not empty"),
        ({"id": 3}, "the id of a child is a string, not 3"),
        ({"actor": Nobody()}, "child 'a': actor is a factory"),
        ({"restart": "permanent"}, "child 'a': restart is a Restart"),
        ({"grace": -1.0}, "child 'a': grace is zero seconds or more"),
        ({"grace": math.nan}, "child 'a': grace is zero seconds or more"),
        ({"start_timeout": 0.0}, "child 'a': start_timeout is more than zero"),
        ({"start_timeout": math.nan}, "child 'a': start_timeout is more than zero"),
    ],
)
def test_a_wrong_spec_is_refused_when_it_is_built(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises((ValueError, TypeError), match=complaint):
        ChildSpec(**{"id": "a", "actor": Nobody, **wrong})


def test_a_spec_is_frozen_and_has_the_defaults_of_otp() -> None:
    spec = ChildSpec(id="a", actor=Nobody)
    assert (spec.restart, spec.grace, spec.start_timeout) == (Restart.PERMANENT, 0.0, 10.0)
    with pytest.raises(AttributeError):
        spec.grace = 1.0  # type: ignore[misc]
    assert ChildSpec(id="a", actor=Nobody, grace=math.inf, start_timeout=math.inf).grace == math.inf


def test_a_wrong_supervisor_is_refused_when_it_is_built() -> None:
    twice = [ChildSpec(id="a", actor=Nobody), ChildSpec(id="a", actor=Nobody)]
    with pytest.raises(DuplicateChild, match="two children are called 'a'"):
        Supervisor(twice)
    with pytest.raises(ValueError, match="max_restarts"):
        Supervisor(max_restarts=-1)
    for within in (0.0, math.nan):
        with pytest.raises(ValueError, match="within"):
            Supervisor(within=within)
    with pytest.raises(ValueError, match="all_for_one"):
        Supervisor(strategy="all_for_one")  # type: ignore[arg-type]
    assert Supervisor(strategy=Strategy.ONE_FOR_ALL).children == ()


def test_the_budget_is_a_sliding_window() -> None:
    now = 0.0
    budget = RestartBudget(2, 10.0, clock=lambda: now)
    assert [budget.spend(), budget.spend(), budget.spend()] == [True, True, False]
    now = 9.9
    assert not budget.spend()
    assert budget.spent == 2
    now = 10.0
    assert budget.spent == 0
    assert [budget.spend(shares=2) for _ in range(5)] == [True] * 4 + [False]
    assert not RestartBudget(0, 10.0, clock=lambda: now).spend()


def test_the_backoff_grows_is_capped_and_jitters_downwards() -> None:
    backoff = Backoff(base=1.0, factor=3.0, cap=20.0, jitter=0.5, random=lambda: 0.0)
    assert [backoff(attempt) for attempt in (1, 2, 3, 4, 10_000)] == [1.0, 3.0, 9.0, 20.0, 20.0]
    shortest = Backoff(base=1.0, factor=3.0, cap=20.0, jitter=0.5, random=lambda: 1.0)
    assert [shortest(attempt) for attempt in (1, 2, 4)] == [0.5, 1.5, 10.0]
    assert [Backoff(base=0)(attempt) for attempt in (1, 10_000)] == [0.0, 0.0]
    assert all(0.05 <= Backoff()(1) <= 0.1 for _ in range(100))


@pytest.mark.parametrize(
    "wrong",
    [{"base": -1.0}, {"base": math.inf}, {"cap": math.inf}, {"cap": math.nan}, {"factor": 0.5}, {"jitter": 1.5}],
)
def test_a_wrong_backoff_is_refused_when_it_is_built(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not "):
        Backoff(**wrong)  # type: ignore[arg-type]


def test_the_message_of_an_error_defaults_to_its_docstring() -> None:
    assert str(NotRunning()).startswith("The supervisor is not running")
    assert str(NotRunning("why")) == "why"

    class Undocumented(SupervisorError):
        __doc__ = None

    assert str(Undocumented()) == ""


def test_an_error_is_flattened_to_one_short_line() -> None:
    assert flatten(ValueError()) == "ValueError"
    assert flatten(ValueError("two\n lines")) == "ValueError: two lines"
    inner = ExceptionGroup("inner", [KeyError("k"), OSError("o")])
    assert flatten(ExceptionGroup("outer", [inner, ValueError("v")])) == "KeyError: 'k'; OSError: o; ValueError: v"
    long = flatten(ValueError("x" * 10_000))
    assert len(long) == LONGEST_TEXT
    assert long.endswith("…")

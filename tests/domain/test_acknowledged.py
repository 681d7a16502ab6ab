"""What was acknowledged and is in question: nothing is forgotten before PostgreSQL has it, nor then in doubt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openstream_runtime.domain.acknowledged import Acknowledged, Run
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition

AT = TopicPartition("t", 0)


def positions(*pairs: tuple[int, int]) -> list[Position]:
    return [Position(*pair) for pair in pairs]


def test_consecutive_positions_are_one_run_also_over_several_appends() -> None:
    known = Acknowledged()
    known.add(AT, 1, positions((5, 0), (5, 1), (5, 2)))
    known.add(AT, 1, positions((5, 3)))
    known.add(AT, 1, positions((5, 5), (6, 0), (6, 1)))
    assert list(known.tails[AT].runs) == [Run(5, 0, 3), Run(5, 5, 5), Run(6, 0, 1)]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, unique=True))
def test_runs_hold_exactly_what_was_added(pairs: list[tuple[int, int]]) -> None:
    added = positions(*sorted(pairs))
    known = Acknowledged()
    known.add(AT, 1, added)
    assert [one for run in known.tails[AT].runs for one in run.positions()] == added


def test_what_the_cursor_passed_is_forgotten_one_look_later() -> None:
    known = Acknowledged()
    known.add(AT, 1, positions((5, 0), (6, 0)))
    tail = known.tails[AT]
    tail.look(1, Position(5, 0))
    assert len(tail) == 2  # between the two questions of this look a failover may have fallen
    tail.look(1, Position(6, 0))
    assert list(tail.runs) == [Run(6, 0, 0)]
    tail.look(1, Position(6, 0))
    assert len(tail) == 0


def test_a_verification_puts_all_that_came_before_it_in_doubt_until_the_cursor_has_passed_it() -> None:
    known = Acknowledged()
    known.add(AT, 1, positions((5, 0), (6, 0)))
    tail = known.tails[AT]
    tail.look(1, ZERO)
    tail.look(9, Position(5, 0))
    assert tail.decided(10) == [Run(5, 0, 0)]
    assert tail.decided(10) == []
    known.add(AT, 1, positions((12, 0)))
    tail.look(9, Position(12, 0))
    assert tail.decided(10) == [Run(6, 0, 0)]
    assert list(tail.runs) == [Run(12, 0, 0)]


def test_a_verification_that_was_never_seen_otherwise_is_told_by_its_time() -> None:
    known = Acknowledged()
    known.add(AT, 1, positions((5, 0), (11, 0)))
    known.tails[AT].look(9, Position(5, 0))
    assert known.tails[AT].decided(10) == [Run(5, 0, 0)]
    assert list(known.tails[AT].runs) == [Run(11, 0, 0)]


def test_a_primary_whose_clock_is_behind_is_noticed_by_the_change() -> None:
    known = Acknowledged()
    known.add(AT, 1, positions((50, 0)))
    known.tails[AT].look(40, ZERO)
    known.tails[AT].look(30, Position(50, 0))
    assert known.tails[AT].decided(10) == [Run(50, 0, 0)]


def test_it_is_bounded_and_says_how_much_it_forgot() -> None:
    known = Acknowledged(most=10)
    for ms in range(1, 26):
        known.add(AT, 1, positions((ms, 0), (ms, 1)))
    assert len(known.tails[AT]) == 10
    assert known.forgotten == 30
    assert known.tails[AT].runs[-1] == Run(25, 0, 1)


def test_a_topic_of_the_same_name_begins_anew_and_one_that_is_gone_is_forgotten() -> None:
    known = Acknowledged()
    known.add(AT, 1, positions((5, 0)))
    known.add(AT, 2, positions((1, 0)))
    assert (known.tails[AT].topic_id, list(known.tails[AT].runs)) == (2, [Run(1, 0, 0)])
    known.keep_only([])
    assert known.tails == {}

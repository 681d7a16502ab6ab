"""Heights: whatever a log has given by now, seen by us or not, stands below what is said to be above it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openstream_runtime.domain.heights import Heights
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition

AT = TopicPartition("orders", 0)

#: Milliseconds that pass, and whether the id that is given then is seen.
Steps = list[tuple[int, bool]]
steps = st.lists(st.tuples(st.integers(0, 5_000), st.booleans()), max_size=30)


@given(st.integers(-10_000, 4_000_000), st.integers(0, 2_000), steps)
def test_no_id_that_was_given_is_above_it_however_far_ahead_redis_is(ahead_ms: int, before: int, steps: Steps) -> None:
    """An id follows Redis' clock, or the last id where that is later (the clock has gone back)."""
    heights, wall, last = Heights(), 10_000_000, Position(10_000_000 + ahead_ms + before, 0)
    heights.saw(AT, last, wall / 1000)
    for step, is_seen in steps:
        wall += step
        last = max(last.next(), Position(wall + ahead_ms, 0))
        if is_seen:
            heights.saw(AT, last, wall / 1000)
        assert heights.above(AT, wall / 1000) > last


def test_a_log_that_came_back_behind_lowers_nothing_and_what_is_gone_is_forgotten() -> None:
    heights = Heights()
    heights.saw(AT, Position(9_000, 4), 1.0)
    heights.saw(AT, ZERO, 2.0)
    assert heights.above(AT, 2.0) == Position(10_001, 0)
    heights.keep_only({AT})
    assert heights.above(AT, 2.0) > ZERO
    heights.keep_only(set())
    assert heights.above(AT, 2.0) == ZERO
    assert heights.above(TopicPartition("other", 0), 2.0) == ZERO

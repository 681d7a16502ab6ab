"""Lag in seconds: of the event that waits, not of the silence before it, and never less than nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openstream_runtime.domain.lag import MARKS, LagClock
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition

AT = TopicPartition("orders", 0)
PERIOD = 2.0


def seen(*ends: tuple[float, int]) -> LagClock:
    """Looks at (seconds, the stream's last ms); the wall clock is the seconds."""
    clock = LagClock()
    for now, ms in ends:
        clock.saw({AT: Position(ms, 0)}, now, round(now * 1000))
    return clock


def test_who_has_everything_is_not_behind() -> None:
    assert seen((100.0, 90_000)).behind(AT, Position(90_000, 0), 500.0) == 0


def test_the_one_event_after_a_long_silence_is_as_late_as_it_has_waited() -> None:
    clock = seen((100.0, 1_000), (102.0, 1_000), (104.0, 103_500))
    assert clock.behind(AT, Position(1_000, 0), 105.0) == 3.0, "at most: it came after the look at 102"


def test_a_reader_close_behind_a_busy_stream_is_late_by_the_difference_of_the_ids() -> None:
    clock = seen((100.0, 99_990), (102.0, 101_990))
    assert clock.behind(AT, Position(101_790, 0), 102.0) == pytest.approx(0.2)


def test_lag_grows_while_nothing_moves() -> None:
    clock = seen((100.0, 99_000), (102.0, 101_000), (110.0, 101_000))
    assert clock.behind(AT, Position(99_000, 0), 112.0) == 12.0


def test_a_node_that_has_just_begun_to_look_takes_the_ids_word() -> None:
    clock = seen((100.0, 40_000))
    assert clock.behind(AT, Position(10_000, 0), 100.0) == 90.0


def test_a_group_from_the_beginning_is_late_at_least_since_the_oldest_end_that_was_seen() -> None:
    clock = seen((100.0, 40_000), (102.0, 101_000))
    assert clock.behind(AT, ZERO, 102.0) == 62.0


def test_a_redis_clock_ahead_of_ours_never_makes_it_negative() -> None:
    clock = seen((100.0, 900_000))
    assert clock.behind(AT, Position(899_999, 9), 100.0) >= 0
    assert clock.behind(AT, ZERO, 100.0) >= 0


def test_a_stream_that_went_back_is_seen_anew() -> None:
    clock = seen((100.0, 99_000), (102.0, 50_000))
    assert clock.behind(AT, Position(60_000, 0), 102.0) == 0
    assert clock.behind(AT, Position(49_000, 0), 102.0) > 0


def test_a_partition_that_is_gone_is_forgotten() -> None:
    clock = seen((100.0, 99_000))
    clock.saw({}, 102.0, 102_000)
    assert clock.behind(AT, ZERO, 102.0) == 0


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=200), st.data())
def test_it_is_never_less_than_the_truth_but_for_one_look_and_never_much_more(
    steps: list[int], data: st.DataObject
) -> None:
    """Events come at random; the truth is the wait of the first event after the position."""
    clock, now_ms, appended = LagClock(), 1_000_000, [1_000_000]
    for step in steps:
        now_ms += step
        if step % 3:
            appended.append(now_ms)
        clock.saw({AT: Position(appended[-1], 0)}, now_ms / 1000, now_ms)
    read = data.draw(st.sampled_from(appended))
    after = [ms for ms in appended if ms > read]
    truth = (now_ms - after[0]) / 1000 if after else 0.0
    told = clock.behind(AT, Position(read, 0), now_ms / 1000)
    assert truth - 1e-6 <= told
    assert told <= (now_ms - read) / 1000 + 1e-6
    if not after:
        assert told == 0
    if len(steps) <= MARKS:
        assert told <= truth + 3.0 + 1e-6, "off by one look at most"

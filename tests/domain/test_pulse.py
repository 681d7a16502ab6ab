"""The pulse: quantiles of what happened between two counts."""

from __future__ import annotations

from math import inf

import pytest

from openstream_runtime.domain.pulse import quantile


def test_nothing_that_happened_has_no_quantile() -> None:
    assert quantile([], [], 0.5) is None
    assert quantile([(0.1, 3), (inf, 5)], [(0.1, 3), (inf, 5)], 0.5) is None


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.1, 0.002), (0.5, 0.01), (0.75, 0.055), (0.99, 0.0982)],
)
def test_a_quantile_is_interpolated_inside_its_bucket(share: float, expected: float) -> None:
    # 50 up to 10 ms, 50 more up to 100 ms.
    assert quantile([], [(0.01, 50), (0.1, 100), (inf, 100)], share) == pytest.approx(expected)


def test_only_what_happened_since_the_earlier_count_counts() -> None:
    before = [(0.01, 1_000), (0.1, 1_000), (inf, 1_000)]
    assert quantile(before, [(0.01, 1_000), (0.1, 1_010), (inf, 1_010)], 0.5) == pytest.approx(0.055)


def test_what_lies_beyond_the_last_bound_is_said_to_lie_at_it() -> None:
    assert quantile([], [(0.01, 0), (0.1, 1), (inf, 100)], 0.99) == 0.1


def test_empty_buckets_in_between_are_passed_over() -> None:
    assert quantile([], [(0.01, 0), (0.1, 0), (1.0, 4), (inf, 4)], 0.5) == pytest.approx(0.55)

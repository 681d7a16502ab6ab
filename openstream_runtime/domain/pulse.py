"""The pulse: what a node has counted since it began, as far as people watch it live. Pure numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Pulse:
    """Counts that only grow."""

    #: Appends to Redis that took at most so many seconds: (bound, how many), bounds rising, the last one infinite.
    appends: Sequence[tuple[float, int]] = ()
    #: Requests refused because of backpressure, by reason.
    rejected: Mapping[str, int] = field(default_factory=dict)


def quantile(before: Sequence[tuple[float, int]], now: Sequence[tuple[float, int]], share: float) -> float | None:
    """Below which duration a share of what happened between two counts lies, by interpolation; None: nothing did.

    What lies beyond the last finite bound is said to lie at that bound: a histogram knows no better.
    """
    earlier = dict(before)
    steps = [(bound, count - earlier.get(bound, 0)) for bound, count in now]
    if not steps or steps[-1][1] <= 0:
        return None
    wanted = share * steps[-1][1]
    low, below = 0.0, 0
    for bound, count in steps:
        if count >= wanted and count > below:
            return low if bound == float("inf") else low + (bound - low) * (wanted - below) / (count - below)
        if bound != float("inf"):
            low, below = bound, max(below, count)
    return low

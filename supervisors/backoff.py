"""Backoff: how long to wait before the next try. Exponential, capped, and jittered, or equals would march in step."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """A pure function from the attempt (1, 2, 3 …) to a delay in seconds; the randomness is given."""

    #: The longest first delay.
    base: float = 0.1
    factor: float = 2.0
    #: No delay is longer. A child that always fails is then tried once per `cap`: if that is slower than the budget's
    #: `max_restarts / within` the budget is never spent and the tries go on for ever.
    cap: float = 5.0
    #: The share of the delay that is left to chance: 0 none, 1 all of it.
    jitter: float = 0.5
    random: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if not 0 <= self.base < math.inf or not 0 <= self.cap < math.inf:
            raise ValueError(f"base and cap are finite and not negative, not {self.base!r} and {self.cap!r}")
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"factor is at least 1, not {self.factor!r}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is between 0 and 1, not {self.jitter!r}")

    def __call__(self, attempt: int) -> float:
        try:
            delay = self.base * self.factor ** (attempt - 1)
        except OverflowError:
            delay = self.cap if self.base else 0.0
        return min(self.cap, delay) * (1 - self.jitter * self.random())

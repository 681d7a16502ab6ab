"""RestartBudget: how many restarts are normal. Spent, the trouble is not the child's but somewhere above it.

Think of burst (`max_restarts`) and sustained rate (`max_restarts / within`) apart. Budgets multiply up the tree: three
levels of 10 are a thousand restarts before the root gives up, so keep the root at 3 or less.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable


class RestartBudget:
    """A sliding window over restarts. No I/O: the clock is given."""

    def __init__(self, max_restarts: int, within: float, *, clock: Callable[[], float]) -> None:
        if max_restarts < 0:
            raise ValueError(f"max_restarts is zero or more, not {max_restarts!r}")
        if math.isnan(within) or within <= 0:
            raise ValueError(f"within is more than zero seconds, not {within!r}")
        self.max_restarts = max_restarts
        self.within = within
        self._clock = clock
        self._restarts: deque[float] = deque()

    @property
    def spent(self) -> int:
        """Restarts inside the window that ends now."""
        oldest = self._clock() - self.within
        while self._restarts and self._restarts[0] <= oldest:
            self._restarts.popleft()
        return len(self._restarts)

    def spend(self, *, shares: int = 1) -> bool:
        """Count one more restart; False when that is one too many.

        `shares` is how many children live on this budget, where it is meant per child.
        """
        if self.spent >= self.max_restarts * shares:
            return False
        self._restarts.append(self._clock())
        return True

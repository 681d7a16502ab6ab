"""The budget: how many bytes of bodies may be in memory at a time, over all requests of the node.

Mailboxes bound what was accepted, max_requests how many requests there are; without a bound on bodies their product
would be what an overload may take. Who does not fit is told at once and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from openstream_runtime.domain.errors import Overloaded
from openstream_runtime.ports.meter import Meter

RETRY_AFTER_MS = 1_000


class Hold:
    """One request's share; grows as its body comes."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    def grow(self, size: int) -> None:
        """Take `size` bytes more, or raise Overloaded."""
        self._budget.take(size)
        self.size += size


class Budget:
    """Bytes in use, and how many there may be."""

    def __init__(self, limit: int, meter: Meter | None = None) -> None:
        self.limit = limit
        self.used = 0
        self._meter = meter

    def take(self, size: int) -> None:
        if self.used + size > self.limit:
            if self._meter is not None:
                self._meter.rejected("bodies")
            raise Overloaded(
                "more bodies are being read on this node than it has memory for",
                reason="bodies",
                retry_after_ms=RETRY_AFTER_MS,
                outcome="not_stored",
            )
        self.used += size

    @contextmanager
    def hold(self, size: int = 0) -> Iterator[Hold]:
        """A share that is given back at the end of the block, whatever it has become."""
        hold = Hold(self)
        hold.grow(size)
        try:
            yield hold
        finally:
            self.used -= hold.size

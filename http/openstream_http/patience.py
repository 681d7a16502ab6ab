"""Patience: wrong secrets are answered slowly, so that nobody can try many."""

from __future__ import annotations

#: Wrong secrets in a row that cost nothing, and how many a second may follow: for all callers together.
BURST = 10
PER_SECOND = 2.0


class Patience:
    """A token bucket that only failures draw from. `now` in seconds of a clock that does not jump."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._at: float | None = None

    def wait_ms(self, now: float) -> int:
        """Milliseconds until the next attempt is heard; 0: now."""
        if self._at is not None:
            self._left = min(float(BURST), self._left + (now - self._at) * PER_SECOND)
        self._at = now
        return 0 if self._left >= 1 else int((1 - self._left) / PER_SECOND * 1000) + 1

    def failed(self) -> None:
        self._left -= 1

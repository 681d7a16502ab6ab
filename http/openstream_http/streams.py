"""Streams: how many answers without an end a node gives at a time.

Each keeps a page in memory and takes its turn at PostgreSQL for as long as its reader likes. They count among all
requests too; without a bound of their own, slow readers could be all there is.
"""

from __future__ import annotations

from collections.abc import Callable

from openstream_runtime.domain.errors import Overloaded
from openstream_runtime.ports.meter import Meter

#: A page of a stream, as events and as lines, and what its socket holds: about 1 MiB.
MAX_STREAMS = 64
RETRY_AFTER_MS = 5_000


class Streams:
    """Streams that are open, and how many there may be."""

    def __init__(self, meter: Meter | None = None) -> None:
        self.open = 0
        self._meter = meter

    def take(self) -> Callable[[], None]:
        """A place for one more, or Overloaded. Call what comes back, once or more, when the stream is over."""
        if self.open >= MAX_STREAMS:
            if self._meter is not None:
                self._meter.rejected("streams")
            raise Overloaded(
                "as many streams are open on this node as it gives at a time; try another",
                reason="streams",
                retry_after_ms=RETRY_AFTER_MS,
            )
        self.open += 1
        held = True

        def give_back() -> None:
            nonlocal held
            self.open -= held
            held = False

        return give_back

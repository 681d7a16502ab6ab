"""An outbox: telemetry on its way out, in bounded memory, sent by a thread of its own.

Whoever puts something in never waits: when the collector is away or slow the newest is dropped, and counted. At the end
what is left gets a moment and no more; the SDK's own batch processors wait for 13 to 20 seconds and drop unseen.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Defaults are those of the standard variables OTEL_BSP_* and OTEL_BLRP_*."""

    queue: int = 2048
    batch: int = 512
    #: Seconds between two sendings while less than a batch waits.
    delay: float = 5.0


class Outbox(Generic[T]):
    """One signal's. `send` gives a batch to the collector, in the outbox's thread, and says whether it took it."""

    def __init__(self, signal: str, send: Callable[[Sequence[T]], bool], bounds: Bounds) -> None:
        self.signal = signal
        self._send = send
        self._bounds = bounds
        self._waiting: deque[T] = deque()
        self._news = threading.Condition()
        self._closing = False
        self._healthy = True
        self._sent = 0
        self._dropped = 0
        # A daemon: a collector that never answers must not keep the process.
        self._thread = threading.Thread(target=self._work, name=f"{signal} outbox", daemon=True)
        self._thread.start()

    @property
    def sent(self) -> int:
        return self._sent

    @property
    def dropped(self) -> int:
        return self._dropped

    def put(self, one: T) -> None:
        """From any thread. The lock is held for moments only, never while something is sent."""
        with self._news:
            if self._closing or len(self._waiting) >= self._bounds.queue:
                self._dropped += 1
                return
            self._waiting.append(one)
            if len(self._waiting) == self._bounds.batch:
                self._news.notify()

    def close(self, within: float) -> None:
        """Send what waits for so many seconds at most, then drop it. Blocks that long: not for an event loop."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(within)
        with self._news:
            self._dropped += len(self._waiting)
            self._waiting.clear()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            if batch:
                self._ship(batch)

    def _next(self) -> list[T] | None:
        """What waits, a batch of it at most, after the delay or as soon as it is a batch. None at the end."""
        with self._news:
            self._news.wait_for(lambda: self._closing or len(self._waiting) >= self._bounds.batch, self._bounds.delay)
            if self._closing and not self._waiting:
                return None
            return [self._waiting.popleft() for _ in range(min(self._bounds.batch, len(self._waiting)))]

    def _ship(self, batch: list[T]) -> None:
        try:
            taken = self._send(batch)
        except Exception as error:  # the thread lives as long as the node
            taken = False
            _log.debug("telemetry could not be sent", signal=self.signal, kind=type(error).__name__)
        with self._news:
            if taken:
                self._sent += len(batch)
            else:
                self._dropped += len(batch)
        self._say(taken)

    def _say(self, taken: bool) -> None:
        """Once when it begins and once when it is over: a collector that is away for days fills no log."""
        if taken is not self._healthy:
            self._healthy = taken
            if taken:
                _log.info("the collector takes telemetry again", signal=self.signal, dropped=self._dropped)
            else:
                _log.warning("the collector takes no telemetry; it is dropped and counted", signal=self.signal)


class OutboxCollector(Collector):
    """What outboxes sent and dropped, for /metrics."""

    def __init__(self, outboxes: Iterable[Outbox[Any]]) -> None:
        self._outboxes = tuple(outboxes)

    def collect(self) -> Iterator[Metric]:
        sent = CounterMetricFamily(
            "openstream_telemetry_sent", "Spans and log lines that the collector took.", labels=("signal",)
        )
        dropped = CounterMetricFamily(
            "openstream_telemetry_dropped",
            "Spans and log lines that the collector did not take in time.",
            labels=("signal",),
        )
        for outbox in self._outboxes:
            sent.add_metric((outbox.signal,), outbox.sent)
            dropped.add_metric((outbox.signal,), outbox.dropped)
        yield sent
        yield dropped

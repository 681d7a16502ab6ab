"""The outbox: what waits is bounded, what is lost is counted, and nobody waits for a collector."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from openstream_runtime.telemetry import logs
from openstream_runtime.telemetry.outbox import Bounds, Outbox, OutboxCollector

QUICK = Bounds(queue=10, batch=4, delay=0.01)


class Collector:
    """Takes batches, or not, or never answers until told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.takes = True
        self.answers = threading.Event()
        self.answers.set()
        self.asked = threading.Event()

    def __call__(self, batch: Sequence[int]) -> bool:
        self.asked.set()
        self.answers.wait(30)
        if self.takes:
            self.batches.append(list(batch))
        return self.takes

    @property
    def taken(self) -> list[int]:
        return [one for batch in self.batches for one in batch]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.answers.set()


@contextmanager
def outbox_of(collector: Callable[[Sequence[int]], bool], bounds: Bounds = QUICK) -> Iterator[Outbox[int]]:
    outbox: Outbox[int] = Outbox("traces", collector, bounds)
    try:
        yield outbox
    finally:
        outbox.close(0)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_all_of_it_arrives_in_order_and_in_batches(collector: Collector) -> None:
    with outbox_of(collector, Bounds(queue=100, batch=4, delay=0.01)) as outbox:
        for one in range(50):
            outbox.put(one)
        wait_until(lambda: outbox.sent == 50)
    assert collector.taken == list(range(50))
    assert max(map(len, collector.batches)) == 4
    assert outbox.dropped == 0


def test_less_than_a_batch_leaves_after_the_delay_and_a_whole_one_at_once(collector: Collector) -> None:
    with outbox_of(collector, Bounds(queue=10, batch=2, delay=3600)) as outbox:
        outbox.put(1)
        outbox.put(2)
        wait_until(lambda: collector.batches == [[1, 2]])
    with outbox_of(collector) as outbox:
        outbox.put(3)
        wait_until(lambda: collector.batches == [[1, 2], [3]])


def test_with_a_collector_that_never_answers_nobody_waits_and_what_is_lost_is_counted(collector: Collector) -> None:
    collector.answers.clear()
    with outbox_of(collector) as outbox:
        outbox.put(0)
        assert collector.asked.wait(10)
        began = time.monotonic()
        for one in range(10_000):
            outbox.put(one)
        assert time.monotonic() - began < 2  # 0.2 ms each, if this machine is very busy
        assert outbox.dropped == 10_000 - QUICK.queue


def test_the_end_sends_what_waits(collector: Collector) -> None:
    with outbox_of(collector, Bounds(queue=100, batch=4, delay=3600)) as outbox:
        for one in range(3):
            outbox.put(one)
        outbox.close(10)
        assert collector.taken == [0, 1, 2]
        assert (outbox.sent, outbox.dropped) == (3, 0)


def test_the_end_waits_for_no_collector_longer_than_it_is_given(collector: Collector) -> None:
    collector.answers.clear()
    with outbox_of(collector) as outbox:
        outbox.put(0)
        assert collector.asked.wait(10)
        for one in range(5):
            outbox.put(one)
        began = time.monotonic()
        outbox.close(0.1)
        assert 0.1 <= time.monotonic() - began < 5
        assert outbox.dropped == 5


def test_after_the_end_everything_is_dropped_and_counted(collector: Collector) -> None:
    with outbox_of(collector) as outbox:
        outbox.close(10)
        outbox.put(1)
        assert (collector.taken, outbox.dropped) == ([], 1)


def test_an_exporter_with_a_bug_loses_its_batch_and_the_next_one_goes_on() -> None:
    seen: list[list[int]] = []

    def send(batch: Sequence[int]) -> bool:
        seen.append(list(batch))
        if len(seen) == 1:
            raise RuntimeError("a bug")
        return True

    with outbox_of(send, Bounds(queue=10, batch=1, delay=0.01)) as outbox:
        outbox.put(1)
        outbox.put(2)
        wait_until(lambda: outbox.sent == 1)
        assert (seen, outbox.dropped) == ([[1], [2]], 1)


def test_a_collector_that_is_away_is_told_once_and_its_return_as_well(collector: Collector) -> None:
    stream = StringIO()
    logs.configure(form="json", stream=stream)
    collector.takes = False
    with outbox_of(collector, Bounds(queue=10, batch=1, delay=0.01)) as outbox:
        for one in range(5):
            outbox.put(one)
        wait_until(lambda: outbox.dropped == 5)
        collector.takes = True
        outbox.put(6)
        wait_until(lambda: outbox.sent == 1)
        outbox.close(10)
    said = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert said == [
        "the collector takes no telemetry; it is dropped and counted",
        "the collector takes telemetry again",
    ]


def test_metrics_show_both_numbers(collector: Collector) -> None:
    registry = CollectorRegistry()
    with outbox_of(collector) as outbox:
        registry.register(OutboxCollector([outbox]))
        outbox.put(1)
        wait_until(lambda: outbox.sent == 1)
        outbox.close(10)
        outbox.put(2)
        text = generate_latest(registry).decode()
    assert 'openstream_telemetry_sent_total{signal="traces"} 1.0' in text
    assert 'openstream_telemetry_dropped_total{signal="traces"} 1.0' in text

"""Delays of whole batches: every bucket right, never negative, the slowest event named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from openstream_runtime.domain.events import Delivery, StoredEvent, trace_id_of
from openstream_runtime.domain.positions import Position
from openstream_runtime.telemetry.delays import Delays
from openstream_runtime.telemetry.metrics import Metrics

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = b'{"x":"y","traceparent":"00-' + TRACE.encode() + b'-00f067aa0ba902b7-01"}'


def event(ms: int, headers: bytes | None = None) -> StoredEvent:
    return StoredEvent(Position(ms, 0), "e", None, b"{}", 0, headers)


def delays(limit: int = 10) -> Delays:
    return Delays("delay_seconds", "A delay.", ("topic",), limit=limit)


def samples(of: Delays) -> dict[tuple[str, str, str], float]:
    (family,) = of.collect()
    return {(one.name, one.labels["topic"], one.labels.get("le", "")): one.value for one in family.samples}


@given(st.lists(st.integers(0, 200_000_000), min_size=1, max_size=50))
def test_a_batch_counts_as_its_events_one_by_one_would(ages: list[int]) -> None:
    counted, now = delays(), 300_000_000
    counted.observe(("t",), [(0, event(now - age)) for age in ages], now)
    values = samples(counted)
    assert values["delay_seconds_count", "t", ""] == len(ages)
    assert values["delay_seconds_sum", "t", ""] == pytest.approx(sum(ages) / 1000)
    for (name, _, le), value in values.items():
        if name.endswith("_bucket"):
            assert value == sum(age / 1000 <= float(le) for age in ages), le


def test_an_event_from_the_future_took_no_time() -> None:
    counted = delays()
    counted.observe(("t",), [(0, event(9_000))], 1_000)
    assert samples(counted)["delay_seconds_sum", "t", ""] == 0
    assert samples(counted)["delay_seconds_bucket", "t", "0.002"] == 1


def test_beyond_the_bound_labels_are_counted_together() -> None:
    counted = delays(limit=2)
    for topic in ("a", "b", "c", "d", "a"):
        counted.observe((topic,), [(0, event(1))], 2)
    counts = {topic: value for (name, topic, _), value in samples(counted).items() if name.endswith("_count")}
    assert counts == {"a": 2, "b": 1, "_other_": 2}


def test_the_slowest_event_of_a_batch_is_its_exemplar_where_openmetrics_is_asked_for() -> None:
    metrics = Metrics(version="1")
    metrics.persist_delay("orders", 3, [event(1_000, HEADERS), event(2_990)], 3_000)
    body = metrics.exposition("application/openmetrics-text")[1].decode()
    exemplars = [
        (sample.labels["le"], sample.exemplar.labels, sample.exemplar.value)
        for family in parse_openmetrics(body)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar
    ]
    assert exemplars == [("2.5", {"trace_id": TRACE, "partition": "3", "redis_id": "1000-0"}, 2.0)]
    assert TRACE not in metrics.exposition("")[1].decode(), "the text format has no exemplars"


def test_only_first_deliveries_count() -> None:
    metrics = Metrics(version="1")
    metrics.delivery_delay("orders", "g", [Delivery(0, event(1), 2)], 100_000)
    assert "openstream_delivery_delay_seconds_count" not in metrics.exposition("")[1].decode()


@pytest.mark.parametrize(
    "headers",
    [
        None,
        b"{}",
        b'{"traceparent":"00-short-00f067aa0ba902b7-01"}',
        b'{"traceparent":"00-' + b"G" * 32 + b'-00f067aa0ba902b7-01"}',
    ],
)
def test_without_a_valid_traceparent_there_is_no_trace_id(headers: bytes | None) -> None:
    assert trace_id_of(headers) is None

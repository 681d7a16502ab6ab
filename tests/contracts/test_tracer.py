"""What a Tracer promises, of the fake and of OpenTelemetry's."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import DEFAULT_ON

from openstream_runtime.ports.tracing import MAX_LINKS, Operation, Tracer
from openstream_runtime.telemetry.spans import LinkedSampler, OtelTracer
from support.fake_tracer import SAMPLED, UNSAMPLED, FakeTracer, Seen, contexts


@dataclass
class Rig:
    tracer: Tracer
    seen: Callable[[], list[Seen]]


def _real() -> Rig:
    kept = InMemorySpanExporter()
    provider = TracerProvider(sampler=LinkedSampler(DEFAULT_ON), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Rig(OtelTracer(provider.get_tracer("tests")), lambda: [_seen(span) for span in kept.get_finished_spans()])


def _seen(span: ReadableSpan) -> Seen:
    said = dict(span.attributes or {})

    def text(name: str) -> str | None:
        return None if (value := said.get(name)) is None else str(value)

    def number(name: str) -> int | None:
        return None if (value := text(name)) is None else int(value)

    assert span.context is not None
    return Seen(
        name=span.name,
        trace_id=span.context.trace_id,
        span_id=span.context.span_id,
        parent=None if span.parent is None else span.parent.span_id,
        links=[(link.context.trace_id, link.context.span_id) for link in span.links],
        topic=text("messaging.destination.name"),
        group=text("messaging.consumer.group.name"),
        partition=number("messaging.destination.partition.id"),
        events=number("messaging.batch.message_count"),
        route=text("http.route"),
        status=number("http.response.status_code"),
        error=text("error.type"),
    )


def _fake() -> Rig:
    fake = FakeTracer()
    return Rig(fake, lambda: fake.spans)


@pytest.fixture(params=[_fake, _real], ids=["fake", "real"])
def rig(request: pytest.FixtureRequest) -> Rig:
    made: Rig = request.param()
    return made


def test_a_request_stands_in_the_trace_of_its_client(rig: Rig) -> None:
    with rig.tracer.serve("POST", SAMPLED) as span:
        assert span.context is not None
        assert span.context.trace_id == SAMPLED.trace_id
        span.answered("/v1/topics", 200)
    (seen,) = rig.seen()
    assert (seen.name, seen.trace_id, seen.parent) == ("POST /v1/topics", SAMPLED.trace_id, SAMPLED.span_id)
    assert (seen.route, seen.status, seen.error) == ("/v1/topics", 200, None)


def test_a_request_of_a_client_without_a_trace_begins_one(rig: Rig) -> None:
    for _ in range(2):
        with rig.tracer.serve("GET", None):
            pass
    first, second = rig.seen()
    assert first.parent is second.parent is None
    assert first.trace_id != second.trace_id


def test_what_the_client_does_not_record_nobody_records(rig: Rig) -> None:
    with rig.tracer.serve("POST", UNSAMPLED) as span:
        span.tell(Operation.SEND, "orders")
        span.count(1)
        span.link(contexts(2))
        span.answered("/v1/topics", 500)
        assert span.context is None
    assert rig.seen() == []


def test_the_current_span_is_that_of_the_innermost_block(rig: Rig) -> None:
    assert rig.tracer.current() is None
    with rig.tracer.serve("POST", SAMPLED) as outer:
        assert rig.tracer.current() is outer
        with rig.tracer.batch(Operation.APPEND, "orders", contexts(1), events=1) as inner:
            assert rig.tracer.current() is inner
        assert rig.tracer.current() is outer
    assert rig.tracer.current() is None


def test_a_span_that_has_ended_is_nobodys_current_one_also_of_those_who_began_in_it(rig: Rig) -> None:
    with rig.tracer.serve("POST", SAMPLED) as span:
        born_in_it = copy_context()
        assert born_in_it.run(rig.tracer.current) is span
    assert born_in_it.run(rig.tracer.current) is None


def test_an_operation_names_its_span_and_says_what_it_is_about(rig: Rig) -> None:
    with rig.tracer.serve("POST", None) as span:
        span.tell(Operation.RECEIVE, "orders", group="billing", partition=3)
        span.count(2)
        span.count(3)
        span.answered("/v1/…/read", 200)
    (seen,) = rig.seen()
    assert (seen.name, seen.topic, seen.group, seen.partition) == ("receive orders", "orders", "billing", 3)
    assert seen.events == 5


def test_work_for_many_is_a_trace_of_its_own_linked_to_theirs(rig: Rig) -> None:
    others = contexts(3)
    with rig.tracer.batch(Operation.PERSIST, "orders", iter(others), events=7, partition=1):
        pass
    (seen,) = rig.seen()
    assert (seen.name, seen.topic, seen.partition, seen.events) == ("persist orders", "orders", 1, 7)
    assert seen.parent is None
    assert seen.links == [(one.trace_id, one.span_id) for one in others]
    assert seen.trace_id not in {one.trace_id for one in others}


def test_work_for_many_has_no_parent_where_another_span_is_current(rig: Rig) -> None:
    with (
        rig.tracer.serve("POST", SAMPLED),
        rig.tracer.batch(Operation.APPEND, "orders", contexts(1), events=1),
    ):
        pass
    seen, _ = rig.seen()
    assert seen.name == "append orders"
    assert seen.parent is None
    assert seen.trace_id != SAMPLED.trace_id


def test_work_that_nobody_asked_to_see_makes_no_span(rig: Rig) -> None:
    with rig.tracer.batch(Operation.PERSIST, "orders", [], events=7) as span:
        span.fail("unknown")
        assert span.context is None
        assert rig.tracer.current() is None
    with rig.tracer.batch(Operation.APPEND, "orders", [UNSAMPLED], events=1) as span:
        assert span.context is None
    assert rig.seen() == []


def test_work_is_recorded_when_one_of_many_is(rig: Rig) -> None:
    with rig.tracer.batch(Operation.APPEND, "orders", [UNSAMPLED, SAMPLED], events=2):
        pass
    (seen,) = rig.seen()
    assert (SAMPLED.trace_id, SAMPLED.span_id) in seen.links


def test_links_are_bounded_and_no_more_contexts_are_looked_at(rig: Rig) -> None:
    many = iter(contexts(1000))
    with rig.tracer.batch(Operation.PERSIST, "orders", many, events=1000) as span:
        span.link(contexts(5))
    (seen,) = rig.seen()
    assert len(seen.links) == MAX_LINKS
    assert len(list(many)) == 1000 - MAX_LINKS


def test_links_may_come_late_and_are_bounded_then_too(rig: Rig) -> None:
    with rig.tracer.serve("POST", None) as span:
        span.link(contexts(MAX_LINKS - 1))
        span.link(contexts(5))
    (seen,) = rig.seen()
    assert len(seen.links) == MAX_LINKS


@pytest.mark.parametrize(("status", "error"), [(200, None), (429, None), (499, None), (503, "503")])
def test_only_the_servers_own_failures_are_failures(rig: Rig, status: int, error: str | None) -> None:
    with rig.tracer.serve("POST", None) as span:
        span.answered("/v1/topics", status)
    assert rig.seen()[0].error == error


def test_an_error_ends_the_span_by_its_kind_alone_and_goes_on(rig: Rig) -> None:
    with (
        pytest.raises(ValueError, match="card number"),
        rig.tracer.batch(Operation.PERSIST, "orders", contexts(1), events=1),
    ):
        raise ValueError("card number 4111")
    (seen,) = rig.seen()
    assert seen.error == "ValueError"
    assert "4111" not in repr(seen)
    assert rig.tracer.current() is None

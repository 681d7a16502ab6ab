"""Spans by OpenTelemetry: the port `Tracer`, with the names of the semantic conventions for messaging and HTTP.

Imported only where telemetry is exported (exporting.py). The span a task works in is a context variable of ours, so
that the log can name it and no library's own context decides what belongs together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan
from opentelemetry.trace import Tracer as SdkTracer
from opentelemetry.trace.status import Status, StatusCode
from opentelemetry.util.types import Attributes

from openstream_runtime.domain.tracing import TraceContext
from openstream_runtime.ports.tracing import MAX_LINKS, NoSpan, Operation, Span

#: What the conventions call each operation's type, and the kind of a span that begins with it.
_TYPES: Final = {
    Operation.SEND: ("send", SpanKind.PRODUCER),
    Operation.APPEND: ("send", SpanKind.CLIENT),
    Operation.PERSIST: ("process", SpanKind.CONSUMER),
    Operation.RECEIVE: ("receive", SpanKind.CLIENT),
    Operation.CLAIM: ("receive", SpanKind.CLIENT),
    Operation.ACK: ("settle", SpanKind.CLIENT),
    Operation.REPLAY: ("send", SpanKind.PRODUCER),
}
_FAILED: Final = 500
_ROOT: Final = Context()  # empty: what happens to be current in this task is no parent

_current: ContextVar[OtelSpan | None] = ContextVar("openstream_span", default=None)


class OtelSpan:
    """A span of the SDK in the words of the port."""

    __slots__ = ("_events", "_links", "_name", "_span", "_told", "ended")

    def __init__(self, span: SdkSpan, name: str, links: int = 0) -> None:
        self._span = span
        self._name = name
        self._links = links
        self._events = 0
        self._told = False
        #: Then it is nobody's current one, also of those who began in it: an actor outlives the request it is made for.
        self.ended = False

    @property
    def context(self) -> TraceContext | None:
        context = self._span.get_span_context()
        if not context.trace_flags.sampled:
            return None
        return TraceContext(context.trace_id, context.span_id, True, context.trace_state.to_header())

    @property
    def ids(self) -> tuple[str, str]:
        """Of the trace and of the span, as the log writes them."""
        context = self._span.get_span_context()
        return f"{context.trace_id:032x}", f"{context.span_id:016x}"

    @property
    def whereabouts(self) -> Context:
        return set_span_in_context(self._span, _ROOT)

    def tell(self, operation: Operation, topic: str, *, group: str | None = None, partition: int | None = None) -> None:
        self._told = True
        self._span.update_name(f"{operation} {topic}")
        self._span.set_attributes(_attributes(operation, topic, group=group, partition=partition))

    def count(self, events: int) -> None:
        self._events += events
        self._span.set_attribute("messaging.batch.message_count", self._events)

    def link(self, contexts: Iterable[TraceContext]) -> None:
        if self._span.is_recording():
            for context in islice(contexts, MAX_LINKS - self._links):
                self._span.add_link(_foreign(context))
                self._links += 1

    def answered(self, route: str, status: int) -> None:
        self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        if not self._told:
            self._span.update_name(f"{self._name} {route}")
        if status >= _FAILED:
            self.fail(str(status))

    def fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        self.ended = True
        self._span.end()


class OtelTracer:
    """The port, on a tracer of the SDK."""

    enabled = True

    def __init__(self, tracer: SdkTracer) -> None:
        self._tracer = tracer

    def current(self) -> Span | None:
        return _here()

    @contextmanager
    def serve(self, method: str, parent: TraceContext | None) -> Iterator[Span]:
        around = _ROOT if parent is None else _around(_foreign(parent))
        attributes = {"http.request.method": method, "url.scheme": "http"}
        yield from _lived(OtelSpan(self._tracer.start_span(method, around, SpanKind.SERVER, attributes), method))

    @contextmanager
    def batch(
        self,
        operation: Operation,
        topic: str,
        contexts: Iterable[TraceContext],
        *,
        events: int,
        partition: int | None = None,
    ) -> Iterator[Span]:
        links = [Link(_foreign(context)) for context in islice(contexts, MAX_LINKS)]
        if not links:
            yield NoSpan()
            return
        attributes = {
            **_attributes(operation, topic, partition=partition),
            "messaging.batch.message_count": events,
        }
        name = f"{operation} {topic}"
        span = self._tracer.start_span(name, _ROOT, _TYPES[operation][1], attributes, links)
        yield from _lived(OtelSpan(span, name, len(links)))


class LinkedSampler(Sampler):
    """Any sampler, asked for a span that has links and no parent as if one of those were its parent.

    So what is done for many is recorded when one of them is, and a share of 1 % stays a share of 1 %.
    """

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        for link in links or ():
            context = link.context
            asked = self._inner.should_sample(_around(context), context.trace_id, name, kind, attributes, links)
            if asked.decision is Decision.RECORD_AND_SAMPLE:
                return SamplingResult(asked.decision, attributes)
        if links:
            return SamplingResult(Decision.DROP)
        return self._inner.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"LinkedSampler{{{self._inner.get_description()}}}"


def current_ids() -> tuple[str, str] | None:
    """The trace and the span that this task works in."""
    span = _here()
    return None if span is None else span.ids


def current_context() -> Context:
    """The same, for the SDK's own records."""
    span = _here()
    return _ROOT if span is None else span.whereabouts


def _here() -> OtelSpan | None:
    span = _current.get()
    return None if span is None or span.ended else span


def _lived(span: OtelSpan) -> Iterator[OtelSpan]:
    """It is current while the caller's block runs, and ended with it, whatever ends it."""
    token = _current.set(span)
    try:
        yield span
    except BaseException as error:
        span.fail(type(error).__name__)  # its story may hold anything: it stays in the log, which masks it
        raise
    finally:
        _current.reset(token)
        span.end()


def _attributes(
    operation: Operation, topic: str, *, group: str | None = None, partition: int | None = None
) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "messaging.system": "openstream",
        "messaging.operation.name": str(operation),
        "messaging.operation.type": _TYPES[operation][0],
        "messaging.destination.name": topic,
    }
    if group is not None:
        attributes["messaging.consumer.group.name"] = group
    if partition is not None:
        attributes["messaging.destination.partition.id"] = str(partition)
    return attributes


def _foreign(context: TraceContext) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    state = TraceState.from_header([context.state]) if context.state else None
    return SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=flags, trace_state=state)


def _around(context: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(context), _ROOT)

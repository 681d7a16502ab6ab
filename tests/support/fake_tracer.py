"""A Tracer that remembers every span, and what a span looks like to a test, whoever recorded it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count, islice

from openstream_runtime.domain.tracing import TraceContext
from openstream_runtime.ports.tracing import MAX_LINKS, NoSpan, Operation, Span

#: Of a client that is recorded, and of one that is not.
SAMPLED = TraceContext(0xA1, 0xB1, sampled=True)
UNSAMPLED = TraceContext(0xA2, 0xB2, sampled=False)


def contexts(number: int) -> list[TraceContext]:
    """So many spans of other people, each in a trace of its own."""
    return [TraceContext(0xC000 + one, 0xD000 + one, sampled=True) for one in range(number)]


@dataclass(slots=True)
class Seen:
    """One ended span."""

    name: str
    trace_id: int
    span_id: int
    parent: int | None = None
    links: list[tuple[int, int]] = field(default_factory=list)
    topic: str | None = None
    group: str | None = None
    partition: int | None = None
    events: int | None = None
    route: str | None = None
    status: int | None = None
    error: str | None = None


class FakeSpan:
    def __init__(self, seen: Seen, *, sampled: bool) -> None:
        self.seen = seen
        self._sampled = sampled
        self._told = False
        self.ended = False

    @property
    def context(self) -> TraceContext | None:
        return TraceContext(self.seen.trace_id, self.seen.span_id, True) if self._sampled else None

    def tell(self, operation: Operation, topic: str, *, group: str | None = None, partition: int | None = None) -> None:
        self._told = True
        self.seen.name = f"{operation} {topic}"
        self.seen.topic, self.seen.group, self.seen.partition = topic, group, partition

    def count(self, events: int) -> None:
        self.seen.events = (self.seen.events or 0) + events

    def link(self, contexts: Iterable[TraceContext]) -> None:
        room = MAX_LINKS - len(self.seen.links)
        self.seen.links += [(one.trace_id, one.span_id) for one in islice(contexts, room)]

    def answered(self, route: str, status: int) -> None:
        self.seen.route, self.seen.status = route, status
        if not self._told:
            self.seen.name = f"{self.seen.name} {route}"
        if status >= 500:
            self.fail(str(status))

    def fail(self, kind: str) -> None:
        self.seen.error = kind


class FakeTracer:
    """`spans` are those that ended and were recorded, in the order of their ends."""

    enabled = True

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self._ids = count(1)
        self._current: ContextVar[FakeSpan | None] = ContextVar("fake_span", default=None)

    def of(self, operation: Operation) -> list[Seen]:
        return [span for span in self.spans if span.name.startswith(f"{operation} ")]

    def current(self) -> Span | None:
        span = self._current.get()
        return None if span is None or span.ended else span

    @contextmanager
    def serve(self, method: str, parent: TraceContext | None) -> Iterator[Span]:
        if parent is None:
            seen, sampled = Seen(method, next(self._ids), next(self._ids)), True
        else:
            seen, sampled = Seen(method, parent.trace_id, next(self._ids), parent.span_id), parent.sampled
        yield from self._lived(FakeSpan(seen, sampled=sampled))

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
        linked = list(islice(contexts, MAX_LINKS))
        if not linked:
            yield NoSpan()
            return
        span = FakeSpan(Seen("", next(self._ids), next(self._ids)), sampled=any(one.sampled for one in linked))
        span.tell(operation, topic, partition=partition)
        span.count(events)
        span.link(linked)
        yield from self._lived(span)

    def _lived(self, span: FakeSpan) -> Iterator[FakeSpan]:
        token = self._current.set(span)
        try:
            yield span
        except BaseException as error:
            span.fail(type(error).__name__)
            raise
        finally:
            self._current.reset(token)
            span.ended = True
            if span.context is not None:
                self.spans.append(span.seen)

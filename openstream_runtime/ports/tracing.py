"""What the node tells of its work to whoever records traces, and what tells nobody: off, it costs a call a request.

Actors and the gateway say what they do in the words of `Operation`; only telemetry/ knows OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import Final, Protocol

from openstream_runtime.domain.tracing import TraceContext

#: Contexts one span is linked to. A batch may hold thousands; who looks at a picture does not.
MAX_LINKS: Final = 32


class Operation(StrEnum):
    """What is done with events. Telemetry has the kind that the conventions give each."""

    SEND = "send"
    APPEND = "append"
    PERSIST = "persist"
    RECEIVE = "receive"
    CLAIM = "claim"
    ACK = "ack"
    REPLAY = "replay"


class Span(Protocol):
    """Work under way. Every method is cheap and never raises; none takes a payload, a key or a secret."""

    @property
    def context(self) -> TraceContext | None:
        """Where it stands in its trace; None when nobody records it."""
        ...

    def tell(
        self, operation: Operation, topic: str, *, group: str | None = None, partition: int | None = None
    ) -> None: ...

    def count(self, events: int) -> None:
        """So many events more."""
        ...

    def link(self, contexts: Iterable[TraceContext]) -> None:
        """To the spans that made its events, MAX_LINKS of them in all."""
        ...

    def answered(self, route: str, status: int) -> None:
        """Of a request: the template of its route and its status; 500 and more is a failure."""
        ...

    def fail(self, kind: str) -> None:
        """It did not do what it should; `kind` is a class of trouble, not its story."""
        ...


class Tracer(Protocol):
    @property
    def enabled(self) -> bool: ...

    def current(self) -> Span | None:
        """The span this task works in; None when tracing is off or the work belongs to no span."""
        ...

    def serve(self, method: str, parent: TraceContext | None) -> AbstractContextManager[Span]:
        """A request, in the trace of its client if that has one. Current until it is left."""
        ...

    def batch(
        self,
        operation: Operation,
        topic: str,
        contexts: Iterable[TraceContext],
        *,
        events: int,
        partition: int | None = None,
    ) -> AbstractContextManager[Span]:
        """Work for many traces at once: a trace of its own, linked to theirs.

        Recorded when one of theirs is: work nobody asked to see makes no span. `contexts` are not looked at when off.
        """
        ...


class NoSpan:
    """Tells nobody."""

    context: TraceContext | None = None

    def tell(
        self, operation: Operation, topic: str, *, group: str | None = None, partition: int | None = None
    ) -> None: ...
    def count(self, events: int) -> None: ...
    def link(self, contexts: Iterable[TraceContext]) -> None: ...
    def answered(self, route: str, status: int) -> None: ...
    def fail(self, kind: str) -> None: ...


_NOWHERE: Final[AbstractContextManager[Span]] = nullcontext(NoSpan())


class NoTracer:
    """Tracing is off."""

    enabled = False

    def current(self) -> Span | None:
        return None

    def serve(self, method: str, parent: TraceContext | None) -> AbstractContextManager[Span]:
        return _NOWHERE

    def batch(
        self,
        operation: Operation,
        topic: str,
        contexts: Iterable[TraceContext],
        *,
        events: int,
        partition: int | None = None,
    ) -> AbstractContextManager[Span]:
        return _NOWHERE


NO_TRACER: Final[Tracer] = NoTracer()

"""Traces and logs to a collector, by OTLP over HTTP. Imported only when something is exported (see `spans.py`).

The SDK makes spans and records and encodes them; what waits, is dropped and is sent last is the outbox's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from openstream_runtime.export import Export, Signal
from openstream_runtime.ports.tracing import NO_TRACER, Tracer
from openstream_runtime.telemetry.outbox import Bounds, Outbox, OutboxCollector
from openstream_runtime.telemetry.spans import LinkedSampler, OtelTracer, current_context, current_ids

#: Loggers that speak while telemetry is sent: to send what they say would make them say more.
_SENDING: Final = ("opentelemetry", "urllib3", "requests", "openstream_runtime.telemetry.outbox")
_SEVERITIES: Final = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}
#: Fields of a line that a record has places of its own for.
_PLACED: Final = frozenset({"event", "level", "logger", "timestamp", "trace_id", "span_id"})


class Otlp:
    """What is exported of this node, until `close`."""

    def __init__(self, export: Export, *, version: str, node: str) -> None:
        # The exporter tells of each try, with what the collector answered; the outbox says once that it is away.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        ours = {"service.name": "openstream", "service.version": version, "service.instance.id": node}
        # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say wins.
        resource = Resource.create().merge(Resource(ours)).merge(OTELResourceDetector().detect())
        self._outboxes: list[Outbox[Any]] = []
        self._shutdowns: list[Callable[[], object]] = []
        self.tracer: Tracer = NO_TRACER if export.traces is None else self._traces(export.traces, resource, version)
        self.logs = None if export.logs is None else self._logs(export.logs, resource)

    def ids(self) -> tuple[str, str] | None:
        """The trace and the span that the current task works in."""
        return current_ids()

    def collector(self) -> OutboxCollector:
        """For /metrics."""
        return OutboxCollector(self._outboxes)

    def close(self, within: float) -> None:
        """Send what waits, for so many seconds at most, all signals at once. Blocks that long: in a thread."""
        threads = [threading.Thread(target=box.close, args=(within,), daemon=True) for box in self._outboxes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(within)
        for shutdown in self._shutdowns:
            shutdown()  # ends its pauses between tries; what it sends just now it gives up with the process

    def _traces(self, signal: Signal, resource: Resource, version: str) -> Tracer:
        exporter = OTLPSpanExporter(endpoint=signal.url)
        self._shutdowns.append(exporter.shutdown)

        def send(spans: Sequence[ReadableSpan]) -> bool:
            return exporter.export(spans) is SpanExportResult.SUCCESS

        outbox = Outbox("traces", send, _bounds(signal))
        self._outboxes.append(outbox)
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.sampler = LinkedSampler(provider.sampler)  # around the one that OTEL_TRACES_SAMPLER names
        provider.add_span_processor(_Spans(outbox))
        return OtelTracer(provider.get_tracer("openstream", version))

    def _logs(self, signal: Signal, resource: Resource) -> LogSink:
        exporter = OTLPLogExporter(endpoint=signal.url)
        self._shutdowns.append(exporter.shutdown)

        def send(records: Sequence[ReadableLogRecord]) -> bool:
            return exporter.export(records) is LogRecordExportResult.SUCCESS

        outbox = Outbox("logs", send, _bounds(signal))
        self._outboxes.append(outbox)
        provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_log_record_processor(_Records(outbox))
        return LogSink(provider)


class LogSink:
    """Takes log lines as `logs.py` has made them: masked and cut."""

    def __init__(self, provider: LoggerProvider) -> None:
        self._provider = provider

    def __call__(self, record: logging.LogRecord, fields: Mapping[str, Any]) -> None:
        if record.name.startswith(_SENDING):
            return
        attributes = {
            "exception.stacktrace" if name == "exception" else name: value
            for name, value in fields.items()
            if name not in _PLACED and value is not None
        }
        self._provider.get_logger(record.name).emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                context=current_context(),
                severity_text=record.levelname,
                severity_number=_SEVERITIES.get(record.levelno, SeverityNumber.UNSPECIFIED),
                body=str(fields.get("event", "")),
                attributes=attributes,
            )
        )


class _Spans(SpanProcessor):
    """Ended spans go to the outbox."""

    def __init__(self, outbox: Outbox[ReadableSpan]) -> None:
        self._outbox = outbox

    def on_start(self, span: Span, parent_context: Context | None = None) -> None: ...

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._outbox.put(span)


class _Records(LogRecordProcessor):
    """Log records go to the outbox."""

    def __init__(self, outbox: Outbox[ReadableLogRecord]) -> None:
        self._outbox = outbox

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self._outbox.put(
            ReadableLogRecord(
                log_record.log_record,
                log_record.resource or Resource.get_empty(),
                log_record.instrumentation_scope,
                log_record.limits,
            )
        )

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def _bounds(signal: Signal) -> Bounds:
    return Bounds(signal.queue, signal.batch, signal.delay)

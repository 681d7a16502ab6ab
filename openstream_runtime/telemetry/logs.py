"""Logs: one event a line, JSON for machines and readable for people, through one door.

structlog and the standard library's loggers (hypercorn, psycopg.pool, asyncio, warnings, exceptions nobody caught) all
leave through one handler, so all of them are masked and cut by `redaction.py` before they are written.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor

from openstream_runtime.telemetry.redaction import Redaction

Form = Literal["auto", "json", "console"]
#: The trace and the span that the current task works in, for the lines it writes.
Ids = Callable[[], tuple[str, str] | None]
#: Somebody who takes lines besides the stream: the record as it came, its fields masked.
Sink = Callable[[logging.LogRecord, Mapping[str, Any]], None]

# What we wrote. Everybody else is heard from INFO on: at DEBUG hpack writes request headers, tokens included.
_OURS = ("openstream_runtime", "openstream_http", "openstream_ops", "supervisors")


def configure(
    level: str = "info",
    *,
    form: Form = "auto",
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    ids: Ids | None = None,
    sink: Sink | None = None,
) -> None:
    """Send every log of the process to `stream` (stderr) and `sink`; again replaces what was set before.

    `level`: debug, info, warning or error. `form`: `auto` is `console` on a terminal and `json` elsewhere.
    `secrets`: values that must never be written, URLs with passwords among them; each is removed wherever it stands.
    """
    secrets = tuple(secrets)
    out = sys.stderr if stream is None else stream
    console = form == "console" or (form == "auto" and out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if ids is not None:
        shared.append(_WithIds(ids))
    renderer: Processor
    if console:
        colors = out.isatty()
        renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    else:
        # The standard library's encoder writes ASCII only, so no reader sees a line break where we wrote none, and
        # a lone surrogate is no error.
        renderer = structlog.processors.JSONRenderer(sort_keys=False)
    handlers: list[logging.Handler] = [_Handler(out)]
    handlers[0].setFormatter(_formatter(shared, Redaction(secrets, escape_controls=console), renderer))
    if sink is not None:
        handlers.append(_SinkHandler(shared, Redaction(secrets), sink, handlers[0].handleError))
    number = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, _Handler | _SinkHandler):
            root.removeHandler(old)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(max(number, logging.INFO))
    for name in _OURS:
        logging.getLogger(name).setLevel(number)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # module-level loggers of modules imported before us follow too
    )
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _formatter(shared: list[Processor], redaction: Redaction, last: Processor) -> ProcessorFormatter:
    return ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            ProcessorFormatter.remove_processors_meta,
            # Tracebacks become text before they are masked, and without the values of local variables.
            structlog.processors.format_exc_info,
            structlog.processors.StackInfoRenderer(),
            redaction,
            last,
        ],
    )


class _WithIds:
    """A processor: the line says which trace and span it belongs to."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    def __call__(self, _logger: Any, _method: str, event: EventDict) -> EventDict:
        if (ids := self._ids()) is not None:
            event["trace_id"], event["span_id"] = ids
        return event


class _SinkHandler(logging.Handler):
    """Gives lines to a sink as fields, masked as on the stream."""

    def __init__(
        self,
        shared: list[Processor],
        redaction: Redaction,
        sink: Sink,
        complain: Callable[[logging.LogRecord], None],
    ) -> None:
        super().__init__()
        self._sink = sink
        self._complain = complain
        self._record: logging.LogRecord | None = None
        self.setFormatter(_formatter(shared, redaction, self._take))

    def emit(self, record: logging.LogRecord) -> None:
        self._record = record  # one at a time: handlers hold their lock meanwhile
        try:
            self.format(record)
        except Exception:
            self.handleError(record)

    def _take(self, _logger: Any, _method: str, event: EventDict) -> str:
        if self._record is not None:
            self._sink(self._record, event)
        return ""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is the standard library's
        self._complain(record)  # on the stream: the standard one prints the raw record


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines. When it cannot, it says so in words of its own: the standard one prints the raw record."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is the standard library's
        error = sys.exc_info()[0]
        try:
            self.stream.write(
                f'{{"event": "a log line could not be written", "level": "error", "logger": "{__name__}", '
                f'"error": "{error.__name__ if error else ""}", "line": {record.lineno}}}\n'
            )
            self.stream.flush()
        except (OSError, ValueError):
            return  # nobody listens any more: a full disk or a closed pipe must not end a node


def _uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return  # Ctrl-C is no news
    logging.getLogger("openstream_runtime").critical("uncaught exception", exc_info=(kind, error, traceback))


def _uncaught_in_thread(args: Any) -> None:
    if args.exc_type is SystemExit:
        return
    logging.getLogger("openstream_runtime").critical(
        "uncaught exception in a thread", exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
    )

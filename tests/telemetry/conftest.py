"""Logging is global by nature: what a test sets is taken back."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog

from openstream_runtime.telemetry import logs


@pytest.fixture(autouse=True)
def _global_state() -> Iterator[None]:
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    level = root.level
    yield
    root.setLevel(level)
    ours = (logs._Handler, logs._SinkHandler)
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, ours)]
    for name in (*logs._OURS, "opentelemetry.exporter"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = hooks
    structlog.reset_defaults()

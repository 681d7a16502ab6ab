"""The trace an event belongs to, carried in its headers. Works where OpenTelemetry can be imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import msgspec

from openstream_client.models import Event


@cache
def _propagation() -> tuple[Callable[[dict[str, str]], None], Callable[[Mapping[str, str]], Any]] | None:
    try:
        module = importlib.import_module("opentelemetry.propagate")
    except ImportError:
        return None
    return module.inject, module.extract


def current() -> dict[str, str]:
    """`traceparent` and its company for the span we are in; empty outside of one, or without OpenTelemetry."""
    found = _propagation()
    carrier: dict[str, str] = {}
    if found is not None:
        found[0](carrier)
    return carrier


def context_of(headers: Mapping[str, str]) -> Any:
    """The OpenTelemetry context an event came with, to start or link a span; None without OpenTelemetry."""
    found = _propagation()
    return None if found is None else found[1](headers)


def traced(event: Event) -> Event:
    """The event with the current trace in its headers; one that carries a `traceparent` already keeps its own."""
    if event.headers is not None and "traceparent" in event.headers:
        return event
    trace = current()
    return msgspec.structs.replace(event, headers={**trace, **(event.headers or {})}) if trace else event

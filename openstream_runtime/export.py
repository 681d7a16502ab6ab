"""What the standard variables OTEL_* say about exporting traces and logs. Nothing is exported without an endpoint.

Headers, certificates, time limits, the sampler and the resource are read by the SDK itself. Metrics are not exported:
Prometheus fetches them at /metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

PREFIX = "OTEL_"
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
_HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_LOGS_HEADERS")


@dataclass(frozen=True, slots=True)
class Signal:
    """Where one signal goes, and how much of it may wait."""

    url: str
    queue: int
    batch: int
    #: Seconds.
    delay: float


@dataclass(frozen=True, slots=True)
class Export:
    """None: that signal is not exported. `secrets` are what must be in no log line."""

    traces: Signal | None = None
    logs: Signal | None = None
    secrets: tuple[str, ...] = ()

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Export:
        """ValueError with a sentence a line, without values, when the variables ask for what cannot be done."""
        given = {name: value.strip() for name, value in environ.items() if name.startswith(PREFIX) and value.strip()}
        if given.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return cls()
        problems: list[str] = []
        traces = _signal(given, "TRACES", "v1/traces", "BSP", problems, delay_ms=5_000)
        # Logs are on stderr anyway, so they go out only where somebody asks for it.
        logs = _signal(given, "LOGS", "v1/logs", "BLRP", problems, delay_ms=1_000, unasked="none")
        if problems:
            raise ValueError("\n".join(problems))
        return cls(traces, logs, tuple(_secrets(given)) if traces or logs else ())


def _signal(
    given: Mapping[str, str],
    name: str,
    path: str,
    processor: str,
    problems: list[str],
    *,
    delay_ms: int,
    unasked: str = "otlp",
) -> Signal | None:
    own = f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT"
    whole = given.get(_ENDPOINT)
    url = given.get(own) or (f"{whole.rstrip('/')}/{path}" if whole else None)
    exporter = given.get(f"OTEL_{name}_EXPORTER", unasked).lower()
    if url is None or exporter == "none":
        return None
    if exporter != "otlp":
        problems.append(f"OTEL_{name}_EXPORTER: expected otlp or none")
    protocol = given.get(f"OTEL_EXPORTER_OTLP_{name}_PROTOCOL") or given.get(_PROTOCOL, "http/protobuf")
    if protocol != "http/protobuf":
        problems.append(f"{_PROTOCOL}: this node speaks http/protobuf (port 4318 of a collector) and nothing else")
    if urlsplit(url).scheme not in {"http", "https"}:
        problems.append(f"{own if own in given else _ENDPOINT}: expected a URL that begins with http:// or https://")

    def number(variable: str, default: int) -> int:
        text = given.get(f"OTEL_{processor}_{variable}", str(default))
        if text.isdecimal() and int(text) > 0:
            return int(text)
        problems.append(f"OTEL_{processor}_{variable}: expected a whole number above 0")
        return default

    queue = number("MAX_QUEUE_SIZE", 2_048)
    batch = min(queue, number("MAX_EXPORT_BATCH_SIZE", 512))
    return Signal(url, queue, batch, number("SCHEDULE_DELAY", delay_ms) / 1000)


def _secrets(given: Mapping[str, str]) -> list[str]:
    """The values of headers (`api-key=…,x=…`, percent-encoded), and the endpoints, which may hold a password."""
    values = [pair.partition("=")[2].strip() for name in _HEADERS for pair in given.get(name, "").split(",")]
    endpoints = [value for name, value in given.items() if name.endswith("_ENDPOINT") and "@" in value]
    return [secret for value in values for secret in {value, unquote(value)} if secret] + endpoints

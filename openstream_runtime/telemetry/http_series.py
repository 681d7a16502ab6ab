"""What is counted of HTTP: how long requests took and how they ended, by method and route template."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from openstream_runtime.telemetry.series import Names

# Up to 30 s and more, because a long-poll may wait that long (API.md: `block_ms`).
REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: More routes than the edge has. The bound holds when somebody passes a raw path one day.
_MOST_PATHS = 256


class HttpSeries:
    """Bound children for each (method, path, status), found by that tuple."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "openstream_http_request_duration_seconds",
            "How long HTTP requests took, long-polls included, by method and route.",
            ("method", "path"),
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        self._responses = Counter(
            "openstream_http_responses_total",
            "HTTP responses by method, route and status.",
            ("method", "path", "status"),
            registry=registry,
        )
        self._paths = Names(_MOST_PATHS)
        self._bound: dict[tuple[str, str, int], tuple[Histogram, Counter]] = {}

    def observe(self, method: str, path: str, status: int, seconds: float) -> None:
        bound = self._bound.get((method, path, status)) or self._bind(method, path, status)
        bound[0].observe(seconds)
        bound[1].inc()

    def _bind(self, method: str, path: str, status: int) -> tuple[Histogram, Counter]:
        known_method = method if method in _METHODS else "OTHER"
        known_path = self._paths[path]
        known_status = status if 100 <= status <= 599 else 0
        bound = (
            self._seconds.labels(known_method, known_path),
            self._responses.labels(known_method, known_path, str(known_status)),
        )
        if (known_method, known_path, known_status) == (method, path, status):
            self._bound[method, path, status] = bound  # only what is bounded is remembered
        return bound

"""/metrics as bytes: Prometheus text or OpenMetrics, as the scraper's `Accept` header asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

# Versions the encoder writes. For any other it raises a TypeError (`abc`) or promises a version it does not know
# (`99.0.0`), and the header is a stranger's.
_VERSIONS = frozenset({"0.0.1", "0.0.4", "1.0.0"})


class _WithoutCreated(Collector):
    """The metrics without their `_created` samples: those double the counters' series, and nobody reads them."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterator[Metric]:
        for metric in self._collector.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


def render(collector: Collector, accept: str) -> tuple[str, bytes]:
    """Content type and body. An `Accept` that is empty, broken or asks for something else gets the text format."""
    encode, content_type = choose_encoder(",".join(_understood(accept.split(","))))
    return content_type, encode(_WithoutCreated(collector))


def _understood(ranges: Iterable[str]) -> Iterator[str]:
    for media_range in ranges:
        parameters = [part.strip() for part in media_range.split(";")]
        versions = [part.partition("=")[2] for part in parameters if part.startswith("version=")]
        if all(version in _VERSIONS for version in versions):
            yield ";".join(parameters)

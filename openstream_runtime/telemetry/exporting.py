"""The way to telemetry that leaves the node: nothing, not even an import, while nobody asked for any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openstream_runtime.export import Export

if TYPE_CHECKING:
    from openstream_runtime.telemetry.otlp import Otlp


def start(export: Export, *, version: str, node: str) -> Otlp | None:
    """Begin to export; None when there is nothing to."""
    if export.traces is None and export.logs is None:
        return None
    # Here and not above: it brings protobuf, requests and the SDK's tracing, a hundred modules most nodes do without.
    from openstream_runtime.telemetry.otlp import Otlp

    return Otlp(export, version=version, node=node)

"""The composition root of a node: the runtime, with this edge in front."""

from __future__ import annotations

import structlog

from openstream_http.app import create_app
from openstream_http.server import HttpServer
from openstream_runtime import node
from openstream_runtime.gateway.gateway import Gateway
from openstream_runtime.ports.meter import Meter
from openstream_runtime.settings import Settings
from supervisors import ChildSpec

_log = structlog.get_logger(__name__)


def run_node(settings: Settings) -> int:
    """Run a node until a signal; its exit code."""

    def front(gateway: Gateway, meter: Meter) -> ChildSpec:
        grace = node.front_grace(settings)

        def build() -> HttpServer:
            return HttpServer(
                create_app(gateway, settings, meter=meter, clock=node.SystemClock(), tracer=gateway.tracer),
                host=settings.host,
                port=settings.port,
                grace=grace,
                max_connections=settings.max_connections,
                on_listening=lambda host, port: _log.info("listening", url=f"http://{host}:{port}"),
            )

        return ChildSpec(id="http", actor=build, grace=grace + 2)

    return node.run_node(settings, front)

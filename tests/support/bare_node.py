"""A node process without the edge, for tests of how a node starts and ends: `python -m support.bare_node FAULT`.

Its front prints `ready`. FAULT is one of: none; `persister` (reading from the log raises); `front` (the front raises at
its start); `deaf` (the front ignores a stop).
"""

from __future__ import annotations

import os
import sys
from typing import Any

import anyio

from openstream_runtime import node, tree
from openstream_runtime.domain.topics import TopicSettings
from openstream_runtime.gateway.gateway import Gateway
from openstream_runtime.log.streams import RedisEvents
from openstream_runtime.ports.meter import Meter
from openstream_runtime.settings import Settings
from supervisors import Backoff, ChildSpec, Context


class Front:
    """In the place of the HTTP server."""

    def __init__(self, gateway: Gateway, fault: str) -> None:
        self._gateway, self._fault = gateway, fault

    async def run(self, ctx: Context) -> None:
        if self._fault == "front":
            raise OSError("cannot listen")
        if self._fault == "persister":
            await self._gateway.put_topic(f"bare.{os.getpid()}", 1, TopicSettings())
        ctx.ready()
        print("ready", flush=True)
        if self._fault == "deaf":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(600)
        await ctx.stopping.wait()


async def _breaks(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a hopeless persister")


def main() -> int:
    fault = sys.argv[1] if len(sys.argv) > 1 else "none"
    if fault == "persister":
        RedisEvents.read_after = _breaks  # type: ignore[method-assign]
        tree.SLOWLY = Backoff()  # the pauses of the real one are tested on virtual time

    def front(gateway: Gateway, _: Meter) -> ChildSpec:
        return ChildSpec(id="http", actor=lambda: Front(gateway, fault), grace=1.0)

    return node.run_node(Settings.from_env(os.environ), front)


if __name__ == "__main__":
    sys.exit(main())

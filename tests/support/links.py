"""The network between one simulated node and its servers: every call takes a while, and may be held for long.

A call that is held has not been carried out, or has and its answer is on the way: chance decides. So a node that was
held wakes up in the middle of what it was about to do, as a paused process does.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

#: Seconds one way. Mostly none, so that a run stays short; the others let calls overtake each other.
LATENCIES = (0.0, 0.0, 0.0, 0.001, 0.004, 0.03)


class Links:
    """`links(port)` is the port as seen through them."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._held: anyio.Event | None = None

    def hold(self) -> None:
        """Nothing passes from now on, in either direction."""
        self._held = self._held or anyio.Event()

    def release(self) -> None:
        """The end of `hold`: everything arrives."""
        if self._held is not None:
            self._held.set()
            self._held = None

    async def _pass(self) -> None:
        latency = self._chance.choice(LATENCIES)
        await (anyio.sleep(latency) if latency else checkpoint())
        if self._held is not None:
            await self._held.wait()

    def __call__(self, port: Any) -> Any:
        return _Seen(port, self._pass)


class _Seen:
    """A port, each of whose async methods goes through the links."""

    def __init__(self, port: Any, passing: Callable[[], Awaitable[None]]) -> None:
        self._port = port
        self._passing = passing

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def through(*arguments: Any, **options: Any) -> Any:
            await self._passing()
            answer = await found(*arguments, **options)
            await self._passing()
            return answer

        return through

"""Waking everybody who waits for a change, as often as there are changes: anyio's Event rings only once."""

from __future__ import annotations

import anyio


class Bell:
    """`while not condition: await bell.wait()`; whoever changes the condition rings. Nothing runs in between."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def ring(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()

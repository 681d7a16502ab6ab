"""How an actor waits: between rounds, and between attempts when a backend is away. Always with jitter."""

from __future__ import annotations

import random

import anyio

from supervisors import Context


class Retry:
    """Jittered exponential delay for expected trouble, 0.1 s up to `most`; reset by success."""

    def __init__(self, *, first: float = 0.1, most: float = 5.0) -> None:
        self._first = first
        self._most = most
        self._failures = 0

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._failures

    def succeeded(self) -> None:
        self._failures = 0

    def delay(self) -> float:
        """Seconds to wait after one more failure: between half and all of the doubled step."""
        step: float = min(self._most, self._first * 2 ** min(self._failures, 16))
        self._failures += 1
        return step * random.uniform(0.5, 1.0)  # noqa: S311 (nothing to guess)


def jittered(seconds: float) -> float:
    """About so many seconds, so that equals do not move in step."""
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 (nothing to guess)


async def pause(ctx: Context, seconds: float) -> None:
    """Sleep, unless the actor is asked to stop."""
    with ctx.interruptible():
        await anyio.sleep(seconds)


async def until_told(ctx: Context, event: anyio.Event, seconds: float) -> None:
    """Sleep until the event, the end of the time, or a request to stop."""
    with ctx.interruptible(), anyio.move_on_after(seconds):
        await event.wait()

"""How long to wait before the next try: what the node asks for, spread so that not everybody comes back at once."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from openstream_client.errors import Retryable

T = TypeVar("T")


class Backoff:
    """Grows from `first` to `longest` while tries fail. One per loop of tries."""

    def __init__(self, first: float = 0.1, longest: float = 5.0, spread: Callable[[], float] = random.random) -> None:
        self._first = first
        self._longest = longest
        self._spread = spread
        self._failures = 0

    def worked(self) -> None:
        self._failures = 0

    def pause(self, asked: float | None = None) -> float:
        """Seconds to wait after one more failure; never less than what the node `asked` for."""
        step = min(self._longest, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        if asked is None:
            return step * (0.5 + self._spread() / 2)
        return asked + min(step, max(asked, self._first)) * self._spread() / 2


async def patiently(do: Callable[[], Awaitable[T]], *, give_up_after: float, backoff: Backoff | None = None) -> T:
    """`do()`, again and again while nothing was kept; the last Retryable once `give_up_after` seconds would be over."""
    backoff = backoff or Backoff()
    deadline = anyio.current_time() + give_up_after
    while True:
        try:
            return await do()
        except Retryable as trouble:
            pause = backoff.pause(trouble.retry_after)
            if anyio.current_time() + pause > deadline:
                raise
        await anyio.sleep(pause)

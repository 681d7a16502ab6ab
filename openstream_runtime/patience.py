"""Waiting for a backend that may come up after us, and may go away again while we start."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio
import structlog

from openstream_runtime.actors.pacing import Retry
from openstream_runtime.domain.errors import OutcomeUnknown, Unavailable

_log = structlog.get_logger(__name__)


async def insist(name: str, attempt: Callable[[], Awaitable[object]], patience: float, stop: anyio.Event) -> bool:
    """Try until a backend answers: it may come up after us. False when asked to stop; Unavailable at the end."""
    retry = Retry(first=0.2, most=3.0)
    began = time.monotonic()
    while not stop.is_set():
        try:
            await unless(stop, attempt)
        except (Unavailable, OutcomeUnknown) as error:
            waited = time.monotonic() - began
            if waited > patience:
                raise Unavailable(f"{name} did not answer within {patience:.0f} s: {error}") from error
            _log.warning(f"waiting for {name}", error=str(error), waited_s=round(waited, 1), patience_s=patience)
            with anyio.move_on_after(retry.delay()):
                await stop.wait()
        else:
            return not stop.is_set()
    return False


async def unless(stop: anyio.Event, attempt: Callable[[], Awaitable[object]]) -> None:
    """Attempt something, and let go of it when asked to stop: a backend that does not answer must not keep us."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:

        async def give_up() -> None:
            await stop.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(give_up)
        try:
            await attempt()
        except Exception as error:
            failure = error  # out of the group, so that it stays bare
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure

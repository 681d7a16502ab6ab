"""Waiting for a backend ends with it, with the end of patience, or with a stop."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from openstream_runtime.domain.errors import OutcomeUnknown, Unavailable
from openstream_runtime.patience import insist

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_insisting_ends_with_success_patience_or_a_stop() -> None:
    attempts: list[int] = []

    async def third_time() -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise (Unavailable if len(attempts) == 1 else OutcomeUnknown)("not yet")

    assert await insist("it", third_time, 10, anyio.Event())
    assert len(attempts) == 3

    async def never() -> None:
        raise Unavailable("no")

    with pytest.raises(Unavailable, match="it did not answer"):
        await insist("it", never, 0.1, anyio.Event())
    stop = anyio.Event()
    stop.set()
    assert not await insist("it", never, 10, stop)

    async def wrong() -> None:
        raise ValueError("not about being away")

    with pytest.raises(ValueError, match="about"):
        await insist("it", wrong, 10, anyio.Event())


async def test_an_attempt_that_hangs_is_let_go_of_at_the_stop() -> None:
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_after, 0.05, stop.set)
        with anyio.fail_after(5):
            assert not await insist("it", anyio.sleep_forever, 60, stop)


async def _after(seconds: float, action: Callable[[], None]) -> None:
    await anyio.sleep(seconds)
    action()

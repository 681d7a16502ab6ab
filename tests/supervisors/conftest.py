"""Both backends on a virtual clock, and a kind of child that logs its life and crashes on demand.

Time costs nothing here: when every task waits, the clock jumps to the next deadline. So tests use whole seconds, and
no test depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import Event
from trio.testing import MockClock

from supervisors import ChildSpec, Context, Supervisor, TreeEvent, run


class _AutojumpSelector(selectors.SelectSelector):
    """Instead of sleeping, it moves the clock; what is ready comes first."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self.now += timeout
        return ready


class AutojumpLoop(asyncio.SelectorEventLoop):
    """asyncio with what trio calls an autojump clock."""

    def __init__(self) -> None:
        self._clock = _AutojumpSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    if request.param == "asyncio":
        return "asyncio", {"loop_factory": AutojumpLoop}
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def log() -> list[str]:
    """Lives in order: `+a` when a child's life begins, `-a` when it is over."""
    return []


@pytest.fixture
def events() -> list[TreeEvent]:
    return []


@pytest.fixture
def orders() -> dict[str, Event]:
    return {}


@pytest.fixture
def crash(orders: dict[str, Event]) -> Callable[[str], None]:
    """Make the present life of an obedient child raise ValueError."""
    return lambda child_id: orders[child_id].set()


@pytest.fixture
def spec(log: list[str], orders: dict[str, Event]) -> Callable[..., ChildSpec]:
    """A child that logs; it is obedient, or does what is given instead."""

    async def obey(ctx: Context) -> None:
        orders[ctx.name] = Event()
        ctx.ready()
        with ctx.interruptible():
            await orders[ctx.name].wait()
            raise ValueError(ctx.name)

    class Logged:
        def __init__(self, child_id: str, behaviour: Callable[[Context], Awaitable[None]]) -> None:
            self.child_id = child_id
            self.behaviour = behaviour

        async def run(self, ctx: Context) -> None:
            log.append(f"+{self.child_id}")
            try:
                await self.behaviour(ctx)
            finally:
                log.append(f"-{self.child_id}")

    def make(child_id: str, behaviour: Callable[[Context], Awaitable[None]] = obey, **options: Any) -> ChildSpec:
        return ChildSpec(id=child_id, actor=partial(Logged, child_id, behaviour), **{"grace": 1.0, **options})

    return make


@pytest.fixture
def running(events: list[TreeEvent]) -> Callable[[Supervisor], AbstractAsyncContextManager[None]]:
    """A tree that is ready; it is stopped in order when the block ends."""

    @asynccontextmanager
    async def running(tree: Supervisor) -> AsyncIterator[None]:
        stop = Event()
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(run, tree, stop=stop, observer=events.append))
            yield
            stop.set()

    return running

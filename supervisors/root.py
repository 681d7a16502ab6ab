"""run: a supervisor as the root of a process."""

from __future__ import annotations

from typing import Protocol

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from supervisors.context import Context
from supervisors.events import Observer
from supervisors.spec import Actor


class Signal(Protocol):
    """Anything to wait for: anyio's Event, asyncio's, trio's."""

    async def wait(self) -> object:
        """Return once the signal was given."""


async def run(
    root: Actor,
    *,
    name: str = "root",
    stop: Signal | None = None,
    observer: Observer | None = None,
    task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
) -> None:
    """Run the root of a tree until `stop` is given, it gives up, or it is cancelled.

    All three end in the same way: the children are stopped in reverse order, each within its grace. Asked by `stop` it
    then returns normally; out of budget it raises RestartLimitExceeded, bare; cancelled it stays cancelled. With
    `await task_group.start(partial(run, root))` the caller goes on once the whole tree is ready.
    """
    ctx = Context(name, observer=observer, on_ready=task_status.started)
    failure: Exception | None = None

    async def ask_when_signalled(signal: Signal) -> None:
        await signal.wait()
        ctx.ask_to_stop()

    async with anyio.create_task_group() as tasks:
        if stop is not None:
            tasks.start_soon(ask_when_signalled, stop)
        try:
            await root.run(ctx)
        except Exception as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure

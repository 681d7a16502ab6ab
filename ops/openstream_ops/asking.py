"""A command's work with a client: opened, run, interrupted, and its failure turned into a sentence and an exit code."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import anyio

from openstream_client import errors
from openstream_client.client import OpenStream
from openstream_ops import context
from openstream_ops.errors import GaveUp, Interrupted, NotAllowed, OpsError, OutOfReach, Refused

T = TypeVar("T")


class Stop:
    """Whether somebody asked us to stop. Once: what is on its way is finished. Twice: it is not."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.hurried = False

    @property
    def requested(self) -> bool:
        return self.asked.is_set()

    async def pause(self, seconds: float) -> bool:
        """Wait; False when it is time to stop."""
        with anyio.move_on_after(seconds):
            await self.asked.wait()
        return not self.requested


def ask(work: Callable[[OpenStream], Awaitable[T]], url: str | None, token_file: Path | None) -> T:
    """`work(client)`. Ctrl-C ends it at once."""
    return _told(lambda target: anyio.run(_with_client, work, target), url, token_file)


def ask_until_stopped(work: Callable[[OpenStream, Stop], Awaitable[T]], url: str | None, token_file: Path | None) -> T:
    """`work(client, stop)`, which looks at `stop` and ends in its own order; a second Ctrl-C ends it at once."""
    return _told(lambda target: anyio.run(_with_stop, work, target), url, token_file)


async def _with_client(work: Callable[[OpenStream], Awaitable[T]], target: context.Target) -> T:
    async with OpenStream(target.urls, target.token) as client:
        return await work(client)


async def _with_stop(work: Callable[[OpenStream, Stop], Awaitable[T]], target: context.Target) -> T:
    stop = Stop()
    async with anyio.create_task_group() as tasks:
        await tasks.start(_listen, stop, tasks.cancel_scope)
        async with OpenStream(target.urls, target.token) as client:
            result = await work(client, stop)
        tasks.cancel_scope.cancel()
        return result
    raise Interrupted("interrupted before everything on its way was answered")


async def _listen(
    stop: Stop, scope: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if stop.requested:
                stop.hurried = True
                scope.cancel()
                return
            stop.asked.set()


def _told(run: Callable[[context.Target], T], url: str | None, token_file: Path | None) -> T:
    target = context.resolve(url, token_file, os.environ)
    try:
        return run(target)
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    except BaseExceptionGroup as group:
        raise _as_ops_error(_only(group), target) from group
    except errors.ClientError as error:
        raise as_ops_error(error, target) from error


def _only(error: BaseException) -> BaseException:
    """What a group of one is about: the tasks beside the work are ours and do not fail."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _as_ops_error(error: BaseException, target: context.Target) -> BaseException:
    return as_ops_error(error, target) if isinstance(error, errors.ClientError) else error


def as_ops_error(error: errors.ClientError, target: context.Target) -> OpsError:
    """The one table from what the client was told to what the shell sees."""
    match error:
        case errors.Unreachable():
            named = f"{target.named_by} names {', '.join(target.urls)}"
            return OutOfReach(error.detail, f"is it running? {named}; `openstream dev` starts one here")
        case errors.Unauthenticated() if target.token is None:
            hint = "set OPENSTREAM_TOKEN or --token-file; `openstream token mint` makes one"
            return NotAllowed("no token is set", hint)
        case errors.Unauthenticated():
            return NotAllowed(error.detail, "it may have expired; `openstream token mint` makes another")
        case errors.Forbidden():
            return NotAllowed(error.detail, "`openstream doctor` says which role this token has")
        case errors.Retryable():
            return GaveUp(error.detail, "nothing of it was kept; try again later")
        case errors.OutcomeUnknown():
            return Refused(error.detail, "look whether it is there before you send it again")
        case errors.NotFound():
            return Refused(error.detail, "`openstream topic list` and `openstream group list TOPIC` show what there is")
        case errors.Rejected() if error.errors:
            first = error.errors[0]
            where = ".".join(str(part) for part in first.get("loc", ()))
            return Refused(error.detail, f"at {where}" if where and where not in error.detail else None)
    return Refused(error.detail)

"""A file or a pipe of events, produced in order: one request on its way while the next one is read.

An interruption ends after the answer to that request; what was acknowledged is in the state and is never sent again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import to_thread

from openstream_client.batch import Batch
from openstream_client.client import OpenStream
from openstream_client.delivery import deliver
from openstream_client.errors import ClientError, OutcomeUnknown, PartlyDone
from openstream_ops.asking import Stop
from openstream_ops.errors import Interrupted, OpsError, Refused
from openstream_ops.import_state import ImportState, Sending
from openstream_ops.line_file import Chunk, LineFile, Reject
from openstream_ops.pipe import Pipe


@dataclass(frozen=True)
class Plan:
    """What to send and how."""

    topic: str
    ack: str
    partitions: int | None
    #: Seconds of overload after which we give up.
    give_up_after: float
    #: None: nothing is remembered (a pipe).
    state_path: Path | None


class FileProducer:
    """One run over one file."""

    def __init__(
        self,
        client: OpenStream,
        plan: Plan,
        file: LineFile,
        state: ImportState,
        *,
        pipe: Pipe | None = None,
        on_reject: Callable[[Reject], None],
        on_progress: Callable[[ImportState], None],
    ) -> None:
        self._client = client
        self._plan = plan
        self._file = file
        self._pipe = pipe
        self._state = state
        self._on_reject = on_reject
        self._on_progress = on_progress

    async def run(self, stop: Stop) -> None:
        """Until the end of the file; Interrupted when it was stopped before."""
        chunk = await self._next_unless(stop)
        while chunk is not None and not stop.requested:
            following: list[Chunk | None] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read_ahead, stop, following)
                await self._send(chunk)
            chunk = following[0]
        if stop.requested:
            raise self._interrupted()
        if self._plan.state_path is not None:
            self._plan.state_path.unlink(missing_ok=True)

    async def _read_ahead(self, stop: Stop, into: list[Chunk | None]) -> None:
        into.append(await self._next_unless(stop))

    async def _next_unless(self, stop: Stop) -> Chunk | None:
        """The next chunk; None at the end, and when we are stopped while a pipe says nothing."""
        chunk = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when, stop, tasks.cancel_scope)
            chunk = await self._next()
            tasks.cancel_scope.cancel()
        return chunk

    async def _next(self) -> Chunk | None:
        if self._pipe is None:
            return await to_thread.run_sync(self._file.next_chunk)
        while True:
            await self._pipe.fill()
            chunk = self._file.next_chunk()
            if chunk is not None or self._pipe.at_end:
                return chunk

    async def _send(self, chunk: Chunk) -> None:
        state = self._state
        for reject in chunk.rejects:
            self._reject(reject)
        if chunk.events:
            state.sending = Sending(chunk.last, chunk.offset)
            self._save()
            batch = Batch(len(chunk.events), 1 << 62)
            for event in chunk.events:
                batch.add(event)
            try:
                await deliver(
                    self._client,
                    self._plan.topic,
                    batch,
                    ack=self._plan.ack,
                    give_up_after=self._plan.give_up_after,
                    partitions=self._plan.partitions,
                )
            except OutcomeUnknown as error:
                raise self._unknown(chunk, error) from error
            except ClientError:
                if not any(batch.outcomes):  # nothing of this request was kept, so nothing is on its way any more
                    state.sending = None
                    self._save()
                raise
            self._settle(chunk, batch)
        state.advance(chunk.last, chunk.offset)
        self._save()
        self._on_progress(state)

    def _settle(self, chunk: Chunk, batch: Batch) -> None:
        for place, outcome in enumerate(batch.outcomes):
            match outcome:
                case OutcomeUnknown() | PartlyDone():
                    raise self._unknown(chunk, outcome)
                case ClientError():
                    self._reject(Reject(chunk.lines[place], outcome.detail, chunk.texts[place]))
                case _:
                    self._state.sent += 1

    def _reject(self, reject: Reject) -> None:
        self._state.rejected += 1
        self._on_reject(reject)

    def _save(self) -> None:
        if self._plan.state_path is not None:
            self._state.save(self._plan.state_path)

    def _interrupted(self) -> Interrupted:
        where = f"after line {self._state.line:,}; {self._state.sent:,} events are in"
        again = None if self._plan.state_path is None else "the same command goes on from there"
        return Interrupted(f"interrupted {where}", again)

    def _unknown(self, chunk: Chunk, error: ClientError) -> OpsError:
        lines = f"lines {chunk.first:,} to {chunk.last:,}"
        hint = f"look whether {lines} are in, then go on with --unknown skip, or --unknown repeat"
        return Refused(f"{lines} may be in or not: {error.detail}", None if self._plan.state_path is None else hint)


def go_on(state: ImportState, unknown: str, path: Path) -> None:
    """Decide about a request whose outcome was never learnt: `skip` takes it for kept, `repeat` for lost."""
    if state.sending is None:
        return
    lines = f"lines {state.line + 1:,} to {state.sending.line:,}"
    if unknown == "stop":
        raise Refused(
            f"the run before ended before it knew whether {lines} are in ({path})",
            "look whether they are, then --unknown skip (they are) or --unknown repeat (they are not)",
        )
    if unknown == "skip":
        state.advance(state.sending.line, state.sending.offset)
    state.sending = None


async def _cancel_when(stop: Stop, scope: anyio.CancelScope) -> None:
    await stop.asked.wait()
    scope.cancel()

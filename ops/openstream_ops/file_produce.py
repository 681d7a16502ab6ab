"""A file or a pipe of events, produced in order: one request on its way while the next one is read.

An interruption ends after the answer to that request. Requests are numbered, and the state beside the file knows the
number: a request whose answer was lost, or never waited for, is sent again as it was, and the node keeps it once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import to_thread

from openstream_client.batch import Batch
from openstream_client.client import OpenStream
from openstream_client.delivery import deliver_numbered
from openstream_client.errors import ClientError, OutcomeUnknown, OutOfSequence, PartlyDone, SequenceReused, StaleEpoch
from openstream_client.numbering import Numbering, Stamp
from openstream_ops.asking import Stop
from openstream_ops.errors import Interrupted, OpsError, Refused
from openstream_ops.import_state import ImportState, Sending
from openstream_ops.line_file import Chunk, LineFile, Reject
from openstream_ops.pipe import Pipe

#: The node knows our numbers, and not with what we send.
_ASTRAY = (OutOfSequence, SequenceReused, StaleEpoch)


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
    #: What to do with a request whose outcome no node can tell any more: stop, skip (it is in) or repeat (it is not).
    unknown: str = "stop"


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
        self._again = None if state.sending is None else state.sending.offset
        self._numbering = Numbering(state.stamp, unsure=state.sending is not None, on_anew=self._begin_anew)

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
            # What was on its way when the run before ended is cut as it was then, to be the same request.
            again, self._again = self._again, None
            return await to_thread.run_sync(self._file.next_chunk, again)
        while True:
            await self._pipe.fill()
            chunk = self._file.next_chunk()
            if chunk is not None or self._pipe.at_end:
                return chunk

    async def _send(self, chunk: Chunk) -> None:
        state = self._state
        if chunk.events:
            state.sending = Sending(chunk.last, chunk.offset)
            self._save()
            await self._deliver(chunk)
        for reject in chunk.rejects:
            self._reject(reject)
        state.stamp = self._numbering.stamp
        state.advance(chunk.last, chunk.offset)
        self._save()
        self._on_progress(state)

    async def _deliver(self, chunk: Chunk) -> None:
        batch = Batch(len(chunk.events), 1 << 62)
        for event in chunk.events:
            batch.add(event)
        while True:
            try:
                await deliver_numbered(
                    self._client,
                    self._plan.topic,
                    batch,
                    self._numbering,
                    ack=self._plan.ack,
                    give_up_after=self._plan.give_up_after,
                    partitions=self._plan.partitions,
                )
            except OutcomeUnknown as error:
                if isinstance(error.__cause__, _ASTRAY):
                    raise self._astray(chunk, error.__cause__) from error
                if error.slug != "unknown-producer" or self._plan.unknown == "stop":
                    raise self._unknown(chunk, error) from error
                skip = self._plan.unknown == "skip"
                if skip:  # remembered with the new epoch: it must not be sent under that one either
                    self._state.sent += len(batch.open_places())
                    self._state.advance(chunk.last, chunk.offset)
                self._numbering.begin_anew()
                if skip:
                    return
            except _ASTRAY as error:
                raise self._astray(chunk, error) from error
            except PartlyDone as error:
                raise self._unknown(chunk, error) from error
            except ClientError:
                if not self._numbering.unsure:  # nothing of this request was kept, so nothing is on its way any more
                    self._state.sending = None
                    self._numbering.begin_anew()
                raise
            else:
                self._settle(chunk, batch)
                return

    def _settle(self, chunk: Chunk, batch: Batch) -> None:
        for place, outcome in enumerate(batch.outcomes):
            if isinstance(outcome, ClientError):
                self._reject(Reject(chunk.lines[place], outcome.detail, chunk.texts[place]))
            else:
                self._state.sent += 1

    def _begin_anew(self, stamp: Stamp) -> None:
        """Remembered before it is used: a request under a number that the next run does not know would be doubled."""
        self._state.stamp = stamp
        self._save()

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
        if self._plan.state_path is None:
            hint = None
        elif error.slug == "unknown-producer":
            hint = f"look whether {lines} are in, then go on with --unknown skip (they are) or --unknown repeat"
        else:
            hint = "the same command asks for them again, and nothing is doubled"
        return Refused(f"{lines} may be in or not: {error.detail}", hint)

    def _astray(self, chunk: Chunk, error: ClientError) -> OpsError:
        """Somebody else goes on with our numbers, or the lines are not what they were."""
        lines = f"lines {chunk.first:,} to {chunk.last:,}"
        hint = "does another run of this command go on with the file, or was the file changed?"
        return Refused(f"{lines} were not taken now: {error.detail}", hint)


async def _cancel_when(stop: Stop, scope: anyio.CancelScope) -> None:
    await stop.asked.wait()
    scope.cancel()

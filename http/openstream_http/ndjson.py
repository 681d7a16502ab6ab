"""Producing without a limit: one event a line, appended in chunks while the rest is still on its way.

Memory holds a chunk, a line and what the connection has read ahead, whatever the length of the body; the results
wait in a temporary file. When the log is full we wait, read nothing, and TCP slows the client down. Chunks that wait
for PostgreSQL do so side by side, appended one after the other: else each would pay for a commit of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from tempfile import SpooledTemporaryFile
from typing import Any, TypeVar

from anyio import Event, create_task_group, sleep, to_thread
from anyio.abc import TaskGroup

from openstream_http.bodies import chunks
from openstream_http.budget import Hold
from openstream_http.edge import edge
from openstream_http.problems import (
    BODY_TOO_LARGE,
    OUTCOME_UNKNOWN,
    PARTLY_DONE,
    RETRY_AFTER_MS,
    Problem,
    invalid,
    of_error,
)
from openstream_http.producing import next_stamp
from openstream_http.rendering import placed, produced_end, produced_head
from openstream_runtime.domain.errors import OpenStreamError, Overloaded
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.producers import Stamp
from openstream_runtime.gateway.gateway import Gateway
from openstream_runtime.gateway.results import Ack, Produced

CHUNK_EVENTS = 1_000
CHUNK_BYTES = 1 << 20
#: Results in memory; the rest goes to a file. 40 bytes a result.
SPOOL_BYTES = 1 << 20
#: What a request has in memory, ordinary lines assumed: lines on their way, events, results.
HELD_BYTES = 2 * CHUNK_BYTES + SPOOL_BYTES
#: Chunks of a request that may wait for PostgreSQL, the one that is being read included.
WINDOW = 4
#: Seconds a chunk waits for room in the log before the request gives up.
MAX_WAIT = 30.0
_LONGEST_PAUSE = 2.0
_PIECE = 64 << 10

_A = TypeVar("_A")
_R = TypeVar("_R")


class _Sent:
    """A chunk on its way: first Redis has it, then it is done."""

    def __init__(self, chunk: list[NewEvent], line: int, stamp: Stamp | None) -> None:
        self.chunk = chunk
        self.line = line
        self.stamp = stamp
        #: Redis has it, or it is done.
        self.appended = Event()
        self.done = Event()
        self.produced: Produced | None = None
        self.failure: Exception | None = None


class LineProducer:
    """One request. `parse(line, number)` makes an event or raises a Problem."""

    def __init__(
        self,
        gateway: Gateway,
        topic: str,
        *,
        partitions: int | None,
        ack: Ack,
        stamp: Stamp | None = None,
        parse: Callable[[bytes, int], NewEvent],
    ) -> None:
        self._gateway = gateway
        self._topic = topic
        self._partitions = partitions
        self._ack = ack
        self._stamp = stamp
        self._parse = parse
        self._line_limit = edge().settings.max_body_bytes
        self._spool: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - close()
        self._spooled = 0
        self._chunk: list[NewEvent] = []
        self._chunk_bytes = 0
        #: The line of the chunk's first event.
        self._chunk_line = 1
        self._line = 0
        self._appended = 0
        #: Events in chunks that were sent, and events that were there before.
        self._begun = 0
        self._duplicates = 0
        self._stands: tuple[str, int] | None = None
        self._window = WINDOW if ack is Ack.PERSISTED else 1
        self._sent: deque[_Sent] = deque()

    async def consume(self, hold: Hold) -> None:
        """Append every line of the request's body; a Problem says how far it came (`appended`, `line`)."""
        hold.grow((self._window - 1) * CHUNK_BYTES)
        failure: Exception | None = None
        async with create_task_group() as tasks:
            try:
                await self._consume(hold, tasks)
            except Exception as error:
                failure = error  # out of the group, so that it stays bare
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _consume(self, hold: Hold, tasks: TaskGroup) -> None:
        rest = bytearray()
        try:
            async for piece in chunks():
                rest += piece
                if len(rest) > CHUNK_BYTES:  # a line longer than what HELD_BYTES counts on
                    hold.grow(len(piece))
                if b"\n" not in piece:
                    self._check_length(rest)
                    continue
                *lines, last = rest.split(b"\n")
                rest = last
                for line in lines:
                    await self._take(bytes(line), tasks)
                self._check_length(rest)
            await self._take(bytes(rest), tasks)
        except Problem as problem:
            # What stood before a bad line is in order and goes in, so that `appended` says where to go on.
            await self._finish(tasks)
            raise self._so_far(problem, self._line) from None
        await self._finish(tasks)
        if not self._appended:
            raise invalid("expected at least one line with an event")

    def close(self) -> None:
        """Give the results up. Closing a file that has no name waits for nothing."""
        self._spool.close()

    def answer(self) -> tuple[int, AsyncIterator[bytes]]:
        """The length of the answer, and the answer in pieces."""
        if self._stands is None:  # pragma: no cover - consume() raises when nothing was appended
            raise RuntimeError("nothing was appended")
        head = produced_head(*self._stands)
        end = produced_end(self._duplicates == self._appended)
        return len(head) + self._spooled + len(end), self._pieces(head, end)

    async def _pieces(self, head: bytes, end: bytes) -> AsyncIterator[bytes]:
        yield head
        self._spool.seek(0)
        while piece := await self._on_file(self._spool.read, _PIECE):
            yield piece
        yield end

    async def _keep(self, results: bytes) -> None:
        self._spooled += len(results)
        await self._on_file(self._spool.write, results)

    async def _on_file(self, do: Callable[[_A], _R], argument: _A) -> _R:
        """In a thread once it is a file; at once while it is memory."""
        return await to_thread.run_sync(do, argument) if self._spooled > SPOOL_BYTES else do(argument)

    def _check_length(self, line: bytearray) -> None:
        if len(line) > self._line_limit:
            self._line += 1
            raise Problem(BODY_TOO_LARGE, f"a line has more than {self._line_limit} bytes", max_bytes=self._line_limit)

    async def _take(self, line: bytes, tasks: TaskGroup) -> None:
        self._line += 1
        if len(line) > self._line_limit:
            raise Problem(BODY_TOO_LARGE, f"a line has more than {self._line_limit} bytes", max_bytes=self._line_limit)
        if not line.strip():
            return
        event = self._parse(line, self._line)
        if not self._chunk:
            self._chunk_line = self._line
        self._chunk.append(event)
        self._chunk_bytes += event.size()
        if len(self._chunk) >= CHUNK_EVENTS or self._chunk_bytes >= CHUNK_BYTES:
            await self._flush(tasks)

    async def _finish(self, tasks: TaskGroup) -> None:
        await self._flush(tasks)
        while self._sent:
            await self._collect()

    async def _flush(self, tasks: TaskGroup) -> None:
        """Send the chunk. Returns when it stands in the log and there is room in the window for another one."""
        if not self._chunk:
            return
        sent = _Sent(self._chunk, self._chunk_line, next_stamp(self._stamp, self._begun, len(self._chunk)))
        self._begun += len(self._chunk)
        self._chunk, self._chunk_bytes = [], 0  # a new one: the node may still hold the old
        self._sent.append(sent)
        tasks.start_soon(self._send, sent)
        await sent.appended.wait()  # the next one must not overtake it
        while len(self._sent) >= self._window or (self._sent and sent.failure is not None):
            await self._collect()

    async def _send(self, sent: _Sent) -> None:
        waited = 0.0
        try:
            while sent.produced is None:
                try:
                    sent.produced = await self._gateway.produce(
                        self._topic,
                        sent.chunk,
                        partitions=self._partitions,
                        ack=self._ack,
                        on_appended=sent.appended.set if self._window > 1 else None,
                        stamp=sent.stamp,
                    )
                except Overloaded as error:
                    pause = min(_LONGEST_PAUSE, error.facts.get("retry_after_ms", RETRY_AFTER_MS) / 1000)
                    if waited + pause > MAX_WAIT:
                        raise
                    waited += pause
                    await sleep(pause)  # nothing reads the body meanwhile: this is the backpressure
        except Exception as error:
            sent.failure = error  # told in the order of the chunks
        sent.appended.set()
        sent.done.set()

    async def _collect(self) -> None:
        """What became of the oldest chunk: its results, or the end of the request."""
        sent = self._sent[0]
        await sent.done.wait()
        self._sent.popleft()
        if isinstance(sent.failure, OpenStreamError):
            raise self._stopped(sent.failure, sent.line) from None
        if sent.failure is not None:
            raise sent.failure
        if sent.produced is None:  # pragma: no cover - what is done has failed or not
            raise RuntimeError("a chunk is done and nothing became of it")
        results = placed(sent.produced.results, sent.produced.duplicates)
        self._duplicates += len(sent.produced.duplicates)
        await self._keep(b"," + results if self._appended else results)
        self._appended += len(sent.chunk)
        self._stands = (sent.produced.topic, sent.produced.partitions)

    def _stopped(self, error: OpenStreamError, line: int) -> Problem:
        problem = of_error(error)
        if problem is None:  # an error that should never have come this far; the app logs it
            raise error
        if self._sent:
            # Redis has later lines already: to send everything from this one on again would double those.
            if problem.kind is not PARTLY_DONE:
                problem = Problem(OUTCOME_UNKNOWN, f"{problem.detail}; later lines may have been kept")
            problem.facts["outcome"] = "unknown"
            problem.facts.pop("retry_after_ms", None)
            problem.facts.pop("repeatable", None)
            if self._stamp is not None:
                problem.facts |= {"repeatable": True, "retry_after_ms": RETRY_AFTER_MS}
        elif problem.kind is not PARTLY_DONE and self._stamp is None and "repeatable" not in problem.facts:
            problem.facts.setdefault("outcome", "not_stored")  # of the lines that are not counted in `appended`
        return self._so_far(problem, line)

    def _so_far(self, problem: Problem, line: int) -> Problem:
        facts: dict[str, Any] = {"appended": self._appended, "line": line}
        for name, value in facts.items():
            problem.facts.setdefault(name, value)
        return problem

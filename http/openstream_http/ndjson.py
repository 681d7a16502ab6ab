"""Producing without a limit: one event a line, appended in chunks while the rest is still on its way.

Memory holds a chunk, a line and what the connection has read ahead, whatever the length of the body; the results
wait in a temporary file. When the log is full we wait, read nothing, and TCP slows the client down.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from tempfile import SpooledTemporaryFile
from typing import Any, TypeVar

from anyio import sleep, to_thread

from openstream_http.bodies import chunks
from openstream_http.budget import Hold
from openstream_http.edge import edge
from openstream_http.problems import BODY_TOO_LARGE, RETRY_AFTER_MS, Problem, invalid, of_error
from openstream_http.rendering import placed, produced_head
from openstream_runtime.domain.errors import OpenStreamError, Overloaded, PartlyDone
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.gateway.gateway import Gateway
from openstream_runtime.gateway.results import Ack

CHUNK_EVENTS = 1_000
CHUNK_BYTES = 1 << 20
#: Results in memory; the rest goes to a file. 40 bytes a result.
SPOOL_BYTES = 1 << 20
#: What a request has in memory, ordinary lines assumed: lines on their way, events, results.
HELD_BYTES = 2 * CHUNK_BYTES + SPOOL_BYTES
#: Seconds a chunk waits for room in the log before the request gives up.
MAX_WAIT = 30.0
_LONGEST_PAUSE = 2.0
_PIECE = 64 << 10

_A = TypeVar("_A")
_R = TypeVar("_R")


class LineProducer:
    """One request. `parse(line, number)` makes an event or raises a Problem."""

    def __init__(
        self,
        gateway: Gateway,
        topic: str,
        *,
        partitions: int | None,
        ack: Ack,
        parse: Callable[[bytes, int], NewEvent],
    ) -> None:
        self._gateway = gateway
        self._topic = topic
        self._partitions = partitions
        self._ack = ack
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
        self._stands: tuple[str, int] | None = None

    async def consume(self, hold: Hold) -> None:
        """Append every line of the request's body; a Problem says how far it came (`appended`, `line`)."""
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
                    await self._take(bytes(line))
                self._check_length(rest)
            await self._take(bytes(rest))
        except Problem as problem:
            # What stood before a bad line is in order and goes in, so that `appended` says where to go on.
            await self._flush()
            raise self._so_far(problem, self._line) from None
        await self._flush()
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
        return len(head) + self._spooled + len(b"]}"), self._pieces(head)

    async def _pieces(self, head: bytes) -> AsyncIterator[bytes]:
        yield head
        self._spool.seek(0)
        while piece := await self._on_file(self._spool.read, _PIECE):
            yield piece
        yield b"]}"

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

    async def _take(self, line: bytes) -> None:
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
            await self._flush()

    async def _flush(self) -> None:
        if not self._chunk:
            return
        waited = 0.0
        while True:
            try:
                done = await self._gateway.produce(self._topic, self._chunk, partitions=self._partitions, ack=self._ack)
                break
            except Overloaded as error:
                pause = min(_LONGEST_PAUSE, error.facts.get("retry_after_ms", RETRY_AFTER_MS) / 1000)
                if waited + pause > MAX_WAIT:
                    raise self._stopped(error, "not_stored") from None
                waited += pause
                await sleep(pause)  # nothing reads the body meanwhile: this is the backpressure
            except OpenStreamError as error:
                raise self._stopped(error, None if isinstance(error, PartlyDone) else "not_stored") from None
        results = placed(done.results)
        await self._keep(b"," + results if self._appended else results)
        self._appended += len(self._chunk)
        self._stands = (done.topic, done.partitions)
        self._chunk = []  # a new one: the node may still hold the old
        self._chunk_bytes = 0

    def _stopped(self, error: OpenStreamError, outcome: str | None) -> Problem:
        self._chunk = []
        problem = of_error(error)
        if problem is None:  # an error that should never have come this far; the app logs it
            raise error
        if outcome is not None:
            problem.facts.setdefault("outcome", outcome)  # of the lines that are not counted in `appended`
        return self._so_far(problem, self._chunk_line)

    def _so_far(self, problem: Problem, line: int) -> Problem:
        facts: dict[str, Any] = {"appended": self._appended, "line": line}
        for name, value in facts.items():
            problem.facts.setdefault(name, value)
        return problem

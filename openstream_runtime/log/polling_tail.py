"""Tail of a cluster: there a blocking read reaches one slot, so this looks instead, at all streams somebody waits for.

A look is a short script call for each partition, sent to all primaries side by side. Where looks take longer they come
less often, so that they cost a bounded part of the time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import anyio

from openstream_runtime.domain.errors import OutcomeUnknown, Unavailable
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.log import keys, scripts
from openstream_runtime.log.codec import format_position, parse_position
from openstream_runtime.log.errors import answer
from openstream_runtime.log.lane import Lane
from openstream_runtime.ports.log import TailNews

#: Seconds between two looks at least, and how many times as long as a look takes.
SOONEST, PART = 0.02, 8
#: Bells read at once.
_BELLS = 1_000


class PollingTail:
    """`reads` looks, `writes` rings."""

    def __init__(self, reads: Lane, writes: Lane) -> None:
        self._reads = reads
        self._writes = writes
        #: Where we heard the last bell; None before the first wait.
        self._heard: Position | None = None
        self._interrupted = anyio.Event()
        self._waiting = False

    async def wait(self, positions: Mapping[TopicPartition, Position], timeout: float) -> TailNews:
        self._interrupted, self._waiting = anyio.Event(), True
        until = time.monotonic() + timeout
        try:
            while True:
                began = time.monotonic()
                news = await self._look(positions)
                now = time.monotonic()
                if news.moved or news.bells or now >= until or self._interrupted.is_set():
                    return news
                with anyio.move_on_after(min(until - now, max(SOONEST, PART * (now - began)))):
                    await self._interrupted.wait()
                    return TailNews()
        finally:
            self._waiting = False

    async def interrupt(self) -> None:
        if self._waiting:
            self._interrupted.set()

    async def ring(self, bell: str) -> None:
        with suppress(Unavailable, OutcomeUnknown):
            [reply] = await self._writes.call(
                [(b"XADD", keys.BELL, b"MAXLEN", b"~", keys.BELL_LENGTH, b"*", b"b", bell)]
            )
            answer(reply)

    async def _look(self, positions: Mapping[TopicPartition, Position]) -> TailNews:
        places = [*positions, None]
        names = [keys.BELL if at is None else keys.stream(at) for at in places]
        replies = await self._reads.run_each(scripts.LAST, [([name], []) for name in names])
        lasts = [parse_position(raw) for (raw,) in replies]
        moved = {at: last for at, last in zip(places, lasts, strict=True) if at is not None and last > positions[at]}
        return TailNews(moved, await self._bells(lasts[-1]))

    async def _bells(self, last: Position) -> Sequence[str]:
        if self._heard is None:
            self._heard = last
        elif last < self._heard:
            self._heard = ZERO  # Redis has lost where we were
        if last == self._heard:
            return ()
        start = b"(" + format_position(self._heard)
        [reply] = await self._reads.call([(b"XRANGE", keys.BELL, start, b"+", b"COUNT", _BELLS)])
        entries = answer(reply)
        if entries:
            self._heard = parse_position(entries[-1][0])
        # Each bell once: that it rang is all it says.
        return list(dict.fromkeys(fields[1].decode(errors="replace") for _, fields in entries))

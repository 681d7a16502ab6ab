"""Standard input as lines, taken when they are there: waiting for more can be given up, a blocking read cannot."""

from __future__ import annotations

import os

import anyio

_PIECE = 1 << 20


class Pipe:
    """`await fill()`, then `readline()` until it gives nothing."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""
        self.at_end = False

    async def fill(self) -> None:
        """Wait for something to read, unless a whole line is here already or the end was seen."""
        while b"\n" not in self._rest and not self.at_end:
            try:
                await anyio.wait_readable(self._fd)
            except PermissionError:  # a file: `< FILE`; it is always readable and cannot be waited for
                await anyio.lowlevel.checkpoint()
            piece = os.read(self._fd, _PIECE)
            self.at_end = not piece
            self._rest += piece

    def readline(self, limit: int = -1, /) -> bytes:
        """A whole line; at the end also one without its newline. b"" when there is none now."""
        end = self._rest.find(b"\n") + 1
        if not end and not self.at_end and (limit < 0 or len(self._rest) < limit):
            return b""
        size = end or len(self._rest)
        if limit >= 0:
            size = min(size, limit)
        line, self._rest = self._rest[:size], self._rest[size:]
        return line

"""A server that speaks Redis' protocol and answers what a test says: what a real one says only in bad moments."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import hiredis
from anyio.abc import SocketAttribute, SocketStream

#: What a client asks on a new connection; answered without the script.
_LOGIN = {
    b"CLIENT": b"+OK\r\n",
    b"INFO": b"$12\r\nrun_id:abcd\n\r\n",
    b"SCRIPT": b"+0000\r\n",
}
CLOSE, HOLD = b"", b"hold"


class ScriptedRedis:
    """Answers come in the order given, over all connections; `CLOSE` ends the connection instead, `HOLD`
    leaves the client waiting."""

    def __init__(self) -> None:
        self.port = 0
        self.login = dict(_LOGIN)
        self._answers: deque[bytes] = deque()
        #: The names of the commands that were answered by the script.
        self.asked: list[bytes] = []

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def answer(self, *answers: bytes) -> None:
        self._answers += answers

    async def serve(self, client: SocketStream) -> None:
        reader = hiredis.Reader(notEnoughData=None)
        async with client:
            while True:
                try:
                    reader.feed(await client.receive())
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
                while (command := reader.gets()) is not None:
                    answer = self._answer(command)
                    if answer == CLOSE:
                        return
                    if answer != HOLD:
                        await client.send(answer)

    def _answer(self, command: list[bytes]) -> bytes:
        name = command[0].upper()
        if name == b"CLIENT" and command[1].upper() == b"ID":
            return b":7\r\n"
        if name == b"CLIENT" and command[1].upper() == b"UNBLOCK":
            return b":0\r\n"  # there is no such client, or it does not block
        if name in self.login:
            return self.login[name]
        self.asked.append(name)
        return self._answers.popleft() if self._answers else CLOSE


@asynccontextmanager
async def scripted_redis() -> AsyncIterator[ScriptedRedis]:
    server = ScriptedRedis()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        server.port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - no Django here
        tasks.start_soon(partial(listener.serve, server.serve))
        try:
            yield server
        finally:
            tasks.cancel_scope.cancel()

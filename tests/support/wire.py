"""HTTP by hand: bytes to a port and what comes back, for what no well-behaved client would send."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from support.edge import EdgeClient


@dataclass(frozen=True, slots=True)
class WireAnswer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self._buffered = BufferedByteReceiveStream(stream)

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def answer(self) -> WireAnswer:
        """The next answer, by its Content-Length or up to its last chunk."""
        while True:
            head = (await self._buffered.receive_until(b"\r\n\r\n", 1 << 20)).decode("latin-1").split("\r\n")
            status = int(head[0].split()[1])
            if status >= 200:
                break
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if "content-length" in headers:
            body = await self._buffered.receive_exactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self._buffered.receive_until(b"\r\n", 100), 16):
                body += await self._buffered.receive_exactly(size)
                await self._buffered.receive_until(b"\r\n", 10)
            await self._buffered.receive_until(b"\r\n", 10)
        elif status == 204:
            body = b""
        else:
            body = await self.rest()
        return WireAnswer(status, headers, body)

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        data = b""
        try:
            while True:
                data += await self._buffered.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return data


async def exchange(
    port: int, *pieces: bytes, end: bool = False, seconds: float = 15, local: str | None = None
) -> list[WireAnswer]:
    """Send pieces, each when the one before has left, and collect answers until the server closes; it must, in time.

    `end`: say that nothing more comes (a half-close). `local`: the address to come from. A server that stops listening
    in the middle is in its right.
    """
    answers = []
    with anyio.fail_after(seconds):
        async with wire(port, local) as line:
            with suppress(anyio.BrokenResourceError):
                for piece in pieces:
                    await line.send(piece)
                if end:
                    await line.stream.send_eof()
            while True:
                try:
                    answers.append(await line.answer())
                except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                    return answers


@asynccontextmanager
async def wire(port: int, local: str | None = None) -> AsyncIterator[Wire]:
    async with await anyio.connect_tcp("127.0.0.1", port, local_host=local) as stream:
        yield Wire(stream)


def request(
    method: str, path: str, body: bytes | None = None, *, token: str | None = None, version: str = "1.1", **headers: str
) -> bytes:
    """A request as bytes. Header names with `_` for `-`; a body gets its Content-Length and is JSON unless said."""
    head = {"Host": "localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        head["Authorization"] = f"Bearer {token}"
    if body is not None:
        head.setdefault("Content-Length", str(len(body)))
        head.setdefault("Content-Type", "application/json")
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in head.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


EVENTS = "/v1/topics/orders/events"
READ = "/v1/topics/orders/groups/g/read"
ONE = json.dumps({"events": [{"event_type": "t", "payload": 1}]}).encode()


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Wait until something is true of somebody else."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - a number of somebody else, not an event of ours
            await anyio.sleep(0.005)


async def group(client: EdgeClient, start: str = "0-0") -> None:
    """Topic `orders` with two partitions and group `g`."""
    await client.put("/v1/topics/orders", {"partitions": 2})
    await client.post("/v1/topics/orders/groups", {"group": "g", "start_id": start})


def poll(client: EdgeClient, block_ms: int = 30_000) -> bytes:
    """A long-poll of that group."""
    body = json.dumps({"consumer": "c", "block_ms": block_ms}).encode()
    return request("POST", READ, body, token=client.token())

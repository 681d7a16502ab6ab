"""One request between Hypercorn and Quart: a body that is read no faster than it is used, and answers that count.

Quart's own body grows as fast as the client sends. Ours stops reading at ROOM, so a client that sends faster than
Redis takes is slowed by TCP. It also knows when an answer has really been handed to the server (see `Receipt`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, cast

import structlog
from anyio import Event, lowlevel, move_on_after
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope
from quart import Quart, Response
from quart.asgi import ASGIHTTPConnection
from quart.typing import ResponseTypes
from quart.wrappers import Request
from quart.wrappers.request import Body
from quart.wrappers.response import DataBody

from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.gateway.results import Handout

#: How much of a body waits in memory to be read; Hypercorn hands it over in pieces of up to 64 KiB.
ROOM = 256 << 10
#: Seconds an answer waits for a client that is still sending. Closing at once would reset the connection, and the
#: client would lose the answer that tells it to stop.
LINGER = 1.0
#: Turns of the event loop from a disconnect that Hypercorn has seen to the cancellation that reaches us.
_TURNS = 4
_PROMISE = "openstream.promise"

log = structlog.get_logger(__name__)


class BoundedBody(Body):
    """What has come of a body and is not yet read. One reader; the length is counted by whoever reads."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(None, None)
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._discarding = False
        self._news = Event()

    @property
    def ended(self) -> bool:
        """The client has sent everything."""
        return self._ended

    def append(self, data: bytes) -> None:
        if data and not self._discarding:
            self._chunks.append(data)
            self._size += len(data)
            self._tell()

    def set_complete(self) -> None:
        self._ended = True
        self._tell()

    def clear(self) -> None:
        self._chunks.clear()
        self._size = 0
        self._tell()

    def discard(self) -> None:
        """Nobody reads this body any more: take the rest and keep nothing of it."""
        self._discarding = True
        self.clear()

    async def room(self) -> None:
        """Wait until more may be taken in."""
        while self._size >= ROOM and not self._ended:
            await self._news.wait()

    async def end(self) -> None:
        """Wait until the client has sent everything."""
        while not self._ended:
            await self._news.wait()

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._ended:
                raise StopAsyncIteration
            await self._news.wait()
        data = b"".join(self._chunks)
        self.clear()
        return data

    def __await__(self) -> Generator[Any, None, Any]:
        return self._whole().__await__()

    async def _whole(self) -> bytes:
        return b"".join([chunk async for chunk in self])

    def _tell(self) -> None:
        self._news.set()
        self._news = Event()


class BoundedRequest(Request):
    body_class = BoundedBody


class Receipt(DataBody):
    """An answer with events in it. Says exactly once what became of them: arrived, or given back.

    "Arrived" is: every byte was handed to the server and it did not then say that the client is gone. A client that
    vanishes between that and its own reading is beyond what TCP tells anybody; the claim-reaper is for that.
    """

    def __init__(self, data: bytes, handout: Handout, told: Callable[[], None] | None = None) -> None:
        """`told` is called when it arrived."""
        super().__init__(data)
        self._handout: Handout | None = handout
        self._told = told

    async def __aexit__(self, exc_type: Any, exc_value: Any, tb: Any) -> None:
        if exc_type is None:
            try:
                for _ in range(_TURNS):
                    await lowlevel.checkpoint()  # a disconnect that is already known cancels us here
            except BaseException:
                self.settle()
                raise
        self.settle(arrived=exc_type is None)

    def settle(self, *, arrived: bool = False) -> None:
        handout, self._handout = self._handout, None
        if handout is not None:
            if arrived:
                handout.arrived()
                if self._told is not None:
                    self._told()
            else:
                handout.give_back()


def notes(request: Request) -> dict[str, Any]:
    """What is known about a request besides what it says: its ASGI scope, which the guard and the routes share."""
    return cast(dict[str, Any], request.scope)


def promise(request: Request, settle: Callable[[], None]) -> None:
    """Call `settle` when the request has ended, whichever way: also when it is cancelled before its answer is begun.

    It must not wait: a request that is being cancelled is cancelled at its next await.
    """
    notes(request)[_PROMISE] = settle


class Connection(ASGIHTTPConnection):
    """Quart's connection with the two changes above."""

    def __init__(self, app: Quart, scope: HTTPScope) -> None:
        super().__init__(app, scope)
        self._body: BoundedBody | None = None

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        try:
            await super().__call__(receive, send)
        finally:
            settle = cast(dict[str, Any], self.scope).get(_PROMISE)
            if settle is not None:
                settle()

    def _create_request_from_scope(self, send: ASGISendCallable) -> Request:
        request = super()._create_request_from_scope(send)
        if isinstance(request.body, BoundedBody):
            self._body = request.body
        return request

    async def handle_messages(self, request: Request, receive: ASGIReceiveCallable) -> None:
        while True:
            if self._body is not None:
                await self._body.room()
            message = await receive()
            if message["type"] == "http.request":
                request.body.append(message.get("body", b""))
                if not message.get("more_body", False):
                    request.body.set_complete()
            elif message["type"] == "http.disconnect":
                return

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        if self._body is not None and not self._body.ended:
            # Keep reading, into nothing: while Hypercorn's queue of unread pieces is full, it cannot even close.
            self._body.discard()
            send = partial(_send_lingering, self._body, send)
        try:
            await super()._send_response(send, response)
        except OpenStreamError as error:
            # A body that cannot be finished is not ended either: Hypercorn closes the connection, and the client sees
            # that something is missing.
            log.info("answer cut", error=str(error))


async def _send_lingering(body: BoundedBody, send: ASGISendCallable, message: Any) -> None:
    if message["type"] == "http.response.body" and not message.get("more_body", False):
        with move_on_after(LINGER):
            await body.end()
    await send(message)


class StreamedResponse(Response):
    """An answer whose length is known although its body is made as it is sent."""

    automatically_set_content_length = False

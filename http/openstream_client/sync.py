"""The same client without `await`: an event loop in a thread of its own does the work.

The names, the arguments and the errors are those of OpenStream.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx2
from anyio.from_thread import BlockingPortal, start_blocking_portal

from openstream_client.batch import Receipt
from openstream_client.calls import Calls
from openstream_client.client import OpenStream
from openstream_client.message import Message
from openstream_client.models import Event, Kept, Placed, Redriven
from openstream_client.producer import Producer

P = ParamSpec("P")
R = TypeVar("R")


def _waiting(
    call: Callable[Concatenate[Calls, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[SyncOpenStream, P], R]:
    """The call of the asynchronous client, waited for; its types stay."""

    def wait(self: SyncOpenStream, /, *args: P.args, **kwargs: P.kwargs) -> R:
        done: R = self.portal.call(partial(call, self.client, *args, **kwargs))
        return done

    wait.__name__, wait.__doc__ = call.__name__, call.__doc__
    return wait


class SyncOpenStream:
    """`with SyncOpenStream("http://localhost:8000", token) as client`. Any thread may use it."""

    def __init__(
        self,
        url: str | Sequence[str],
        token: str | None = None,
        *,
        timeout: float = 30.0,
        http: httpx2.AsyncBaseTransport | None = None,
        backend: str = "asyncio",
    ) -> None:
        self._make: Callable[[], OpenStream] = partial(OpenStream, url, token, timeout=timeout, http=http)
        self._backend = backend
        self._open = ExitStack()
        self.portal: BlockingPortal
        self.client: OpenStream

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.portal = stack.enter_context(start_blocking_portal(self._backend))
            self.client = self.portal.call(self._make)
            stack.enter_context(self.portal.wrap_async_context_manager(self.client))
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    create_topic = _waiting(Calls.create_topic)
    topics = _waiting(Calls.topics)
    topic = _waiting(Calls.topic)
    delete_topic = _waiting(Calls.delete_topic)
    produce = _waiting(Calls.produce)
    create_group = _waiting(Calls.create_group)
    groups = _waiting(Calls.groups)
    group = _waiting(Calls.group)
    delete_group = _waiting(Calls.delete_group)
    reset_group = _waiting(Calls.reset_group)
    preview_reset = _waiting(Calls.preview_reset)
    alter_group = _waiting(Calls.alter_group)
    pause_group = _waiting(Calls.pause_group)
    resume_group = _waiting(Calls.resume_group)
    read = _waiting(Calls.read)
    ack = _waiting(Calls.ack)
    nack = _waiting(Calls.nack)
    extend = _waiting(Calls.extend)
    claim = _waiting(Calls.claim)
    dead_letters = _waiting(Calls.dead_letters)
    redrive = _waiting(Calls.redrive)
    history = _waiting(Calls.history)
    start_replay = _waiting(Calls.start_replay)
    replays = _waiting(Calls.replays)
    replay = _waiting(Calls.replay)
    cancel_replay = _waiting(Calls.cancel_replay)
    mint_token = _waiting(Calls.mint_token)
    summary = _waiting(Calls.summary)
    cluster = _waiting(Calls.cluster)

    def redrive_all(self, topic: str, group: str, *, to: str = "group") -> Generator[Redriven, None, None]:
        """Every dead letter, request after request; what each has done."""
        yield from self._iterate(self.client.redrive_all(topic, group, to=to))

    def consume(self, topic: str, group: str, **options: Any) -> Generator[SyncMessage, None, None]:
        """`for message in client.consume("orders", "billing")`; leaving the loop sends the acks that wait."""
        consumer = self.portal.call(partial(self.client.consume, topic, group, **options))
        try:
            while True:
                try:
                    message = self.portal.call(consumer.__anext__)
                except StopAsyncIteration:
                    return
                yield SyncMessage(message, self.portal)
        finally:
            self.portal.call(consumer.aclose)

    @contextmanager
    def producer(self, topic: str, **options: Any) -> Iterator[SyncProducer]:
        """`with client.producer("orders") as producer`; leaving it flushes."""
        with self.portal.wrap_async_context_manager(self.client.producer(topic, **options)) as producer:
            yield SyncProducer(producer, self.portal)

    def stream_history(self, topic: str, **span: Any) -> Generator[Kept, None, None]:
        """Everything that is kept, one event after the other."""
        yield from self._iterate(self.client.stream_history(topic, **span))

    def _iterate(self, items: AsyncGenerator[R, None]) -> Generator[R, None, None]:
        try:
            while True:
                try:
                    yield self.portal.call(items.__anext__)
                except StopAsyncIteration:
                    return
        finally:
            self.portal.call(items.aclose)


class SyncMessage(Message):
    """A message whose `ack` and `nack` do not have to be awaited; `with message: …` does one of them at its end."""

    __slots__ = ("_portal",)

    def __init__(self, message: Message, portal: BlockingPortal) -> None:
        super().__init__(message._held, message._hands, message._nack_delay)
        self._portal = portal

    def ack(self) -> None:  # type: ignore[override]
        self._portal.call(Message.ack, self)

    def nack(self, delay: float | None = None) -> None:  # type: ignore[override]
        self._portal.call(Message.nack, self, delay)

    def __enter__(self) -> Self:
        self._portal.call(Message.__aenter__, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portal.call(Message.__aexit__, self, kind, error, traceback)


class SyncProducer:
    """A producer whose `send` waits while the buffer is full."""

    def __init__(self, producer: Producer, portal: BlockingPortal) -> None:
        self._producer = producer
        self._portal = portal

    def send(self, event: Event | Mapping[str, Any]) -> SyncReceipt:
        return SyncReceipt(self._portal.call(self._producer.send, event), self._portal)

    def flush(self) -> None:
        self._portal.call(self._producer.flush)


class SyncReceipt:
    """What became of one event."""

    def __init__(self, receipt: Receipt, portal: BlockingPortal) -> None:
        self._receipt = receipt
        self._portal = portal

    def placed(self) -> Placed:
        return self._portal.call(self._receipt.placed)

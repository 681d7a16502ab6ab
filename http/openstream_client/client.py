"""The client: everything of Calls, and what outlives a request: producers, consumers, streams of history."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import httpx2
from anyio.abc import TaskGroup

from openstream_client.calls import Calls
from openstream_client.consumer import Consumer
from openstream_client.lines import stream_history
from openstream_client.models import Kept
from openstream_client.producer import Producer
from openstream_client.transport import Transport


class OpenStream(Calls):
    """`async with OpenStream("http://localhost:8000", token) as client`, on asyncio and on trio.

    Several URLs are several nodes of one cluster: when one cannot be reached the next is asked.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        token: str | None = None,
        *,
        timeout: float = 30.0,
        http: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """`timeout`: seconds for one answer, the waiting of a long-poll not counted. `http`: another way to send."""
        urls = [url] if isinstance(url, str) else list(url)
        super().__init__(Transport(urls, token, timeout=timeout, http=http))
        self._tasks: TaskGroup | None = None
        self._consumers: list[Consumer] = []

    @property
    def url(self) -> str:
        """The node that is asked first now."""
        return self._transport.url

    async def __aenter__(self) -> Self:
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        self._tasks = tasks
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        tasks = self._running()
        self._tasks = None
        try:
            for consumer in self._consumers:
                await consumer.aclose()
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await self._transport.close()
            if isinstance(error, Exception):
                # An error of the caller goes out as it is, not in a group because tasks of ours ran beside it.
                await tasks.__aexit__(None, None, None)
                swallowed = None
            else:
                swallowed = await tasks.__aexit__(kind, error, traceback)
        return swallowed

    def consume(self, topic: str, group: str, **options: Any) -> Consumer:
        """An async iterator of messages; the options are Consumer's. It is closed with the client at the latest."""
        consumer = Consumer(self, self._running(), topic, group, **options)
        self._consumers.append(consumer)
        return consumer

    @asynccontextmanager
    async def producer(self, topic: str, **options: Any) -> AsyncGenerator[Producer, None]:
        """`async with client.producer("orders") as producer`; the options are Producer's. Leaving it flushes."""
        producer = Producer(self, topic, **options)
        error: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                producer.begin(tasks)
                try:
                    yield producer
                except Exception as own:  # raised below, as it is and not in a group
                    error = own
                try:
                    await producer.flush()
                except Exception as failed:  # raised below; the caller's own goes before it
                    error = error or failed
                tasks.cancel_scope.cancel()
        finally:
            producer.end()
        if error is not None:
            raise error

    async def stream_history(
        self, topic: str, *, partition: int | None = None, give_up_after: float = 60.0, **span: str | int | None
    ) -> AsyncGenerator[Kept, None]:
        """Everything that is kept, without a limit: `from_id`, `to_id`, `from_ms`, `to_ms`, `key`, `event_type`."""
        async with aclosing(stream_history(self._transport, topic, partition, span, give_up_after)) as events:
            async for event in events:
                yield event

    def _running(self) -> TaskGroup:
        if self._tasks is None:
            raise RuntimeError("use the client inside of `async with`")
        return self._tasks

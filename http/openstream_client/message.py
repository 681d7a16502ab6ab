"""An event in the hands of a consumer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from openstream_client import tracing
from openstream_client.models import Kept


class Message:
    """Read it, work on it, `await message.ack()`."""

    __slots__ = ("_ack", "event")

    def __init__(self, event: Kept, ack: Callable[[Kept], Awaitable[None]]) -> None:
        self.event = event
        self._ack = ack

    async def ack(self) -> None:
        """Done with it. Acks travel together, a moment later; `Consumer.flush` waits for them."""
        await self._ack(self.event)

    @property
    def partition(self) -> int:
        return self.event.partition

    @property
    def redis_id(self) -> str:
        return self.event.redis_id

    @property
    def event_type(self) -> str:
        return self.event.event_type

    @property
    def partition_key(self) -> str | None:
        return self.event.partition_key

    @property
    def payload(self) -> Any:
        return self.event.payload

    @property
    def timestamp_ms(self) -> int:
        return self.event.timestamp_ms

    @property
    def headers(self) -> Mapping[str, str]:
        return self.event.headers

    @property
    def deliveries(self) -> int:
        """How often it was handed out, this time included."""
        return self.event.deliveries

    @property
    def context(self) -> Any:
        """The OpenTelemetry context it was produced in, to link a span to; None without OpenTelemetry."""
        return tracing.context_of(self.event.headers)

"""An event in the hands of a consumer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from openstream_client import tracing
from openstream_client.errors import Retryable
from openstream_client.hands import Hands, InHand


class Message:
    """Read it, work on it, `await message.ack()`.

    Or `async with message: …`: acked at the end, given back on an exception, and kept for as long as that takes, also
    beside the loop.
    """

    __slots__ = ("_hands", "_held", "_nack_delay", "event")

    def __init__(self, held: InHand, hands: Hands, nack_delay: float) -> None:
        self.event = held.event
        self._held = held
        self._hands = hands
        self._nack_delay = nack_delay

    async def ack(self) -> None:
        """Done with it. Acks travel together, a moment later; `Consumer.flush` waits for them."""
        await self._hands.ack(self._held)

    async def nack(self, delay: float | None = None) -> None:
        """Give it back: it is handed out again after `delay` seconds, or is a dead letter now."""
        await self._hands.nack(self._held, self._nack_delay if delay is None else delay)

    async def __aenter__(self) -> Self:
        self._held.worked_on = True
        self._hands.keep(self._held)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self._hands.ack(self._held)
        elif isinstance(error, Exception):
            # The handler's own error goes out. What no node takes back comes again after the group's idle time.
            with suppress(Retryable):
                await self._hands.nack(self._held, self._nack_delay)
        else:
            self._hands.leave(self._held)

    @property
    def settled(self) -> bool:
        """It was acked or given back."""
        return self._held.settled

    @property
    def lost(self) -> bool:
        """It was held for too long, or somebody moved the group: another consumer has it, or will."""
        return self._held.lost

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

"""Events that travel in one request, and the receipts their senders hold."""

from __future__ import annotations

import anyio
import msgspec

from openstream_client.errors import ClientError, OutcomeUnknown, PartlyDone
from openstream_client.models import Event, Placed


class Batch:
    """Filled by a producer, sent by a lane, settled event by event."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        #: Beside `encoded`; None where the sender has no use for it.
        self.events: list[Event | None] = []
        self.encoded: list[bytes] = []
        self.size = 0
        self.opened_at = anyio.current_time()
        #: Nothing more goes in; it may leave.
        self.closed = anyio.Event()
        #: Every event has its outcome.
        self.settled = anyio.Event()
        self.outcomes: list[Placed | ClientError | None] = []

    def takes(self, size: int) -> bool:
        return not self.closed.is_set() and (not self.events or self.size + size <= self._max_bytes)

    def add(self, encoded: bytes, event: Event | None = None) -> Receipt:
        self.events.append(event)
        self.encoded.append(encoded)
        self.outcomes.append(None)
        self.size += len(encoded)
        if len(self.events) >= self._max_events or self.size >= self._max_bytes:
            self.closed.set()
        return Receipt(self, len(self.events) - 1)

    def open_places(self) -> list[int]:
        """Events without an outcome, in order."""
        return [place for place, outcome in enumerate(self.outcomes) if outcome is None]

    def settle(self, place: int, outcome: Placed | ClientError) -> None:
        self.outcomes[place] = outcome

    def settle_rest(self, outcome: ClientError) -> None:
        for place in self.open_places():
            self.settle(place, outcome)

    def settle_partly(self, places: list[int], partly: PartlyDone) -> None:
        """What the answer says of each event that was sent; one that was refused stays open."""
        for place, result in zip(places, partly.results, strict=False):
            status = result.get("status")
            if status == "appended":
                self.settle(place, msgspec.convert(result, Placed))
            elif status != "not_stored":  # unknown, or kept but not as safely as asked: neither may be sent again
                kind = OutcomeUnknown if status == "unknown" else PartlyDone
                self.settle(place, kind(partly.detail, status=partly.status, facts=result))
        if len(partly.results) < len(places):
            self.settle_rest(OutcomeUnknown(partly.detail, status=partly.status))


class Receipt:
    """What became of one event."""

    __slots__ = ("_batch", "_place")

    def __init__(self, batch: Batch, place: int) -> None:
        self._batch = batch
        self._place = place

    async def placed(self) -> Placed:
        """Waits for the answer: where the event stands, or the error it ended with."""
        await self._batch.settled.wait()
        outcome = self._batch.outcomes[self._place]
        if isinstance(outcome, Placed):
            return outcome
        raise outcome or OutcomeUnknown()

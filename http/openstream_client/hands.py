"""What a consumer has in its hands: taken, kept while it is worked on, given back or done with.

A node hands an event to somebody else when it was held for too long, so what waits here and what is worked on is
extended again and again. What was lost all the same is marked: another consumer has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import anyio

from openstream_client.acks import MOST_AT_ONCE, Acks
from openstream_client.backoff import patiently
from openstream_client.calls import Calls
from openstream_client.errors import ClientError, Retryable
from openstream_client.models import Kept

#: Seconds between two extensions where the group has no `claim_idle_ms`: a sixth of a node's default.
EXTEND_EVERY = 10.0
#: The part of `claim_idle_ms` after which everything is extended: one may fail.
SHARE = 1 / 3
#: Seconds in which a node must have taken a nack.
NACK_WITHIN = 30.0


@dataclass(slots=True, eq=False)
class InHand:
    """An event, since when it is here, and what became of it."""

    event: Kept
    since: float
    settled: bool = False
    lost: bool = False
    #: In a block of its own, which tells its end.
    worked_on: bool = False


class Hands:
    """Of one consumer."""

    def __init__(
        self, calls: Calls, topic: str, group: str, consumer: str, acks: Acks, *, every: float | None, keep_for: float
    ) -> None:
        self._calls = calls
        self._topic = topic
        self._group = group
        self._consumer = consumer
        self._acks = acks
        self._every = every
        self._keep_for = keep_for
        self._kept: dict[tuple[int, str], InHand] = {}

    def take(self, events: Iterable[Kept]) -> list[InHand]:
        now = anyio.current_time()
        taken = [InHand(event, now) for event in events]
        for held in taken:
            self.keep(held)
        return taken

    def keep(self, held: InHand) -> None:
        """Extend it from now on."""
        if not held.settled and not held.lost:
            self._kept[held.event.partition, held.event.redis_id] = held

    def leave(self, held: InHand) -> None:
        """Extend it no more: what nobody settles goes to another consumer in time."""
        key = held.event.partition, held.event.redis_id
        if self._kept.get(key) is held:
            del self._kept[key]

    def leave_all(self) -> None:
        self._kept.clear()

    async def ack(self, held: InHand) -> None:
        if not held.settled:
            self._settle(held)
            await self._acks.add(held.event)

    async def nack(self, held: InHand, delay: float) -> None:
        if held.settled:
            return
        self._settle(held)
        ids = {held.event.partition: [held.event.redis_id]}
        await patiently(
            lambda: self._calls.nack(
                self._topic, self._group, ids, delay_ms=round(delay * 1000), consumer=self._consumer
            ),
            give_up_after=NACK_WITHIN,
        )

    def _settle(self, held: InHand) -> None:
        held.settled = True
        self.leave(held)

    async def run(self) -> None:
        """Extend, again and again. Reading tells what is wrong with the group or the token; this only ends."""
        try:
            every = self._every or await self._interval()
            while True:
                await anyio.sleep(every)
                await self._extend()
        except ClientError:
            return

    async def _interval(self) -> float:
        group = await patiently(lambda: self._calls.group(self._topic, self._group), give_up_after=float("inf"))
        return EXTEND_EVERY if group.claim_idle_ms is None else group.claim_idle_ms / 1000 * SHARE

    async def _extend(self) -> None:
        oldest = anyio.current_time() - self._keep_for
        for held in [held for held in self._kept.values() if held.since < oldest]:
            self.leave(held)
        keys = list(self._kept)
        for start in range(0, len(keys), MOST_AT_ONCE):
            ids: dict[int, list[str]] = {}
            for partition, redis_id in keys[start : start + MOST_AT_ONCE]:
                ids.setdefault(partition, []).append(redis_id)
            try:
                extended = await self._calls.extend(self._topic, self._group, self._consumer, ids)
            except Retryable:
                return  # the next time, which is early enough
            for part in extended.lost:
                for redis_id in part.redis_ids:
                    self._lose((part.partition, redis_id))

    def _lose(self, key: tuple[int, str]) -> None:
        held = self._kept.pop(key, None)
        if held is not None:  # it was not acked meanwhile
            held.lost = True

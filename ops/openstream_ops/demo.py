"""A shop's orders: enough of everything that each number of a dashboard moves within seconds.

Few customers buy much, so some partitions are hot. `billing` keeps up; `warehouse` is slow and falls behind,
so that lag and pending can be seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from openstream_client.client import OpenStream
from openstream_client.models import Event
from openstream_ops.asking import Stop

TOPIC = "demo.orders"
FAST, SLOW = "billing", "warehouse"
CUSTOMERS = 200
KINDS = ("order.created", "order.paid", "order.shipped", "order.cancelled")
WEIGHTS = (10, 8, 6, 1)
#: The slow group handles this share of what comes in.
SLOW_SHARE = 0.4


@dataclass
class Counts:
    """What the demo has done so far."""

    produced: int = 0
    billed: int = 0
    packed: int = 0
    failed: int = 0


class Demo:
    """`rate` events a second for `seconds`."""

    def __init__(self, client: OpenStream, *, rate: float, seconds: float) -> None:
        self._client = client
        self._rate = rate
        self._seconds = seconds
        self._dice = random.Random(7)  # noqa: S311 - a shop, not a secret: the same orders at each run
        self.counts = Counts()

    async def run(self, stop: Stop, tell: Callable[[Counts], None]) -> None:
        await self._client.create_topic(TOPIC, partitions=8)
        for group in (FAST, SLOW):
            await self._client.create_group(TOPIC, group, start_id="$")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._consume, FAST, 0.0)
            tasks.start_soon(self._consume, SLOW, 1 / (self._rate * SLOW_SHARE))
            tasks.start_soon(self._tell, tell)
            await self._produce(stop)
            tasks.cancel_scope.cancel()

    async def _produce(self, stop: Stop) -> None:
        """In ten bursts a second, of a size that goes up and down: a flat line shows nothing."""

        def failed(*_: object) -> None:
            self.counts.failed += 1

        number = 0
        until = anyio.current_time() + self._seconds
        async with self._client.producer(TOPIC, on_failure=failed) as producer:
            while anyio.current_time() < until and await stop.pause(0.1):
                wave = 1 + 0.6 * ((number // 10) % 10 - 4.5) / 4.5
                for _ in range(max(1, round(self._rate * wave / 10))):
                    await producer.send(self._order(self.counts.produced))
                    self.counts.produced += 1
                number += 1

    def _order(self, number: int) -> Event:
        customer = int(CUSTOMERS * self._dice.random() ** 3)
        kind = self._dice.choices(KINDS, WEIGHTS)[0]
        amount = round(self._dice.lognormvariate(3, 1), 2)
        payload = {"order_id": f"o-{number}", "customer": f"user-{customer}", "amount": amount, "currency": "EUR"}
        return Event(kind, payload, f"user-{customer}", {"source": "demo"})

    async def _consume(self, group: str, seconds_each: float) -> None:
        async with self._client.consume(TOPIC, group, consumer=f"{group}-1", prefetch=200) as messages:
            async for message in messages:
                if seconds_each:
                    await anyio.sleep(seconds_each)
                    self.counts.packed += 1
                else:
                    self.counts.billed += 1
                await message.ack()

    async def _tell(self, tell: Callable[[Counts], None]) -> None:
        while True:
            await anyio.sleep(1)
            tell(self.counts)

"""Throughput and latency of a running cluster, measured through the client, with a check that nothing was lost."""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from openstream_client.client import OpenStream
from openstream_client.errors import Retryable
from openstream_client.models import Event, Kept
from openstream_ops.asking import Stop

GROUP = "bench"
#: Latency is measured at this rate: at full speed it would be that of the queue.
PACED_PER_S = 50
PACED_S = 3.0
#: Seconds without a new event after which the rest counts as lost.
QUIET_S = 10.0


@dataclass
class Wish:
    """How much of it; `seconds` bounds each phase."""

    events: int
    size: int
    batch: int
    lanes: int
    partitions: int
    seconds: float


@dataclass
class _Seen:
    """What came out, to be held against what went in."""

    count: int = 0
    doubled: int = 0
    out_of_order: int = 0
    last: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: -1))

    def take(self, event: Kept) -> None:
        number = event.payload["n"]
        key = str(event.partition_key)
        self.count += 1
        if number == self.last[key]:
            self.doubled += 1
        elif number < self.last[key]:
            self.out_of_order += 1
        self.last[key] = max(number, self.last[key])


async def run(client: OpenStream, stop: Stop, wish: Wish) -> dict[str, Any]:
    """On a topic of its own, which is removed afterwards."""
    topic = f"bench-{secrets.token_hex(4)}"
    await client.create_topic(topic, partitions=wish.partitions)
    try:
        await client.create_group(topic, GROUP, start_id="0-0")
        sent, produce_s, requests = await _produce(client, stop, topic, wish)
        seen, consume_s = await _consume(client, stop, topic, sent)
        delivered = [] if stop.requested else await _paced(client, stop, topic)
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(5):
            await client.delete_topic(topic)
    produced, consumed = sent / max(produce_s, 1e-9), seen.count / max(consume_s, 1e-9)
    return {
        "events": sent,
        "bytes_each": wish.size,
        "produced_per_s": round(produced),
        "produced_mb_per_s": round(produced * wish.size / 1e6, 2),
        "request_ms": percentiles(requests),
        "consumed_per_s": round(consumed),
        "consume_to_produce": round(consumed / produced, 2) if produced else None,
        "end_to_end_ms": percentiles(delivered),
        "lost": sent - seen.count,
        "doubled": seen.doubled,
        "out_of_order": seen.out_of_order,
        "interrupted": stop.requested,
    }


async def _produce(client: OpenStream, stop: Stop, topic: str, wish: Wish) -> tuple[int, float, list[float]]:
    """Lanes side by side, each with its own keys: events sent, seconds, seconds of each request."""
    padding = "x" * max(0, wish.size - 60)
    each = wish.events // wish.lanes
    took: list[float] = []
    sent = [0] * wish.lanes
    began = time.perf_counter()

    async def lane(number: int) -> None:
        key = f"lane-{number}"
        while sent[number] < each and not stop.requested and time.perf_counter() - began < wish.seconds:
            count = min(wish.batch, each - sent[number])
            raw = [
                msgspec.json.encode(Event("bench", {"n": sent[number] + index, "pad": padding}, f"{key}-{index % 8}"))
                for index in range(count)
            ]
            asked = time.perf_counter()
            try:
                await client.produce_raw(topic, raw)
            except Retryable as trouble:
                await anyio.sleep(trouble.retry_after or 0.1)
                continue
            took.append(time.perf_counter() - asked)
            sent[number] += count

    async with anyio.create_task_group() as tasks:
        for number in range(wish.lanes):
            tasks.start_soon(lane, number)
    return sum(sent), time.perf_counter() - began, took


async def _consume(client: OpenStream, stop: Stop, topic: str, expected: int) -> tuple[_Seen, float]:
    seen = _Seen()
    began = ended = time.perf_counter()
    async with client.consume(topic, GROUP, consumer="bench", prefetch=2_000) as messages:
        while seen.count < expected and not stop.requested:
            message = None
            with anyio.move_on_after(QUIET_S):
                message = await anext(messages, None)
            if message is None:
                break
            seen.take(message.event)
            await message.ack()
            ended = time.perf_counter()
    return seen, ended - began


async def _paced(client: OpenStream, stop: Stop, topic: str) -> list[float]:
    """From before the request that sends an event until the consumer has it, at a rate that fills no queue."""
    took: list[float] = []

    async def send() -> None:
        for _ in range(round(PACED_PER_S * PACED_S)):
            await client.produce(topic, Event("paced", time.time()))
            if not await stop.pause(1 / PACED_PER_S):
                return

    async with client.consume(topic, GROUP, consumer="bench-paced") as messages, anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        while len(took) < round(PACED_PER_S * PACED_S) and not stop.requested:
            message = None
            with anyio.move_on_after(QUIET_S):
                message = await anext(messages, None)
            if message is None:
                break
            if message.event_type == "paced":
                took.append(time.time() - message.payload)
            await message.ack()
    return took


def percentiles(seconds: list[float]) -> dict[str, float] | None:
    """In milliseconds; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return {
        name: round(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))], 2)
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    }

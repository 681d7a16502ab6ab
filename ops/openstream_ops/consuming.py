"""Events printed: a line for a person, the whole event as JSON for a program."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import msgspec

from openstream_client.client import OpenStream
from openstream_client.models import Kept
from openstream_ops.asking import Stop
from openstream_ops.output import Output, printable

PREFETCH = 500
#: Nothing for so long is the end, without --follow. Longer than a first read takes to start its reader on the node.
QUIET_S = 2.0
SHOWN_CHARS = 400


async def print_group(
    client: OpenStream,
    stop: Stop,
    output: Output,
    topic: str,
    group: str,
    *,
    consumer: str | None,
    ack: bool,
    follow: bool,
    limit: int | None,
) -> None:
    printed = 0
    prefetch = PREFETCH if limit is None else min(PREFETCH, limit)
    async with (
        client.consume(topic, group, consumer=consumer, prefetch=prefetch) as messages,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_stop_when, stop, messages.stop)
        while limit is None or printed < limit:
            message = None
            with anyio.move_on_after(None if follow else QUIET_S):
                message = await anext(messages, None)
            if message is None:
                break
            output.lines([line_of(topic, message.event, output)])
            printed += 1
            if ack:
                await message.ack()
        tasks.cancel_scope.cancel()


async def _stop_when(stop: Stop, do: Callable[[], None]) -> None:
    await stop.asked.wait()
    do()


def line_of(topic: str, event: Kept, output: Output) -> bytes:
    if not output.is_table:
        return msgspec.json.encode(event)
    payload = bytes(event.raw_payload).decode()
    if len(payload) > SHOWN_CHARS:
        payload = f"{payload[:SHOWN_CHARS]}… ({len(payload):,} characters; --json prints all)"
    key = "" if event.partition_key is None else f"  key={event.partition_key}"
    again = f"  delivery {event.deliveries}" if event.deliveries > 1 else ""
    return printable(f"{topic}[{event.partition}] {event.redis_id}  {event.event_type}{key}{again}  {payload}").encode()

"""The whole history as a stream of events, in constant memory, going on at another node when one breaks off."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
import msgspec

from openstream_client.backoff import Backoff
from openstream_client.caller import history_path
from openstream_client.errors import Unavailable
from openstream_client.models import Kept
from openstream_client.transport import Transport

NDJSON = "application/x-ndjson"
_LINE = msgspec.json.Decoder(Kept)


async def stream_history(
    transport: Transport, topic: str, partition: int | None, span: dict[str, str | int | None], give_up_after: float
) -> AsyncGenerator[Kept, None]:
    """Every event once, in order inside each partition. Unavailable when it does not go on for `give_up_after` s."""
    last: Kept | None = None
    backoff = Backoff()
    moved_at = anyio.current_time()
    while True:
        pause = 0.0
        try:
            async with aclosing(_lines(transport, topic, partition, _from_last(span, partition, last))) as lines:
                async for line in lines:
                    event = _LINE.decode(line)
                    # A stream that goes on begins with the event that was the last one before.
                    if last is None or (event.partition, event.redis_id) != (last.partition, last.redis_id):
                        last = event
                        moved_at = anyio.current_time()
                        backoff.worked()
                        yield event
                return
        except Unavailable as trouble:
            pause = backoff.pause(trouble.retry_after)
            if anyio.current_time() + pause - moved_at > give_up_after:
                raise
        await anyio.sleep(pause)


async def _lines(
    transport: Transport, topic: str, partition: int | None, params: dict[str, str | int | None]
) -> AsyncGenerator[bytes, None]:
    """Whole lines. One that was cut is never given on: the stream raises before its end is reached."""
    rest = b""
    async with transport.stream(history_path(topic, partition), params=params, accept=NDJSON) as answer:
        async for piece in answer.aiter_bytes():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line:
                    yield line
    if rest:
        yield rest


def _from_last(
    span: dict[str, str | int | None], partition: int | None, last: Kept | None
) -> dict[str, str | int | None]:
    if last is None:
        return span
    if partition is None:
        return {**span, "from_id": f"p{last.partition}@{last.redis_id}"}
    return {**span, "from_ms": None, "from_id": last.redis_id}

"""Server-sent events: frames, and answers that go on until the watcher leaves, its token ends or the node drains."""

from __future__ import annotations

from collections.abc import AsyncIterator

from quart import Response

from openstream_http.auth import Principal
from openstream_http.edge import edge

MEDIA_TYPE = "text/event-stream"
#: Seconds a stream lives at most; its watcher then comes again, and may be sent to another node.
LIFE = 3_600.0
#: Seconds without an event after which a comment says that the line is alive.
HEARTBEAT = 10.0
PULSE = b":\n\n"


def frame(event: str, data: bytes) -> bytes:
    """One event. In JSON a line break is white space, and in a frame it would be the end of the line."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data.replace(b"\r", b" ").replace(b"\n", b" "))


def life_of(principal: Principal) -> float:
    """Seconds a stream of this token's may go on."""
    return max(0.0, min(LIFE, principal.expires - edge().clock.now_ms() / 1000))


def event_stream(frames: AsyncIterator[bytes], life: float) -> Response:
    """`frames` ends by itself after `life`; one whose reader does not read is cut a little later."""
    response = Response(frames, content_type=MEDIA_TYPE)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # a proxy that collects answers would hold ours for ever
    response.timeout = life + 2 * HEARTBEAT
    return response

"""What moves, as it moves: the node in numbers every two seconds, and the new events of a topic."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated

import anyio
import msgspec
from msgspec import Meta
from quart import Blueprint, Response, request

from openstream_http import schemas, sse
from openstream_http.access import Reach, forbidden, permits, principal
from openstream_http.auth import Principal, Role
from openstream_http.connection import promise
from openstream_http.edge import edge
from openstream_http.limits import MAX_KEY_BYTES, MAX_TYPE_CHARS, Name, PartitionNumber
from openstream_http.openapi import describes
from openstream_http.queries import read_query
from openstream_http.rendering import tailed
from openstream_runtime.actors.audience import Seat
from openstream_runtime.domain.names import check_topic
from openstream_runtime.gateway.gateway import Gateway
from openstream_runtime.ports.meter import Clock

#: Seconds after which a snapshot comes when the sampler has not looked around again: it says how old its numbers are.
LONGEST = 5.0

live = Blueprint("live", __name__)


class LiveQuery(schemas.Request):
    """Whose partitions to show."""

    topic: Name | None = None


class TailQuery(schemas.Request):
    """Which events to show."""

    partition: PartitionNumber | None = None
    key: Annotated[str, Meta(max_length=MAX_KEY_BYTES)] | None = None
    event_type: Annotated[str, Meta(max_length=MAX_TYPE_CHARS)] | None = None


@live.get("/v1/live")
@permits(Role.PRODUCER, Role.CONSUMER, reach=Reach.TOPICS)
@describes("watching", query=LiveQuery, responses={200: sse.MEDIA_TYPE}, problems=(503,))
async def watch() -> Response:
    """The node in numbers, about every two seconds, as server-sent events.

    `history` comes first, for tokens that are not narrowed: the last quarter of an hour. Then a `snapshot` whenever the
    node has looked around, of the topics the token covers; `?topic=` adds that topic's partitions. `bye` says why it
    ends: come again.
    """
    who = principal()
    query = read_query(LiveQuery)
    if query.topic is not None and not who.allows(check_topic(query.topic)):
        raise forbidden("the token does not cover this topic")
    life = sse.life_of(who)
    return sse.event_stream(_snapshots(edge().gateway, edge().clock, who, query.topic, life), life)


@live.get("/v1/topics/<topic>/tail")
@permits(Role.CONSUMER)
@describes("history", query=TailQuery, responses={200: sse.MEDIA_TYPE}, problems=(429, 503))
async def tail(topic: str) -> Response:
    """New events from now on, as server-sent events: for people to look at, not to consume.

    `open` says that from here on nothing is missed unsaid. `events` holds some in the order of each partition, and in
    `dropped` how many were left out because there were too many. A payload above 4 KiB comes as its head, the text
    `payload_head`, with `payload_bytes`. `key`, `event_type` and `partition` narrow. `bye` says why it ends.
    """
    who = principal()
    query = read_query(TailQuery)
    partitions = None if query.partition is None else [query.partition]
    seat = await edge().gateway.tail(topic, partitions=partitions, key=query.key, event_type=query.event_type)
    promise(request._get_current_object(), seat.close)  # type: ignore[attr-defined]
    life = sse.life_of(who)
    return sse.event_stream(_events(seat, edge().clock, life), life)


async def _snapshots(
    gateway: Gateway, clock: Clock, who: Principal, topic: str | None, life: float
) -> AsyncIterator[bytes]:
    everything = who.topics is None
    allows: Callable[[str], bool] = who.allows
    ends = clock.monotonic() + life
    if everything:
        yield sse.frame("history", msgspec.json.encode(gateway.live_history()))
    while clock.monotonic() < ends:
        mark = gateway.live_mark()
        yield sse.frame("snapshot", msgspec.json.encode(gateway.live(allows, topic=topic, everything=everything)))
        if not await gateway.live_news(mark, min(LONGEST, ends - clock.monotonic())):
            yield _bye("the node is draining")
            return
    yield _bye("the stream has lived long enough, or its token has")


async def _events(seat: Seat, clock: Clock, life: float) -> AsyncIterator[bytes]:
    ends = clock.monotonic() + life
    yield sse.frame("open", b"{}")
    while clock.monotonic() < ends:
        heard = None
        with anyio.move_on_after(min(sse.HEARTBEAT, ends - clock.monotonic())):
            heard = await seat.take()
        if heard is None:
            yield sse.PULSE
        elif heard.events or heard.dropped:
            yield sse.frame("events", tailed(heard.events, heard.dropped))
        elif seat.ended is not None:
            yield _bye(seat.ended)
            return
    yield _bye("the stream has lived long enough, or its token has")


def _bye(why: str) -> bytes:
    return sse.frame("bye", msgspec.json.encode({"reason": why}))

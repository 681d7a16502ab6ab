"""The history of a topic: what Redis and PostgreSQL keep of it as one, in pages or as one stream of lines.

A stream that cannot go on, because a backend is away or the node is draining, is cut and never ended: its last chunk is
missing, and a client that has an end has everything.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from msgspec import Meta
from quart import Blueprint, Response, request

from openstream_http import schemas
from openstream_http.access import permits
from openstream_http.auth import Role
from openstream_http.cloudevents import outgoing
from openstream_http.cloudevents.schema import CloudEvent
from openstream_http.connection import StreamedResponse, promise
from openstream_http.edge import edge
from openstream_http.limits import MAX_EVENTS, MAX_KEY_BYTES, MAX_TYPE_CHARS, EventId, Milliseconds, PlaceId
from openstream_http.negotiation import CLOUD_EVENTS, JSON, LINES, VARY, wanted
from openstream_http.openapi import describes
from openstream_http.problems import HTTP_VERSION, NOT_FOUND, Problem, invalid
from openstream_http.queries import read_query
from openstream_http.rendering import kept, lines, raw_response
from openstream_runtime.domain.errors import InvalidRequest
from openstream_runtime.domain.history import END, Place, Span, first_at, last_at
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.topics import MAX_PARTITIONS
from openstream_runtime.gateway.results import HistoryPage

#: Bytes handed to the server at once: it waits until the client has taken most of them.
PIECE = 64 << 10

history = Blueprint("history", __name__)


class HistoryQuery(schemas.Request, kw_only=True):
    """Which events. Bounds are inclusive; a time is that in the id, when Redis took the event."""

    from_ms: Milliseconds | None = None
    to_ms: Milliseconds | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_EVENTS, description="of one page; 100 when not given")] | None = None
    key: Annotated[str, Meta(min_length=1, max_length=MAX_KEY_BYTES, description="that partition_key")] | None = None
    event_type: Annotated[str, Meta(min_length=1, max_length=MAX_TYPE_CHARS)] | None = None


class PartitionHistoryQuery(HistoryQuery, kw_only=True):
    from_id: EventId | None = None
    to_id: EventId | None = None


class TopicHistoryQuery(HistoryQuery, kw_only=True):
    from_id: (
        Annotated[PlaceId, Meta(description="where to go on: the next_id of an answer, beside the same query")] | None
    ) = None


class KeptEvent(schemas.Answer):
    """One event."""

    partition: int
    redis_id: str
    event_type: str
    partition_key: str | None
    payload: Any
    timestamp_ms: int
    #: `{}` when the event came without any.
    headers: dict[str, str]


class HistoryAnswer(schemas.Answer):
    """Events in order inside each partition. `next_id`: the first one not here, for `from_id`; null at the end."""

    topic: str
    events: list[KeptEvent]
    next_id: str | None


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a request asks for, of one partition or of all."""

    topic: str
    partition: int | None
    span: Span
    at: Place | None
    limit: int | None


@history.get("/v1/topics/<topic>/partitions/<partition>/events")
@permits(Role.CONSUMER)
@describes(
    "history",
    query=PartitionHistoryQuery,
    responses={200: HistoryAnswer},
    answer_lines=KeptEvent,
    answer_also={CLOUD_EVENTS: list[CloudEvent]},
    problems=(406, 410, 429, 503),
)
async def partition_history(topic: str, partition: str) -> Response:
    """Read what is kept of a partition, by id or time, key and type.

    Redis and PostgreSQL answer as one. All bounds are inclusive, and times are those in the ids. Without `from_id` and
    `from_ms` it begins with the first event that is kept; who asks for earlier ones gets a 410 with `earliest_id`. A
    page may hold fewer events than `limit`, or none, and still have a `next_id`: the same query, with it as `from_id`
    in the place of `from_ms`, goes on.

    With `Accept: application/x-ndjson` the answer is the whole range up to what is there now, one event a line, without
    a limit. A body that breaks off lacks something: with the last `redis_id` as `from_id` it goes on, and that event
    comes again.

    With `Accept: application/cloudevents-batch+json` a page is a batch of CloudEvents, and the next page is where the
    answer's `Link` with `rel="next"` leads; the last page has none.
    """
    asked = read_query(PartitionHistoryQuery)
    if asked.from_id is not None and asked.from_ms is not None:
        raise invalid("from_id and from_ms exclude each other", "query", "from_ms")
    if asked.to_id is not None and asked.to_ms is not None:
        raise invalid("to_id and to_ms exclude each other", "query", "to_ms")
    first = None if asked.from_id is None else _position(asked.from_id, "from_id")
    last = None if asked.to_id is None else _position(asked.to_id, "to_id")
    return await _answer(_Wish(topic, _number(partition), _span(asked, first, last), None, asked.limit))


@history.get("/v1/topics/<topic>/events")
@permits(Role.CONSUMER)
@describes(
    "history",
    query=TopicHistoryQuery,
    responses={200: HistoryAnswer},
    answer_lines=KeptEvent,
    answer_also={CLOUD_EVENTS: list[CloudEvent]},
    problems=(406, 410, 429, 503),
)
async def topic_history(topic: str) -> Response:
    """Read what is kept of a topic: its partitions one after the other, in order inside each.

    As for one partition, but ids go with their partition: `from_id` is `p<partition>@<id>`, as `next_id` has it, and
    says where to go on, nothing else. It is added to the same query: `from_ms` still holds for the partitions after.
    After a 410, `p<partition>@<earliest_id>` goes on behind the gap.
    """
    asked = read_query(TopicHistoryQuery)
    at = None if asked.from_id is None else _place(asked.from_id)
    return await _answer(_Wish(topic, None, _span(asked, None, None), at, asked.limit))


async def _answer(wish: _Wish) -> Response:
    media = wanted(JSON, *LINES, CLOUD_EVENTS)
    if media in LINES:
        return await _stream(wish, media)
    page = await edge().gateway.history(wish.topic, wish.partition, wish.span, limit=wish.limit or 100, at=wish.at)
    next_id = page.next.position if page.next is not None and wish.partition is not None else page.next
    if media == CLOUD_EVENTS:
        headers = VARY if next_id is None else {**VARY, "Link": _link(next_id)}
        return raw_response(outgoing.kept(wish.topic, page.events), headers=headers, media=media)
    return raw_response(kept(wish.topic, page.events, next_id), headers=VARY)


def _link(next_id: Place | Position) -> str:
    """Where a client that follows links finds the next page: the same query from there on."""
    query = request.args.to_dict() | {"from_id": str(next_id)}
    if isinstance(next_id, Position):
        query.pop("from_ms", None)  # of one partition, `from_id` stands in its place
    return f'<{quote(request.path)}?{urlencode(query)}>; rel="next"'


async def _stream(wish: _Wish, media: str) -> Response:
    if wish.limit is not None:
        raise invalid("a stream has no limit; bound it by to_id or to_ms", "query", "limit")
    if request.http_version == "1.0":
        raise Problem(HTTP_VERSION, "a stream needs HTTP/1.1: in 1.0 its end looks like one that was cut")
    promise(request._get_current_object(), edge().streams.take())  # type: ignore[attr-defined]
    pages = edge().gateway.history_pages(wish.topic, wish.partition, wish.span, at=wish.at)
    # What is wrong with the request shows at the first page, while there still can be a status.
    first = await anext(pages, None)
    if request.method == "HEAD":
        await pages.aclose()
        return Response(b"", headers=VARY, content_type=media)
    headers = {**VARY, "X-Accel-Buffering": "no"}  # a proxy that collects lines would give them late
    response = StreamedResponse(_lines(first, pages), headers=headers, content_type=media)
    response.timeout = None  # it takes as long as its reader likes; one that takes nothing is cut by listener.STALL
    return response


async def _lines(page: HistoryPage | None, pages: AsyncGenerator[HistoryPage, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pages):
        while page is not None:
            data = lines(page.events)
            for start in range(0, len(data), PIECE):
                yield data[start : start + PIECE]
            page = await anext(pages, None)


def _span(asked: HistoryQuery, first: Position | None, last: Position | None) -> Span:
    if first is None:
        first = ZERO if asked.from_ms is None else first_at(asked.from_ms)
    if last is None:
        last = END if asked.to_ms is None else last_at(asked.to_ms)
    if first > last:
        raise invalid("the range ends before it begins", "query")
    return Span(first, last, asked.key, asked.event_type)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) < MAX_PARTITIONS):
        raise Problem(NOT_FOUND, "no topic has such a partition")
    return int(text)


def _position(text: str, name: str) -> Position:
    try:
        return Position.parse(text)
    except InvalidRequest as error:
        raise invalid(error.detail, "query", name) from None


def _place(text: str) -> Place:
    try:
        place = Place.parse(text)
    except InvalidRequest as error:
        raise invalid(error.detail, "query", "from_id") from None
    if place is None:
        raise invalid("expected p<partition>@<ms>-<seq>, the next_id of an answer", "query", "from_id")
    return place

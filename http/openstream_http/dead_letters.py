"""Dead letters: what a group gave up on, and the way back."""

from __future__ import annotations

import msgspec
from quart import Blueprint, Response

from openstream_http import dead_letter_schemas as schemas
from openstream_http.access import permits
from openstream_http.auth import Role
from openstream_http.bodies import read_json
from openstream_http.edge import edge
from openstream_http.openapi import describes
from openstream_http.problems import invalid
from openstream_http.queries import read_query
from openstream_http.rendering import json_response, kept_event, raw_response, text
from openstream_http.schemas import decoder_of
from openstream_runtime.domain.errors import InvalidRequest
from openstream_runtime.domain.history import Place
from openstream_runtime.gateway.dead_letters import Letter

_LETTERS = "/v1/topics/<topic>/groups/<group>/dead-letters"

dead_letters = Blueprint("dead_letters", __name__)
_REDRIVE = decoder_of(schemas.RedriveRequest)


@dead_letters.get(_LETTERS)
@permits(Role.CONSUMER)
@describes("groups", query=schemas.DeadLettersQuery, responses={200: schemas.DeadLetterList}, problems=(503,))
async def list_dead_letters(topic: str, group: str) -> Response:
    """The events a group gave up on, with the reason and where they stood; those that went back too."""
    asked = read_query(schemas.DeadLettersQuery)
    at = None if asked.from_id is None else _place(asked.from_id, "query", "from_id")
    page = await edge().gateway.dead_letters(topic, group, limit=asked.limit, at=at)
    return raw_response(
        b'{"topic":%b,"group":%b,"dead_letter_topic":%b,"dead_letters":[%b],"next_id":%b}'
        % (
            text(topic),
            text(group),
            text(page.topic),
            b",".join(map(_letter, page.letters)),
            b"null" if page.next is None else text(str(page.next)),
        )
    )


@dead_letters.post(f"{_LETTERS}/redrive")
@permits(Role.ADMIN)
@describes("groups", request=schemas.RedriveRequest, responses={200: schemas.RedriveAnswer}, problems=(409, 429, 503))
async def redrive(topic: str, group: str) -> Response:
    """Send dead letters back, each once, as new events at the end of their topic, with deliveries counted anew.

    To the `group`: every other group passes over them. To the `topic`: all groups get them. A request does what it can
    in some seconds; while there is a `next_id`, ask again with it. Whoever repeats a request, or begins from the start,
    sends nothing twice.
    """
    asked = await read_json(_REDRIVE)
    if (asked.ids is None) == (asked.all is None):
        raise invalid("expected ids or all", "ids")
    if asked.ids is not None and asked.from_id is not None:
        raise invalid("from_id goes with all", "from_id")
    at = None if asked.from_id is None else _place(asked.from_id, "from_id")
    ids = None if asked.ids is None else [_place(one, "ids", index) for index, one in enumerate(asked.ids)]
    done = await edge().gateway.redrive(topic, group, to=asked.to, ids=ids, at=at)
    return json_response(
        schemas.RedriveAnswer(
            topic,
            group,
            done.topic,
            asked.to,
            done.redriven,
            done.already,
            list(map(str, done.unknown)),
            None if done.next is None else str(done.next),
        )
    )


def _letter(one: Letter) -> bytes:
    letter = one.letter
    more = {
        "letter_id": str(Place(letter.partition, letter.event.position)),
        "origin": {"topic": letter.topic, "partition": letter.origin_partition, "redis_id": str(letter.origin)},
        "reason": letter.reason,
        "deliveries": letter.deliveries,
        "consumer": letter.consumer,
        "died_ms": letter.event.position.ms,
        "redriven": one.redriven,
    }
    return kept_event(letter.partition, letter.event)[:-1] + b"," + msgspec.json.encode(more)[1:]


def _place(text: str, *loc: str | int) -> Place:
    try:
        place = Place.parse(text)
    except InvalidRequest as error:
        raise invalid(error.detail, *loc) from None
    if place is None:
        raise invalid("expected p<partition>@<ms>-<seq>", *loc)
    return place

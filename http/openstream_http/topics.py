"""Topics: make, look at, remove."""

from __future__ import annotations

from quart import Blueprint, Response

from openstream_http import schemas
from openstream_http.access import permits, principal
from openstream_http.auth import Role
from openstream_http.bodies import read_json
from openstream_http.edge import edge
from openstream_http.openapi import describes
from openstream_http.rendering import json_response
from openstream_runtime.domain.topics import Topic, TopicSettings

topics = Blueprint("topics", __name__)
_REQUEST = schemas.decoder_of(schemas.TopicRequest)


@topics.put("/v1/topics/<topic>")
@permits(Role.ADMIN)
@describes(
    "topics",
    request=schemas.TopicRequest,
    responses={200: schemas.TopicAnswer, 201: schemas.TopicAnswer},
    problems=(409, 429, 503),
    body_optional=True,
)
async def put_topic(topic: str) -> Response:
    """Create a topic, or set its settings.

    The settings become what the body says; what it leaves out goes back to the default. The partition count is set
    once: another count for a topic that exists is a 409. An absent body is an empty object.
    """
    asked = await read_json(_REQUEST, empty=b"{}")
    settings = TopicSettings(asked.retention_ms, asked.retention_bytes, asked.history_ms, asked.max_stream_len)
    found, is_new = await edge().gateway.put_topic(topic, asked.partitions, settings)
    if is_new:
        return json_response(_answer(found), 201, {"Location": f"/v1/topics/{topic}"})
    return json_response(_answer(found))


@topics.get("/v1/topics")
@permits(Role.PRODUCER, Role.CONSUMER)
@describes("topics", responses={200: schemas.TopicList}, problems=(503,))
async def list_topics() -> Response:
    """Topics the token covers."""
    allows = principal().allows
    found = await edge().gateway.topics()
    return json_response(schemas.TopicList([_answer(topic) for topic in found if allows(topic.name)]))


@topics.get("/v1/topics/<topic>")
@permits(Role.PRODUCER, Role.CONSUMER)
@describes("topics", responses={200: schemas.TopicAnswer}, problems=(503,))
async def get_topic(topic: str) -> Response:
    """One topic."""
    return json_response(_answer(await edge().gateway.topic(topic)))


@topics.delete("/v1/topics/<topic>")
@permits(Role.ADMIN)
@describes("topics", responses={202: schemas.TopicDeleting}, problems=(503,))
async def delete_topic(topic: str) -> Response:
    """Delete a topic: streams, groups and stored rows, in the background."""
    found = await edge().gateway.delete_topic(topic)
    return json_response(schemas.TopicDeleting(found.name), 202)


def _answer(topic: Topic) -> schemas.TopicAnswer:
    settings = topic.settings
    return schemas.TopicAnswer(
        topic.name,
        topic.partitions,
        settings.retention_ms,
        settings.retention_bytes,
        settings.history_ms,
        settings.max_stream_len,
        topic.created_ms,
        topic.history_floor_ms,
    )

"""Replays: copy a part of a topic's history into another topic, watch it, cancel it."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, Response

from openstream_http import replay_schemas as schemas
from openstream_http.access import forbidden, permits, principal
from openstream_http.auth import Role
from openstream_http.bodies import read_json
from openstream_http.edge import edge
from openstream_http.openapi import describes
from openstream_http.problems import invalid
from openstream_http.rendering import json_response
from openstream_http.schemas import decoder_of
from openstream_runtime.domain.errors import InvalidRequest, NotFound
from openstream_runtime.domain.names import check_topic
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.replays import Replay
from openstream_runtime.gateway.replaying import ReplayWish

replays = Blueprint("replays", __name__)
_REQUEST = decoder_of(schemas.ReplayRequest)


@replays.post("/v1/topics/<topic>/replays")
@permits(Role.ADMIN)
@describes(
    "replays",
    request=schemas.ReplayRequest,
    responses={202: schemas.ReplayDetail},
    problems=(409, 410, 503),
)
async def create_replay(topic: str) -> Response:
    """Copy a part of a topic's history into another topic, in the background.

    What it covers is fixed now. An unknown target is created with the source's partition count. Keys decide the target
    partition as for a producer; each copy carries its origin in the header `openstream-replay-of`
    (`<topic>/<partition>/<id>`) and the replay's id in `openstream-replay`. Each event is copied once, whatever dies.
    """
    asked = await read_json(_REQUEST)
    try:
        target = check_topic(asked.target_topic)
    except InvalidRequest as error:
        raise invalid(error.detail, "target_topic") from None
    if not principal().allows(target):
        raise forbidden("the token does not cover the target topic")
    if target == topic:
        raise invalid("a topic cannot be replayed into itself", "target_topic")
    if asked.from_id is not None and asked.from_ms is not None:
        raise invalid("from_id and from_ms exclude each other", "from_ms")
    if asked.to_id is not None and asked.to_ms is not None:
        raise invalid("to_id and to_ms exclude each other", "to_ms")
    wish = ReplayWish(
        target,
        _position(asked.from_id, "from_id"),
        asked.from_ms,
        _position(asked.to_id, "to_id"),
        asked.to_ms,
        asked.partitions,
        asked.rate_per_s,
    )
    made = await edge().gateway.create_replay(topic, wish)
    return json_response(_detail(made), 202, {"Location": f"/v1/replays/{made.id}"})


@replays.get("/v1/replays")
@permits(Role.ADMIN)
@describes("replays", responses={200: schemas.ReplayList}, problems=(503,))
async def list_replays() -> Response:
    """Replays whose topics the token covers: all that run, and the newest that have ended."""
    found = await edge().gateway.replays()
    return json_response(schemas.ReplayList([_answer(replay) for replay in found if _covered(replay)]))


@replays.get("/v1/replays/<replay_id>")
@permits(Role.ADMIN)
@describes("replays", responses={200: schemas.ReplayDetail}, problems=(503,))
async def get_replay(replay_id: str) -> Response:
    """How far a replay has come; at most a second old."""
    return json_response(_detail(await _find(replay_id)))


@replays.delete("/v1/replays/<replay_id>")
@permits(Role.ADMIN)
@describes("replays", responses={202: schemas.ReplayDetail}, problems=(409, 503))
async def cancel_replay(replay_id: str) -> Response:
    """Cancel a replay: it ends within a second, and what it has copied stays. One that has ended is a 409."""
    await _find(replay_id)
    return json_response(_detail(await edge().gateway.cancel_replay(replay_id)), 202)


async def _find(replay_id: str) -> Replay:
    found = await edge().gateway.replay(replay_id)
    if not _covered(found):  # the same answer as for one that does not exist
        raise NotFound(f"there is no replay {replay_id[:64]!r}", replay_id=replay_id[:64])
    return found


def _covered(replay: Replay) -> bool:
    allows = principal().allows
    return allows(replay.source) and allows(replay.target)


def _position(text: str | None, field: str) -> Position | None:
    if text is None:
        return None
    try:
        return Position.parse(text)
    except InvalidRequest as error:
        raise invalid(error.detail, field) from None


def _answer(replay: Replay) -> schemas.ReplayAnswer:
    return schemas.ReplayAnswer(**_facts(replay))


def _detail(replay: Replay) -> schemas.ReplayDetail:
    parts = [
        schemas.ReplayPartAnswer(part.partition, str(part.position), str(part.upto), part.copied)
        for part in replay.parts
    ]
    return schemas.ReplayDetail(**_facts(replay), partitions=parts)


def _facts(replay: Replay) -> dict[str, Any]:
    return {
        "replay_id": replay.id,
        "state": replay.state,
        "topic": replay.source,
        "target_topic": replay.target,
        "from_id": None if replay.first is None else str(replay.first),
        "to_id": None if replay.last is None else str(replay.last),
        "rate_per_s": replay.rate_per_s,
        "copied": replay.copied,
        "total": None if replay.total is None else max(replay.total, replay.copied),
        "rate": round(replay.rate, 1),
        "eta_ms": replay.eta_ms,
        "error": replay.error,
        "node": replay.owner,
        "created_ms": replay.created_ms,
        "updated_ms": replay.updated_ms,
        "finished_ms": replay.finished_ms,
    }

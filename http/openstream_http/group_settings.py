"""What is set on a consumer group: shown, checked, changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from msgspec import UNSET, structs
from quart import Blueprint, Response

from openstream_http import group_schemas as schemas
from openstream_http.access import forbidden, permits, principal
from openstream_http.auth import Role
from openstream_http.bodies import read_json
from openstream_http.edge import edge
from openstream_http.openapi import describes
from openstream_http.problems import invalid
from openstream_http.rendering import json_response
from openstream_http.schemas import decoder_of
from openstream_runtime.domain.dead_letters import dead_letter_topic
from openstream_runtime.domain.errors import InvalidRequest
from openstream_runtime.domain.names import check_topic
from openstream_runtime.domain.topics import Group

group_settings = Blueprint("group_settings", __name__)
_PATCH = decoder_of(schemas.GroupPatch)


@group_settings.patch("/v1/topics/<topic>/groups/<group>")
@permits(Role.ADMIN)
@describes("groups", request=schemas.GroupPatch, responses={200: schemas.GroupSettingsAnswer}, problems=(503,))
async def alter_group(topic: str, group: str) -> Response:
    """Change what is set on a group; what is left out stays.

    A paused group's reads and claims come back empty until it is resumed; acks, nacks and dead letters go on.
    """
    asked = await read_json(_PATCH)
    changes = {name: value for name, value in structs.asdict(asked).items() if value is not UNSET}
    check_dead_letters(changes.get("dead_letter_topic"))
    altered = await edge().gateway.alter_group(topic, group, lambda settings: replace(settings, **changes))
    return json_response(schemas.GroupSettingsAnswer(**settings_of(altered)))


def settings_of(group: Group) -> dict[str, Any]:
    return {
        "topic": group.topic,
        "group": group.name,
        "visibility": group.visibility,
        "max_deliveries": group.settings.max_deliveries,
        "claim_idle_ms": group.settings.claim_idle_ms,
        "dead_letter_topic": dead_letter_topic(group),
        "paused": group.settings.paused,
    }


def check_dead_letters(name: str | None) -> None:
    """The name of a topic, and one the token covers: dead letters are written there."""
    if name is not None and not principal().allows(named(check_topic, name, "dead_letter_topic")):
        raise forbidden("the token does not cover the dead-letter topic")


def named(check: Callable[[str], str], name: str, field: str) -> str:
    try:
        return check(name)
    except InvalidRequest as error:
        raise invalid(error.detail, field) from None

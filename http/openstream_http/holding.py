"""What a consumer holds: given back for another delivery, or kept for longer."""

from __future__ import annotations

from quart import Blueprint, Response

from openstream_http import group_schemas as schemas
from openstream_http.access import permits
from openstream_http.auth import Role
from openstream_http.bodies import read_json
from openstream_http.edge import edge
from openstream_http.group_settings import named
from openstream_http.groups import positions_of
from openstream_http.openapi import describes
from openstream_http.rendering import json_response
from openstream_http.schemas import decoder_of
from openstream_runtime.domain.names import check_consumer

_GROUP = "/v1/topics/<topic>/groups/<group>"

holding = Blueprint("holding", __name__)
_NACK = decoder_of(schemas.NackRequest)
_EXTEND = decoder_of(schemas.ExtendRequest)


@holding.post(f"{_GROUP}/nack")
@permits(Role.CONSUMER)
@describes("groups", request=schemas.NackRequest, responses={200: schemas.Nacked}, problems=(503,))
async def nack(topic: str, group: str) -> Response:
    """Give events back, to be handed out again after `delay_ms`.

    The delivery counts: one that was the last the group allows makes the event a dead letter at once.
    """
    asked = await read_json(_NACK)
    consumer = None if asked.consumer is None else named(check_consumer, asked.consumer, "consumer")
    done = await edge().gateway.nack(
        topic, group, positions_of(asked.items), consumer=consumer, delay_ms=asked.delay_ms
    )
    return json_response(schemas.Nacked(topic, group, done.again + done.dead, done.dead))


@holding.post(f"{_GROUP}/extend")
@permits(Role.CONSUMER)
@describes("groups", request=schemas.ExtendRequest, responses={200: schemas.Extended}, problems=(503,))
async def extend(topic: str, group: str) -> Response:
    """Keep events for longer: the time they may be held without an ack begins anew.

    For handlers that take longer than the group's `claim_idle_ms`. What is lost is with somebody else, or soon will be.
    """
    asked = await read_json(_EXTEND)
    consumer = named(check_consumer, asked.consumer, "consumer")
    items = {partition: list(dict.fromkeys(ids)) for partition, ids in positions_of(asked.items).items()}
    lost = await edge().gateway.extend(topic, group, consumer, items)
    count = sum(map(len, items.values())) - sum(map(len, lost.values()))
    held = [schemas.HeldItem(partition, list(map(str, ids))) for partition, ids in sorted(lost.items())]
    return json_response(schemas.Extended(topic, group, consumer, count, held))

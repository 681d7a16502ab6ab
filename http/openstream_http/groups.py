"""Consumer groups: make, look at, read, ack, claim, reset, remove."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quart import Blueprint, Response, request

from openstream_http import group_schemas as schemas
from openstream_http import limits
from openstream_http.access import permits
from openstream_http.auth import Role
from openstream_http.bodies import read_json
from openstream_http.cloudevents import outgoing
from openstream_http.cloudevents.schema import CloudEvent
from openstream_http.connection import Receipt, promise
from openstream_http.edge import edge
from openstream_http.group_settings import check_dead_letters, named, settings_of
from openstream_http.negotiation import CLOUD_EVENTS, JSON, VARY, wanted
from openstream_http.openapi import describes
from openstream_http.problems import invalid
from openstream_http.rendering import handed_out, json_response
from openstream_http.schemas import decoder_of
from openstream_runtime.domain.errors import InvalidRequest
from openstream_runtime.domain.events import Delivery
from openstream_runtime.domain.names import check_consumer, check_group
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import GroupSettings
from openstream_runtime.gateway.preview import ResetPreview
from openstream_runtime.gateway.results import Handout
from openstream_runtime.ports.groups import GroupPartition

_GROUPS = "/v1/topics/<topic>/groups"
_GROUP = f"{_GROUPS}/<group>"

groups = Blueprint("groups", __name__)
_CREATE = decoder_of(schemas.GroupRequest)
_READ = decoder_of(schemas.ReadRequest)
_ACK = decoder_of(schemas.AckRequest)
_CLAIM = decoder_of(schemas.ClaimRequest)
_RESET = decoder_of(schemas.ResetRequest)


@groups.post(_GROUPS)
@permits(Role.ADMIN)
@describes(
    "groups",
    request=schemas.GroupRequest,
    responses={200: schemas.GroupAnswer, 201: schemas.GroupAnswer},
    problems=(409, 503),
)
async def create_group(topic: str) -> Response:
    """Create a group on every partition of a topic.

    Begins at `start_id` (`$` when neither is given) or at `start_ms`. One that exists is left as it is: 200.
    """
    asked = await read_json(_CREATE)
    name = named(check_group, asked.group, "group")
    start_id = _start_id(asked.start_id, asked.start_ms)
    if start_id is None and asked.start_ms is None:
        start_id = "$"
    check_dead_letters(asked.dead_letter_topic)
    done = await edge().gateway.create_group(
        topic,
        name,
        start_id=start_id,
        start_ms=asked.start_ms,
        visibility=asked.visibility,
        settings=GroupSettings(asked.max_deliveries, asked.claim_idle_ms, asked.dead_letter_topic, asked.paused),
    )
    answer = schemas.GroupAnswer(**settings_of(done.group), partitions=done.partitions, created=done.created)
    if done.is_new:
        return json_response(answer, 201, {"Location": f"/v1/topics/{topic}/groups/{name}"})
    return json_response(answer)


@groups.get(_GROUPS)
@permits(Role.CONSUMER)
@describes("groups", responses={200: schemas.GroupList}, problems=(503,))
async def list_groups(topic: str) -> Response:
    """The groups of a topic."""
    names = await edge().gateway.groups(topic)
    return json_response(schemas.GroupList(topic, [schemas.GroupName(name) for name in names]))


@groups.get(_GROUP)
@permits(Role.CONSUMER)
@describes("groups", responses={200: schemas.GroupDescription}, problems=(503,))
async def describe_group(topic: str, group: str) -> Response:
    """What is set on a group, and where it stands on each partition."""
    settings = settings_of(await edge().gateway.group(topic, group))
    found = [_partition(one) for one in await edge().gateway.describe_group(topic, group)]
    lags = [one.lag for one in found if one.lag is not None]
    lag = sum(lags) if len(lags) == len(found) else None
    pending = sum(one.pending for one in found)
    return json_response(schemas.GroupDescription(**settings, pending=pending, lag=lag, partitions=found))


@groups.delete(_GROUP)
@permits(Role.ADMIN)
@describes("groups", responses={204: None}, problems=(503,))
async def delete_group(topic: str, group: str) -> Response:
    """Delete a group and what it had pending."""
    await edge().gateway.delete_group(topic, group)
    return Response(status=204)


@groups.post(f"{_GROUP}/read")
@permits(Role.CONSUMER)
@describes(
    "groups",
    request=schemas.ReadRequest,
    responses={200: schemas.ReadAnswer},
    answer_also={CLOUD_EVENTS: list[CloudEvent]},
    problems=(406, 409, 429, 503),
)
async def read(topic: str, group: str) -> Response:
    """Read as a consumer of a group, waiting up to `block_ms` for the first event.

    Any node serves any consumer. Events of a client that is gone before its answer are given to the next reader.

    With `Accept: application/cloudevents-batch+json` the answer is a batch of CloudEvents: acks name them by their
    `openstreampartition` and `openstreamid`.
    """
    media = wanted(JSON, CLOUD_EVENTS)
    asked = await read_json(_READ)
    consumer = named(check_consumer, asked.consumer, "consumer")
    partitions = _distinct(asked.partitions)
    handout = await edge().gateway.read(
        topic, group, consumer, count=asked.count, block_ms=asked.block_ms, partitions=partitions
    )
    return _hand_over(handout, topic, group, consumer, media, claimed=False)


@groups.post(f"{_GROUP}/claim")
@permits(Role.CONSUMER)
@describes(
    "groups",
    request=schemas.ClaimRequest,
    responses={200: schemas.ClaimAnswer},
    answer_also={CLOUD_EVENTS: list[CloudEvent]},
    problems=(406, 409, 429, 503),
)
async def claim(topic: str, group: str) -> Response:
    """Take over events that other consumers hold for longer than `min_idle_ms`.

    With `Accept: application/cloudevents-batch+json` they come as those of a read do.
    """
    media = wanted(JSON, CLOUD_EVENTS)
    asked = await read_json(_CLAIM)
    consumer = named(check_consumer, asked.consumer, "consumer")
    partitions = _distinct(asked.partitions)
    handout = await edge().gateway.claim(
        topic, group, consumer, min_idle_ms=asked.min_idle_ms, count=asked.count, partitions=partitions
    )
    return _hand_over(handout, topic, group, consumer, media, claimed=True)


@groups.post(f"{_GROUP}/ack")
@permits(Role.CONSUMER)
@describes("groups", request=schemas.AckRequest, responses={200: schemas.Acked}, problems=(503,))
async def ack(topic: str, group: str) -> Response:
    """Acknowledge events; acking again is no error."""
    asked = await read_json(_ACK)
    items = positions_of(asked.items)
    acked = await edge().gateway.ack(topic, group, items)
    return json_response(schemas.Acked(topic, group, acked))


@groups.post(f"{_GROUP}/reset")
@permits(Role.ADMIN)
@describes("groups", request=schemas.ResetRequest, responses={200: schemas.ResetAnswer}, problems=(409, 503))
async def reset(topic: str, group: str) -> Response:
    """Move a group to another place; what it had pending is dropped and counted.

    With `dry_run` nothing is changed: the answer says, partition by partition, what would be.
    """
    asked = await read_json(_RESET)
    start_id = _start_id(asked.start_id, asked.start_ms)
    if start_id is None and asked.start_ms is None:
        raise invalid("expected start_id or start_ms", "start_id")
    if asked.dry_run:
        seen = await edge().gateway.preview_reset(
            topic, group, start_id=start_id, start_ms=asked.start_ms, partitions=_distinct(asked.partitions)
        )
        return json_response(_preview(topic, group, seen))
    done = await edge().gateway.reset(
        topic, group, start_id=start_id, start_ms=asked.start_ms, partitions=_distinct(asked.partitions)
    )
    return json_response(
        schemas.ResetAnswer(topic, group, done.start_id, done.updated_partitions, done.discarded_pending)
    )


def _hand_over(handout: Handout, topic: str, group: str, consumer: str, media: str, *, claimed: bool) -> Response:
    """The answer with the events, which also says what became of them. No await between here and the handout."""
    try:
        if media == CLOUD_EVENTS:
            data = outgoing.handed_out(topic, handout.deliveries)
        else:
            data = handed_out(topic, group, consumer, handout.deliveries, claimed)
        receipt = Receipt(data, handout, _count_delays(topic, group, handout.deliveries))
    except BaseException:
        handout.give_back()
        raise
    promise(request._get_current_object(), receipt.settle)  # type: ignore[attr-defined]
    response = Response(receipt, headers=VARY, content_type=media)
    response.content_length = len(receipt.data)
    return response


def _count_delays(topic: str, group: str, deliveries: Sequence[Delivery]) -> Callable[[], None] | None:
    """What to do when an answer has left: count how long its events were on their way."""
    meter, clock = edge().meter, edge().clock
    if meter is None or not deliveries:
        return None
    return lambda: meter.delivery_delay(topic, group, deliveries, clock.now_ms())


def _preview(topic: str, group: str, seen: ResetPreview) -> schemas.ResetAnswer:
    partitions = [
        schemas.ResetPartition(
            one.partition, str(one.old), str(one.new), one.pending, one.replayed, one.skipped, one.at_least
        )
        for one in seen.partitions
    ]
    pending = sum(one.pending for one in seen.partitions)
    return schemas.ResetAnswer(topic, group, seen.start_id, len(partitions), pending, True, partitions)


def _partition(found: GroupPartition) -> schemas.GroupPartitionAnswer:
    return schemas.GroupPartitionAnswer(
        found.partition,
        str(found.last_delivered),
        found.pending,
        found.lag,
        found.lag_ms,
        [schemas.ConsumerAnswer(one.name, one.pending, one.idle_ms) for one in found.consumers],
        "redis" if found.cold_upto is None else "postgres",
    )


def _start_id(start_id: str | None, start_ms: int | None) -> str | None:
    if start_id is None:
        return None
    if start_ms is not None:
        raise invalid("start_id and start_ms exclude each other", "start_ms")
    return start_id if start_id == "$" else str(_position(start_id, "start_id"))


def _position(text: str, *at: str | int) -> Position:
    try:
        return Position.parse(text)
    except InvalidRequest as error:
        raise invalid(error.detail, *at) from None


def positions_of(asked: Sequence[schemas.AckItem]) -> dict[int, list[Position]]:
    """The ids of a request by partition."""
    items: dict[int, list[Position]] = {}
    for index, item in enumerate(asked):
        positions = items.setdefault(item.partition, [])
        for place, redis_id in enumerate(item.redis_ids):
            positions.append(_position(redis_id, "items", index, "redis_ids", place))
    if sum(map(len, items.values())) > limits.MAX_EVENTS:
        raise invalid(f"expected at most {limits.MAX_EVENTS} ids in all", "items")
    return items


def _distinct(partitions: Sequence[int] | None) -> list[int] | None:
    """Each partition once, in the order asked for."""
    return None if partitions is None else list(dict.fromkeys(partitions))

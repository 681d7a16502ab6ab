"""What is set on a group, what its consumers give back or keep, and its dead letters, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from openstream_http import dead_letter_schemas
from openstream_http import group_schemas as schemas
from openstream_http.auth import Role
from openstream_runtime.domain.dead_letters import Redrive
from openstream_runtime.domain.errors import Overloaded, Unavailable
from openstream_runtime.domain.topics import GroupSettings
from support.edge import Answer, EdgeClient
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio

GROUPS = "/v1/topics/orders/groups"
GROUP = f"{GROUPS}/g"
LETTERS = f"{GROUP}/dead-letters"
READ = {"consumer": "c", "block_ms": 0}


@pytest.fixture
async def filled(client: EdgeClient) -> EdgeClient:
    """Topic `orders` of one partition with a group from the beginning and 5 events."""
    await client.put("/v1/topics/orders", {"partitions": 1})
    await client.post(GROUPS, {"group": "g", "start_id": "0-0", "max_deliveries": 2})
    events = [{"event_type": "t", "partition_key": f"k{n}", "payload": {"n": n}} for n in range(5)]
    await client.post("/v1/topics/orders/events", {"events": events})
    return client


async def read(client: EdgeClient, count: int = 100) -> list[dict[str, Any]]:
    """What a read hands out, as an ack or a nack of all of it wants it."""
    found = (await client.post(f"{GROUP}/read", READ | {"count": count}, role=Role.CONSUMER)).json(schemas.ReadAnswer)
    return [{"partition": 0, "redis_ids": [one.redis_id for one in found.events]}]


async def nack(client: EdgeClient, items: list[dict[str, Any]], **more: Any) -> Answer:
    return await client.post(f"{GROUP}/nack", {"items": items, **more}, role=Role.CONSUMER)


async def dead(client: EdgeClient) -> list[str]:
    """Have every event die; the ids of the letters."""
    for _ in range(2):
        await nack(client, await read(client))
    found = (await client.get(LETTERS)).json(dead_letter_schemas.DeadLetterList)
    return [one.letter_id for one in found.dead_letters]


# ---- settings


async def test_what_is_set_at_creation_and_later_is_shown(filled: EdgeClient, gateway: FakeGateway) -> None:
    wish = {"group": "w", "max_deliveries": 5, "claim_idle_ms": 30_000, "dead_letter_topic": "morgue", "paused": True}
    made = (await filled.post(GROUPS, wish)).json(schemas.GroupAnswer)
    assert (made.max_deliveries, made.claim_idle_ms, made.dead_letter_topic, made.paused) == (5, 30_000, "morgue", True)
    patched = await filled.send("PATCH", f"{GROUPS}/w", {"paused": False, "max_deliveries": None})
    answer = patched.json(schemas.GroupSettingsAnswer)
    assert (answer.max_deliveries, answer.claim_idle_ms, answer.dead_letter_topic) == (None, 30_000, "morgue")
    patched = await filled.send("PATCH", f"{GROUPS}/w", {"dead_letter_topic": None, "claim_idle_ms": 100})
    assert patched.json(schemas.GroupSettingsAnswer).dead_letter_topic == "orders.dlq.w"
    found = (await filled.get(f"{GROUPS}/w", role=Role.CONSUMER)).json(schemas.GroupDescription)
    assert (found.max_deliveries, found.claim_idle_ms, found.paused) == (None, 100, False)
    assert gateway.held["orders"].groups["w"].settings == GroupSettings(None, 100, None, paused=False)
    assert (await filled.send("PATCH", f"{GROUPS}/w", {})).status == 200


@pytest.mark.parametrize(
    ("sent", "loc"),
    [
        ({"max_deliveries": 0}, "max_deliveries"),
        ({"max_deliveries": 1.5}, "max_deliveries"),
        ({"claim_idle_ms": 99}, "claim_idle_ms"),
        ({"dead_letter_topic": "a/b"}, "dead_letter_topic"),
        ({"dead_letter_topic": ""}, "dead_letter_topic"),
        ({"paused": None}, "paused"),
        ({"visibility": "persisted"}, None),
    ],
)
async def test_a_wrong_setting_is_refused_with_its_place(
    filled: EdgeClient, sent: dict[str, Any], loc: str | None
) -> None:
    for answer in (
        await filled.send("PATCH", GROUP, sent),
        *([await filled.post(GROUPS, {"group": "n"} | sent)] if loc else []),
    ):
        problem = answer.problem(422, "invalid-request")
        assert loc is None or loc in str(problem["errors"][0]), problem
    (await filled.send("PATCH", f"{GROUPS}/x", {})).problem(404, "not-found")


async def test_dead_letters_go_only_where_the_token_reaches(filled: EdgeClient) -> None:
    for answer in (
        await filled.send("PATCH", GROUP, {"dead_letter_topic": "elsewhere"}, topics=["orders*"]),
        await filled.send("POST", GROUPS, {"group": "n", "dead_letter_topic": "elsewhere"}, topics=["orders*"]),
    ):
        answer.problem(403, "forbidden")
    fine = await filled.send("PATCH", GROUP, {"dead_letter_topic": "orders-dead"}, topics=["orders*"])
    assert fine.status == 200


# ---- nack and extend


async def test_nacks_count_what_comes_again_and_what_is_dead(filled: EdgeClient, gateway: FakeGateway) -> None:
    answer = (await nack(filled, await read(filled, 2), delay_ms=1_500)).json(schemas.Nacked)
    assert answer == schemas.Nacked("orders", "g", 2, 0)
    assert gateway.delays == [1_500]
    answer = (await nack(filled, await read(filled), consumer="c")).json(schemas.Nacked)
    assert answer == schemas.Nacked("orders", "g", 5, 2)
    assert (await nack(filled, [])).json(schemas.Nacked).nacked == 0
    items = await read(filled)
    assert (await nack(filled, items, consumer="other")).json(schemas.Nacked).nacked == 0


@pytest.mark.parametrize(
    ("sent", "loc"),
    [
        ({"items": [{"partition": 0, "redis_ids": ["x"]}]}, ["items", 0, "redis_ids", 0]),
        ({"items": [], "delay_ms": -1}, ["delay_ms"]),
        ({"items": [], "delay_ms": 86_400_001}, ["delay_ms"]),
        ({"items": [], "consumer": "~os:dead"}, ["consumer"]),
        ({"items": [], "consumer": ""}, ["consumer"]),
    ],
)
async def test_a_wrong_nack_is_refused_with_its_place(
    filled: EdgeClient, sent: dict[str, Any], loc: list[str | int]
) -> None:
    (await filled.post(f"{GROUP}/nack", sent)).wrong_at(*loc)


async def test_extending_tells_what_is_lost(filled: EdgeClient) -> None:
    [item] = await read(filled, 2)
    ids = item["redis_ids"]
    wish = {"consumer": "c", "items": [item, {"partition": 0, "redis_ids": ["9-9", ids[0]]}]}
    answer = await filled.post(f"{GROUP}/extend", wish, role=Role.CONSUMER)
    assert answer.json(schemas.Extended) == schemas.Extended("orders", "g", "c", 2, [schemas.HeldItem(0, ["9-9"])])
    (await filled.post(f"{GROUP}/extend", {"items": [item]})).problem(422, "invalid-request")
    (await filled.post(f"{GROUP}/extend", wish | {"consumer": "~os:x"})).wrong_at("consumer")
    (await filled.post(f"{GROUPS}/x/extend", wish)).problem(404, "not-found")


async def test_trouble_is_told(filled: EdgeClient, gateway: FakeGateway) -> None:
    gateway.trouble = [Unavailable("Redis does not answer", backend="redis")]
    (await nack(filled, [])).problem(503, "unavailable")
    gateway.trouble = [Overloaded("the topic is full", reason="stream_length", retry_after_ms=1)]
    (await filled.post(f"{LETTERS}/redrive", {"to": "group", "all": True})).problem(429, "overloaded")


# ---- dead letters


async def test_dead_letters_are_listed_with_their_story(filled: EdgeClient) -> None:
    assert (await filled.get(LETTERS)).json()["dead_letters"] == []
    assert len(await dead(filled)) == 5
    page = (await filled.get(f"{LETTERS}?limit=2", role=Role.CONSUMER)).json(dead_letter_schemas.DeadLetterList)
    one = page.dead_letters[0]
    assert (page.dead_letter_topic, one.payload, one.partition_key, one.headers) == ("orders.dlq.g", {"n": 0}, "k0", {})
    assert (one.origin.topic, one.origin.partition, one.origin.redis_id) == ("orders", 0, one.redis_id)
    assert (one.reason, one.deliveries, one.consumer, one.redriven) == ("nacked", 2, "c", False)
    assert one.letter_id == f"p0@{one.redis_id}"
    seen = [one.payload["n"] for one in page.dead_letters]
    while page.next_id is not None:
        answer = await filled.get(f"{LETTERS}?limit=2&from_id={page.next_id}")
        page = answer.json(dead_letter_schemas.DeadLetterList)
        seen += [one.payload["n"] for one in page.dead_letters]
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "from_id=5-1", "from_id=p0@99999999999999999999-1", "at=1"])
async def test_a_wrong_page_is_refused(filled: EdgeClient, query: str) -> None:
    (await filled.get(f"{LETTERS}?{query}")).problem(422, "invalid-request")
    (await filled.get(f"{LETTERS}?limit=1&limit=2")).wrong_at("query", "limit")


async def test_redriving_some_and_then_all(filled: EdgeClient, gateway: FakeGateway) -> None:
    ids = await dead(filled)
    wish = {"to": "group", "ids": [ids[1], "p7@1-1"]}
    some = (await filled.post(f"{LETTERS}/redrive", wish)).json(dead_letter_schemas.RedriveAnswer)
    assert (some.redriven, some.already, some.unknown, some.next_id) == (1, 0, ["p7@1-1"], None)
    rest = await filled.post(f"{LETTERS}/redrive", {"to": "topic", "all": True, "from_id": ids[1]})
    answer = rest.json(dead_letter_schemas.RedriveAnswer)
    assert (answer.redriven, answer.already, answer.to) == (3, 1, Redrive.TOPIC)
    assert gateway.redrives == [Redrive.GROUP, Redrive.TOPIC]
    found = (await filled.get(LETTERS)).json(dead_letter_schemas.DeadLetterList)
    assert [one.redriven for one in found.dead_letters] == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("sent", "loc"),
    [
        ({"to": "group"}, ["ids"]),
        ({"to": "group", "ids": ["p0@1-1"], "all": True}, ["ids"]),
        ({"to": "group", "ids": ["p0@1-1"], "from_id": "p0@1-1"}, ["from_id"]),
        ({"to": "group", "ids": ["p0@1-1", "1-1"]}, ["ids", 1]),
        ({"to": "group", "all": True, "from_id": "x"}, ["from_id"]),
        ({"to": "nobody", "all": True}, ["to"]),
        ({"to": "group", "all": False}, ["all"]),
        ({"to": "group", "ids": []}, ["ids"]),
    ],
)
async def test_a_wrong_redrive_is_refused_with_its_place(
    filled: EdgeClient, sent: dict[str, Any], loc: list[str | int]
) -> None:
    (await filled.post(f"{LETTERS}/redrive", sent)).wrong_at(*loc)

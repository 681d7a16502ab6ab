"""Consumer groups over HTTP."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from openstream_http import group_schemas as schemas
from openstream_http.auth import Role
from openstream_runtime.domain.errors import Overloaded
from openstream_runtime.domain.topics import Visibility
from support.edge import EdgeClient, FakeMeter
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio

GROUPS = "/v1/topics/orders/groups"
GROUP = f"{GROUPS}/g"
READ = {"consumer": "c1", "block_ms": 0}


@pytest.fixture
async def filled(client: EdgeClient) -> EdgeClient:
    """Topic `orders` with a group from the beginning and 10 events of different keys."""
    await client.put("/v1/topics/orders", {"partitions": 4})
    await client.post(GROUPS, {"group": "g", "start_id": "0-0"})
    events = [
        {"event_type": "t", "partition_key": f"k{n}", "payload": {"n": n}, "headers": {"h": "1"}} for n in range(10)
    ]
    await client.post("/v1/topics/orders/events", {"events": events})
    return client


async def test_a_group_is_created_once(client: EdgeClient) -> None:
    await client.put("/v1/topics/orders", {"partitions": 4})
    created = await client.post(GROUPS, {"group": "g", "start_id": "$"})
    assert created.status == 201
    assert created.headers["Location"] == GROUP
    answer = created.json(schemas.GroupAnswer)
    assert (answer.partitions, answer.created, answer.visibility) == (4, 4, Visibility.APPENDED)
    assert (answer.max_deliveries, answer.claim_idle_ms, answer.paused) == (None, None, False)
    assert answer.dead_letter_topic == "orders.dlq.g"
    again = await client.post(GROUPS, {"group": "g"})
    assert (again.status, again.json(schemas.GroupAnswer).created) == (200, 0)
    safe = await client.post(GROUPS, {"group": "safe", "visibility": "persisted"})
    assert safe.json(schemas.GroupAnswer).visibility is Visibility.PERSISTED
    assert (await client.post(GROUPS, {"group": "odd", "visibility": "sometimes"})).status == 422
    await client.delete(f"{GROUPS}/safe")
    listed = (await client.get(GROUPS, role=Role.CONSUMER)).json(schemas.GroupList)
    assert listed == schemas.GroupList("orders", [schemas.GroupName("g")])


@pytest.mark.parametrize(
    ("sent", "start"),
    [({}, "$"), ({"start_id": "0-0"}, "0-0"), ({"start_id": "05-1"}, "5-1"), ({"start_ms": 7}, "7-0")],
)
async def test_a_group_begins_where_it_is_told(
    client: EdgeClient, gateway: FakeGateway, sent: dict[str, Any], start: str
) -> None:
    await client.put("/v1/topics/orders")
    await client.post(GROUPS, {"group": "g"} | sent)
    assert gateway.held["orders"].groups["g"].start_id == start


@pytest.mark.parametrize(
    ("sent", "loc"),
    [
        ({}, ["group"]),
        ({"group": "a b"}, ["group"]),
        ({"group": "x" * 201}, ["group"]),
        ({"group": ".."}, ["group"]),
        ({"group": "g\n"}, ["group"]),
        ({"group": "g", "start_id": "yesterday"}, ["start_id"]),
        ({"group": "g", "start_id": "1"}, ["start_id"]),
        ({"group": "g", "start_id": "1-1\n"}, ["start_id"]),
        ({"group": "g", "start_id": f"{2**64}-0"}, ["start_id"]),
        ({"group": "g", "start_id": "9" * 50}, ["start_id"]),
        ({"group": "g", "start_id": "0-0", "start_ms": 1}, ["start_ms"]),
        ({"group": "g", "start_ms": -1}, ["start_ms"]),
    ],
)
async def test_a_wrong_beginning_is_refused_with_its_place(
    client: EdgeClient, gateway: FakeGateway, sent: dict[str, Any], loc: list[str]
) -> None:
    await client.put("/v1/topics/orders")
    assert (await client.post(GROUPS, sent)).wrong_at(*loc)
    assert gateway.held["orders"].groups == {}


async def test_a_group_is_described_partition_by_partition(filled: EdgeClient) -> None:
    await filled.post(f"{GROUP}/read", READ | {"count": 3})
    found = (await filled.get(GROUP, role=Role.CONSUMER)).json(schemas.GroupDescription)
    assert (found.topic, found.group, found.pending, found.lag) == ("orders", "g", 3, 7)
    assert [one.partition for one in found.partitions] == [0, 1, 2, 3]
    assert sum(consumer.pending for one in found.partitions for consumer in one.consumers) == 3


async def test_a_deleted_group_is_gone(filled: EdgeClient) -> None:
    answer = await filled.delete(GROUP)
    assert (answer.status, answer.body) == (204, b"")
    for gone in (await filled.get(GROUP), await filled.delete(GROUP), await filled.post(f"{GROUP}/read", READ)):
        assert gone.problem(404, "not-found")["group"] == "g"


async def test_reading_hands_out_events_as_they_were_sent_and_says_they_arrived(
    filled: EdgeClient, gateway: FakeGateway
) -> None:
    answer = await filled.post(f"{GROUP}/read", READ, role=Role.CONSUMER)
    assert answer.headers["Content-Length"] == str(len(answer.body))
    read = answer.json(schemas.ReadAnswer)
    assert (read.topic, read.group, read.consumer) == ("orders", "g", "c1")
    assert sorted(event.payload["n"] for event in read.events) == list(range(10))
    assert {event.deliveries for event in read.events} == {1}
    assert {event.headers["h"] for event in read.events} == {"1"}
    assert (gateway.arrived, gateway.given_back) == (1, 0)


async def test_what_was_handed_out_is_timed_once_its_answer_has_left(filled: EdgeClient, meter: FakeMeter) -> None:
    await filled.post(f"{GROUP}/read", READ, role=Role.CONSUMER)
    await filled.post(f"{GROUP}/read", READ, role=Role.CONSUMER)
    ((topic, group, delays),) = meter.delays
    assert (topic, group, len(delays)) == ("orders", "g", 10), "the second answer was empty"


async def test_an_event_without_key_and_headers_is_told_as_such(client: EdgeClient) -> None:
    await client.put("/v1/topics/orders")
    await client.post(GROUPS, {"group": "g"})
    await client.post("/v1/topics/orders/events", b'{"events":[{"event_type":"\\"","payload": {"a" :  1} }]}')
    answer = await client.post(f"{GROUP}/read", READ)
    assert b'"payload":{"a" :  1},' in answer.body
    (event,) = answer.json(schemas.ReadAnswer).events
    assert (event.event_type, event.partition_key, event.headers) == ('"', None, {})


async def test_reading_waits_for_the_first_event(client: EdgeClient, gateway: FakeGateway) -> None:
    await client.put("/v1/topics/orders")
    await client.post(GROUPS, {"group": "g"})
    answers = []

    async def read() -> None:
        answers.append(await client.post(f"{GROUP}/read", {"consumer": "c", "block_ms": 30_000}))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            while not gateway.waiting:
                await anyio.lowlevel.checkpoint()
            await client.post("/v1/topics/orders/events", {"events": [{"event_type": "t", "payload": 1}]})
    assert len(answers[0].json(schemas.ReadAnswer).events) == 1


async def test_reading_nothing_is_an_empty_answer(client: EdgeClient, gateway: FakeGateway) -> None:
    await client.put("/v1/topics/orders")
    await client.post(GROUPS, {"group": "g"})
    answer = await client.post(f"{GROUP}/read", {"consumer": "c", "block_ms": 1})
    assert answer.json(schemas.ReadAnswer).events == []
    assert (gateway.arrived, gateway.given_back) == (1, 0)


@pytest.mark.parametrize(
    ("sent", "loc"),
    [
        ({}, ["consumer"]),
        ({"consumer": ""}, ["consumer"]),
        ({"consumer": "x" * 201}, ["consumer"]),
        ({"consumer": "a\tb"}, ["consumer"]),
        ({"consumer": "~os:released"}, ["consumer"]),
        ({"consumer": "c", "count": 0}, ["count"]),
        ({"consumer": "c", "count": 5001}, ["count"]),
        ({"consumer": "c", "count": -1}, ["count"]),
        ({"consumer": "c", "block_ms": 30_001}, ["block_ms"]),
        ({"consumer": "c", "block_ms": -1}, ["block_ms"]),
        ({"consumer": "c", "partitions": []}, ["partitions"]),
        ({"consumer": "c", "partitions": [-1]}, ["partitions", 0]),
        ({"consumer": "c", "partitions": [1024]}, ["partitions", 0]),
        ({"consumer": "c", "partitions": "all"}, ["partitions"]),
    ],
)
async def test_a_wrong_read_is_refused_with_its_place(
    filled: EdgeClient, gateway: FakeGateway, sent: dict[str, Any], loc: list[str | int]
) -> None:
    assert (await filled.post(f"{GROUP}/read", sent)).wrong_at(*loc)
    claim = {name: value for name, value in sent.items() if name != "block_ms"}
    if claim == sent:
        assert (await filled.post(f"{GROUP}/claim", claim)).wrong_at(*loc)
    assert gateway.arrived + gateway.given_back == 0


async def test_a_partition_the_topic_has_not_is_refused_by_the_node(filled: EdgeClient) -> None:
    (await filled.post(f"{GROUP}/read", READ | {"partitions": [4, 4]})).problem(422, "invalid-request")


async def test_acks_count_what_was_pending_once(filled: EdgeClient) -> None:
    read = (await filled.post(f"{GROUP}/read", READ)).json(schemas.ReadAnswer)
    items = [{"partition": event.partition, "redis_ids": [event.redis_id]} for event in read.events]
    for expected in (10, 0):
        acked = await filled.post(f"{GROUP}/ack", {"items": items}, role=Role.CONSUMER)
        assert acked.json(schemas.Acked) == schemas.Acked("orders", "g", expected)
    assert (await filled.post(f"{GROUP}/ack", {"items": []})).json(schemas.Acked).acked == 0


@pytest.mark.parametrize(
    ("items", "loc"),
    [
        ("all", ["items"]),
        ([{"partition": 0, "redis_ids": ["1-1", "x"]}], ["items", 0, "redis_ids", 1]),
        ([{"partition": 0, "redis_ids": ["1-1-1"]}], ["items", 0, "redis_ids", 0]),
        ([{"partition": -1, "redis_ids": []}], ["items", 0, "partition"]),
        ([{"partition": 0}], ["items", 0, "redis_ids"]),
        ([{"partition": 0, "redis_ids": ["1-1"] * 3000}] * 2, ["items"]),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_a_wrong_ack_is_refused_with_its_place(filled: EdgeClient, items: Any, loc: list[str | int]) -> None:
    assert (await filled.post(f"{GROUP}/ack", {"items": items})).wrong_at(*loc)


async def test_a_claim_takes_over_and_counts(filled: EdgeClient, gateway: FakeGateway) -> None:
    await filled.post(f"{GROUP}/read", READ)
    claimed = (await filled.post(f"{GROUP}/claim", {"consumer": "c2", "min_idle_ms": 0, "count": 4})).json(
        schemas.ClaimAnswer
    )
    assert (claimed.claimed, len(claimed.events), claimed.consumer) == (4, 4, "c2")
    assert {event.deliveries for event in claimed.events} == {2}
    assert gateway.arrived == 2


async def test_a_reset_moves_the_group_and_counts_what_it_drops(filled: EdgeClient) -> None:
    await filled.post(f"{GROUP}/read", READ)
    answer = await filled.post(f"{GROUP}/reset", {"start_id": "0-0"})
    assert answer.json(schemas.ResetAnswer) == schemas.ResetAnswer("orders", "g", "0-0", 4, 10)
    again = (await filled.post(f"{GROUP}/read", READ)).json(schemas.ReadAnswer)
    assert len(again.events) == 10
    some = await filled.post(f"{GROUP}/reset", {"start_ms": 0, "partitions": [1, 1, 2]})
    assert some.json(schemas.ResetAnswer).updated_partitions == 2


async def test_a_dry_run_says_what_a_reset_would_do_and_does_nothing(filled: EdgeClient, gateway: FakeGateway) -> None:
    await filled.post(f"{GROUP}/read", READ)
    before = dict(gateway.held["orders"].groups["g"].at)
    answer = await filled.post(f"{GROUP}/reset", {"start_id": "0-0", "dry_run": True})
    seen = answer.json(schemas.ResetAnswer)
    assert (seen.dry_run, seen.start_id, seen.updated_partitions, seen.discarded_pending) == (True, "0-0", 4, 10)
    assert seen.partitions is not None
    assert sum(one.replayed for one in seen.partitions) == 10
    assert {one.to_id for one in seen.partitions} == {"0-0"}
    assert {one.partition: one.from_id for one in seen.partitions} == {n: str(at) for n, at in before.items()}
    assert gateway.held["orders"].groups["g"].at == before
    real = (await filled.post(f"{GROUP}/reset", {"start_id": "0-0", "dry_run": False})).json()
    assert "partitions" not in real


@pytest.mark.parametrize(
    ("sent", "loc"),
    [({}, "start_id"), ({"start_id": "$", "start_ms": 1}, "start_ms"), ({"start_id": "a-b"}, "start_id")],
)
async def test_a_wrong_reset_is_refused_with_its_place(filled: EdgeClient, sent: dict[str, Any], loc: str) -> None:
    assert (await filled.post(f"{GROUP}/reset", sent)).wrong_at(loc)


async def test_trouble_in_a_read_is_told(filled: EdgeClient, gateway: FakeGateway) -> None:
    gateway.trouble = [Overloaded("too many", retry_after_ms=2_500)]
    answer = await filled.post(f"{GROUP}/read", READ)
    answer.problem(429, "overloaded")
    assert answer.headers["Retry-After"] == "3"

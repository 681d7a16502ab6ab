"""Replays over HTTP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from openstream_http import replay_schemas as schemas
from openstream_http.auth import Role
from openstream_runtime.domain.errors import Gone
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.replays import Part, ReplayState
from support.edge import EdgeClient
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio
PATH = "/v1/topics/orders/replays"


@pytest.fixture(autouse=True)
async def orders(client: EdgeClient) -> None:
    await client.put("/v1/topics/orders", {"partitions": 2})


async def made(client: EdgeClient, **wish: Any) -> schemas.ReplayDetail:
    answer = await client.post(PATH, {"target_topic": "copy", **wish})
    assert answer.status == 202, answer.body
    found: schemas.ReplayDetail = answer.json(schemas.ReplayDetail)
    assert answer.headers["Location"] == f"/v1/replays/{found.replay_id}"
    return found


async def test_a_replay_is_made_and_looked_at(client: EdgeClient, gateway: FakeGateway) -> None:
    wish = {"from_id": "5-0", "to_ms": 9, "partitions": [1], "rate_per_s": 2.5}
    first = await made(client, **wish)
    assert (first.state, first.topic, first.target_topic) == (ReplayState.RUNNING, "orders", "copy")
    assert (first.from_id, first.to_id, first.rate_per_s) == ("5-0", f"9-{2**63 - 1}", 2.5)
    assert first.partitions == [schemas.ReplayPartAnswer(1, "0-0", "9-9", 0)]
    job = gateway.jobs[first.replay_id]
    gateway.jobs[first.replay_id] = replace(
        job,
        copied=40,
        total=100,
        rate=7.25,
        owner="n1",
        parts=[Part(1, Position(0, 0), Position(9, 9), Position(3, 1), 40)],
    )
    now = (await client.get(f"/v1/replays/{first.replay_id}")).json(schemas.ReplayDetail)
    assert (now.copied, now.total, now.rate, now.eta_ms, now.node) == (40, 100, 7.2, 8276, "n1")
    assert now.partitions == [schemas.ReplayPartAnswer(1, "3-1", "9-9", 40)]


async def test_copied_is_never_more_than_the_total(client: EdgeClient, gateway: FakeGateway) -> None:
    first = await made(client)
    gateway.jobs[first.replay_id] = replace(gateway.jobs[first.replay_id], copied=40, total=38)
    now = (await client.get(f"/v1/replays/{first.replay_id}")).json(schemas.ReplayDetail)
    assert (now.copied, now.total) == (40, 40)
    gateway.jobs[first.replay_id] = replace(gateway.jobs[first.replay_id], total=None)
    assert (await client.get(f"/v1/replays/{first.replay_id}")).json(schemas.ReplayDetail).total is None


async def test_replays_are_listed_newest_first_without_their_partitions(client: EdgeClient) -> None:
    names = [(await made(client)).replay_id for _ in range(2)]
    answer = await client.get("/v1/replays")
    assert [one.replay_id for one in answer.json(schemas.ReplayList).replays] == names[::-1]
    assert "partitions" not in answer.json()["replays"][0]


async def test_a_replay_is_cancelled_and_one_that_has_ended_is_not(client: EdgeClient, gateway: FakeGateway) -> None:
    first = await made(client)
    for _ in range(2):
        answer = await client.delete(f"/v1/replays/{first.replay_id}")
        assert answer.status == 202
        assert answer.json(schemas.ReplayDetail).state is ReplayState.CANCELLED
    gateway.jobs[first.replay_id] = replace(gateway.jobs[first.replay_id], state=ReplayState.DONE)
    (await client.delete(f"/v1/replays/{first.replay_id}")).problem(409, "conflict")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("name", ["rp_unknown", "%00", "x" * 500, "..", "a%0ab"])
async def test_an_unknown_replay_is_a_404(client: EdgeClient, method: str, name: str) -> None:
    (await client.send(method, f"/v1/replays/{name}")).problem(404, "not-found")


@pytest.mark.parametrize(
    ("wish", "loc"),
    [
        ({"target_topic": "orders"}, "target_topic"),
        ({"target_topic": "a b"}, "target_topic"),
        ({}, "target_topic"),
        ({"target_topic": "copy", "from_id": "5"}, "from_id"),
        ({"target_topic": "copy", "to_id": "$"}, "to_id"),
        ({"target_topic": "copy", "from_id": "5-0", "from_ms": 5}, "from_ms"),
        ({"target_topic": "copy", "to_id": "5-0", "to_ms": 5}, "to_ms"),
        ({"target_topic": "copy", "from_ms": -1}, "from_ms"),
        ({"target_topic": "copy", "rate_per_s": 0}, "rate_per_s"),
        ({"target_topic": "copy", "rate_per_s": 5e-324}, "rate_per_s"),
        ({"target_topic": "copy", "rate_per_s": -3.5}, "rate_per_s"),
        ({"target_topic": "copy", "partitions": []}, "partitions"),
        ({"target_topic": "copy", "rate": 5}, "rate"),
    ],
)
async def test_a_wrong_wish_is_refused_with_its_place(
    client: EdgeClient, gateway: FakeGateway, wish: dict[str, Any], loc: str
) -> None:
    answer = await client.post(PATH, wish)
    found = answer.problem(422, "invalid-request")
    assert found["errors"][0]["loc"][:1] in ([loc], []), found
    assert loc in found["detail"]
    assert gateway.jobs == {}
    assert list(gateway.held) == ["orders"], "no target is made for a replay that is refused"


async def test_what_the_gateway_refuses_comes_through(client: EdgeClient, gateway: FakeGateway) -> None:
    (await client.post("/v1/topics/nobody/replays", {"target_topic": "copy"})).problem(404, "not-found")
    crossed = await client.post(PATH, {"target_topic": "copy", "from_id": "9-0", "to_id": "5-0"})
    crossed.problem(422, "invalid-request")
    (await client.post(PATH, {"target_topic": "copy", "partitions": [2]})).problem(422, "invalid-request")
    gateway.trouble.append(Gone("not all of that is kept any more", earliest_id=Position(7, 1)))
    gone = (await client.post(PATH, {"target_topic": "copy", "from_ms": 5})).problem(410, "gone")
    assert gone["earliest_id"] == "7-1"


@pytest.mark.parametrize("role", [Role.PRODUCER, Role.CONSUMER])
async def test_replays_are_for_admins(client: EdgeClient, role: Role) -> None:
    for method, path in [("POST", PATH), ("GET", "/v1/replays"), ("GET", "/v1/replays/x"), ("DELETE", "/v1/replays/x")]:
        body = {"target_topic": "copy"} if method == "POST" else None
        (await client.send(method, path, body, role=role)).problem(403, "forbidden")


async def test_a_narrowed_token_must_cover_both_topics(client: EdgeClient, gateway: FakeGateway) -> None:
    wish = {"target_topic": "copy"}
    for topics in (["orders"], ["copy"]):
        (await client.post(PATH, wish, topics=topics)).problem(403, "forbidden")
    assert gateway.jobs == {}
    assert (await client.post(PATH, wish, topics=["orders", "c*"])).status == 202
    [name] = gateway.jobs
    for topics, seen in ((["orders"], []), (["copy"], []), (["orders", "copy"], [name])):
        listed = (await client.get("/v1/replays", topics=topics)).json(schemas.ReplayList)
        assert [one.replay_id for one in listed.replays] == seen
        one = await client.get(f"/v1/replays/{name}", topics=topics)
        assert one.status == (200 if seen else 404)
        if not seen:
            (await client.delete(f"/v1/replays/{name}", topics=topics)).problem(404, "not-found")
    assert gateway.jobs[name].state is ReplayState.RUNNING


async def test_the_routes_are_described(client: EdgeClient) -> None:
    paths = (await client.get("/openapi.json", role=None)).json()["paths"]
    create = paths["/v1/topics/{topic}/replays"]["post"]
    assert {"202", "401", "403", "404", "409", "410", "422", "503"} <= create["responses"].keys()
    reference = create["responses"]["202"]["content"]["application/json"]["schema"]
    assert reference == {"$ref": "#/components/schemas/ReplayDetail"}
    assert {"get", "delete"} <= paths["/v1/replays/{replay_id}"].keys()
    assert "409" in paths["/v1/replays/{replay_id}"]["delete"]["responses"]
    assert "get" in paths["/v1/replays"]

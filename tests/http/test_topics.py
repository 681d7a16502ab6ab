"""Topics over HTTP."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openstream_http import schemas
from openstream_http.auth import Role
from openstream_runtime.domain.topics import TopicSettings
from support.edge import EdgeClient
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio


async def test_a_topic_is_created_once_and_then_updated(client: EdgeClient, gateway: FakeGateway) -> None:
    created = await client.put("/v1/topics/orders", {"partitions": 3, "retention_ms": 5, "history_ms": 9})
    assert created.status == 201
    assert created.headers["Location"] == "/v1/topics/orders"
    topic = created.json(schemas.TopicAnswer)
    assert (topic.topic, topic.partitions, topic.retention_ms, topic.history_ms) == ("orders", 3, 5, 9)
    updated = await client.put("/v1/topics/orders", {"max_stream_len": 7})
    assert updated.status == 200
    assert gateway.held["orders"].topic.settings == TopicSettings(max_stream_len=7)
    gateway.held["orders"].topic = replace(gateway.held["orders"].topic, history_floor_ms=1_730_000_000_000)
    known = (await client.get("/v1/topics/orders")).json(schemas.TopicAnswer)
    assert (known.history_ms, known.history_floor_ms) == (None, 1_730_000_000_000), "what is set, and what applies"
    assert (await client.get("/v1/topics/orders")).json(schemas.TopicAnswer).max_stream_len == 7


@pytest.mark.parametrize("media", ["application/json", None])
async def test_a_topic_needs_no_body(client: EdgeClient, media: str | None) -> None:
    assert (await client.put("/v1/topics/orders", media=media)).status == 201


async def test_another_count_is_a_conflict(client: EdgeClient) -> None:
    await client.put("/v1/topics/orders", {"partitions": 3})
    (await client.put("/v1/topics/orders", {"partitions": 2})).problem(409, "conflict")


@pytest.mark.parametrize(
    ("sent", "loc"),
    [
        ({"partitions": 0}, "partitions"),
        ({"retention_ms": -1}, "retention_ms"),
        ({"history_ms": "1"}, "history_ms"),
        ({"max_stream_len": 0}, "max_stream_len"),
        ({"retention": 1}, "retention"),
    ],
)
async def test_wrong_settings_are_refused_with_their_place(client: EdgeClient, sent: dict[str, int], loc: str) -> None:
    assert (await client.put("/v1/topics/orders", sent)).wrong_at(loc)


async def test_topics_are_listed_as_far_as_the_token_reaches(client: EdgeClient) -> None:
    for name in ("b", "a", "a.x"):
        await client.put(f"/v1/topics/{name}")
    whole = (await client.get("/v1/topics", role=Role.PRODUCER)).json(schemas.TopicList)
    assert [topic.topic for topic in whole.topics] == ["a", "a.x", "b"]
    part = (await client.get("/v1/topics", role=Role.CONSUMER, topics=["a*"])).json(schemas.TopicList)
    assert [topic.topic for topic in part.topics] == ["a", "a.x"]


async def test_a_deleted_topic_is_gone_at_once(client: EdgeClient) -> None:
    await client.put("/v1/topics/orders")
    answer = await client.delete("/v1/topics/orders")
    assert answer.status == 202
    assert answer.json(schemas.TopicDeleting) == schemas.TopicDeleting("orders")
    (await client.get("/v1/topics/orders")).problem(404, "not-found")
    (await client.delete("/v1/topics/orders")).problem(404, "not-found")


BAD_NAMES = ["a%0a", "%0a", "a%00", "%7B%7D", "{x}", "a:b", "x" * 201, "%2e%2e", ".", "a%20b", "%ff", "%C3%A9", "a;b"]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/topics/{}"),
        ("PUT", "/v1/topics/{}"),
        ("DELETE", "/v1/topics/{}"),
        ("POST", "/v1/topics/{}/events"),
        ("GET", "/v1/topics/{}/groups"),
        ("GET", "/v1/topics/t/groups/{}"),
        ("POST", "/v1/topics/t/groups/{}/read"),
    ],
)
async def test_a_malformed_name_is_a_422_wherever_it_stands(
    client: EdgeClient, gateway: FakeGateway, method: str, path: str, name: str
) -> None:
    answer = await client.send(method, path.replace("{}", name), {} if method == "POST" else None)
    answer.problem(422, "invalid-request")
    assert gateway.held == {}


@pytest.mark.parametrize("path", ["/v1/topics//events", "/v1/topics/a%2Fb/events", "/v1//topics", "/v1/topics/a/b/c"])
async def test_a_path_that_is_no_route_is_a_404(client: EdgeClient, path: str) -> None:
    (await client.post(path, {})).problem(404, "not-found")

"""Declarations of who may call which route: forgetting one is an error. The whole matrix is in test_matrix.py."""

from __future__ import annotations

import json

import pytest
from quart import Quart

from openstream_http import access
from openstream_http.auth import Role
from support.edge import EdgeClient
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio


async def test_a_refused_request_touches_nothing(client: EdgeClient, gateway: FakeGateway) -> None:
    body = {"events": [{"event_type": "t", "payload": 1}]}
    (await client.post("/v1/topics/a/events", body, role=Role.CONSUMER)).problem(403, "forbidden")
    (await client.post("/v1/topics/a/events", body, role=Role.PRODUCER, topics=["b"])).problem(403, "forbidden")
    (await client.put("/v1/topics/a", {}, role=Role.PRODUCER)).problem(403, "forbidden")
    assert gateway.held == {}


async def test_a_narrowed_token_does_on_its_own_topics_what_its_role_may(client: EdgeClient) -> None:
    body = {"events": [{"event_type": "t", "payload": 1}]}
    assert (await client.post("/v1/topics/b.1/events", body, role=Role.PRODUCER, topics=["a", "b.*"])).status == 200
    assert json.loads((await client.get("/v1/metrics/summary", topics=["b.*"])).body)["topics"][0]["topic"] == "b.1"


def test_an_app_with_a_route_that_declares_nothing_does_not_start(app: Quart) -> None:
    async def forgotten() -> str:
        return ""

    app.add_url_rule("/v1/forgotten", view_func=forgotten)
    with pytest.raises(RuntimeError, match="/v1/forgotten"):
        access.check_declared(app)


async def test_a_route_added_later_without_a_declaration_lets_nobody_in(app: Quart, client: EdgeClient) -> None:
    async def late() -> str:
        return "secret"

    app.add_url_rule("/v1/late", view_func=late)
    (await client.get("/v1/late")).problem(403, "forbidden")

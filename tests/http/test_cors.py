"""CORS: the exact origins that are named, and no others."""

from __future__ import annotations

import pytest

from openstream_http.app import create_app
from support.edge import ORIGIN, EdgeClient, settings_of
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio

PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.mark.parametrize("path", ["/v1/topics/a/events", "/v1/topics", "/nowhere"])
async def test_a_preflight_of_a_named_origin_needs_no_token(client: EdgeClient, path: str) -> None:
    answer = await client.send("OPTIONS", path, role=None, headers=PREFLIGHT | {"Origin": ORIGIN})
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "Origin" in answer.headers["Vary"]


async def test_every_answer_to_a_named_origin_may_be_read_problems_too(client: EdgeClient) -> None:
    for answer in (
        await client.get("/v1/topics", headers={"Origin": ORIGIN}),
        await client.get("/v1/topics", role=None, headers={"Origin": ORIGIN}),
        await client.get("/nowhere", role=None, headers={"Origin": ORIGIN}),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origin", ["http://localhost:3001", "https://localhost:3000", "http://localhost:3000.evil.com", "null", "*", ""]
)
async def test_any_other_origin_is_told_nothing(client: EdgeClient, origin: str) -> None:
    for answer in (
        await client.send("OPTIONS", "/v1/topics", role=None, headers=PREFLIGHT | {"Origin": origin}),
        await client.get("/v1/topics", headers={"Origin": origin}),
    ):
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")]
        assert "Origin" in answer.headers["Vary"]


async def test_without_named_origins_there_is_no_cors(gateway: FakeGateway) -> None:
    client = EdgeClient(create_app(gateway, settings_of(cors_allow_origins=())))
    answer = await client.get("/v1/topics", headers={"Origin": ORIGIN})
    assert "Vary" not in answer.headers
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_options_without_an_origin_says_what_is_allowed(client: EdgeClient) -> None:
    answer = await client.send("OPTIONS", "/v1/topics", role=None)
    assert answer.status == 200
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}

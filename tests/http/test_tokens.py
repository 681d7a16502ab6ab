"""Minting tokens over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from openstream_http import token_schemas
from openstream_http.app import create_app
from openstream_http.auth import Role
from openstream_http.patience import BURST, PER_SECOND
from support.edge import ADMIN_SECRET, EdgeClient, FakeClock, settings_of
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio

MINT = "/v1/auth/token"


def asked(**changes: Any) -> dict[str, Any]:
    return {"sub": "me", "role": "admin", "admin_secret": ADMIN_SECRET} | changes


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def client(gateway: FakeGateway, clock: FakeClock) -> EdgeClient:
    return EdgeClient(create_app(gateway, settings_of(), clock=clock))


async def test_whoever_knows_the_secret_gets_a_token_that_works(client: EdgeClient) -> None:
    answer = await client.post(MINT, asked(role="consumer", ttl_s=60, topics=["a*"]), role=None)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    token = answer.json(token_schemas.Token)
    assert (token.token_type, token.expires_in) == ("bearer", 60)
    headers = {"Authorization": f"Bearer {token.token}"}
    assert (await client.get("/v1/topics", role=None, headers=headers)).status == 200
    (await client.get("/v1/topics/b", role=None, headers=headers)).problem(403, "forbidden")
    (await client.put("/v1/topics/a", role=None, headers=headers)).problem(403, "forbidden")


async def test_a_token_ends_with_its_time(client: EdgeClient, clock: FakeClock) -> None:
    token = (await client.post(MINT, asked(ttl_s=1), role=None)).json(token_schemas.Token).token
    headers = {"Authorization": f"Bearer {token}"}
    assert (await client.get("/v1/topics", role=None, headers=headers)).status == 200
    clock.move(60)
    (await client.get("/v1/topics", role=None, headers=headers)).problem(401, "unauthenticated")


@pytest.mark.parametrize("secret", ["", "wrong", ADMIN_SECRET + "x", ADMIN_SECRET[:-1], "é"])
async def test_a_wrong_secret_is_a_403(client: EdgeClient, secret: str) -> None:
    answer = await client.post(MINT, asked(admin_secret=secret), role=None)
    answer.problem(403, "wrong-secret")
    assert ADMIN_SECRET.encode() not in answer.body


async def test_guessing_is_slowed_down_and_forgiven_with_time(client: EdgeClient, clock: FakeClock) -> None:
    for _ in range(BURST):
        (await client.post(MINT, asked(admin_secret="wrong"), role=None)).problem(403, "wrong-secret")
    for secret in ("wrong", ADMIN_SECRET):
        answer = await client.post(MINT, asked(admin_secret=secret), role=None)
        found = answer.problem(429, "too-many-attempts")
        assert 0 < found["retry_after_ms"] <= 1000 / PER_SECOND + 1
        assert answer.headers["Retry-After"] == "1"
    clock.move(1 / PER_SECOND + 0.01)
    assert (await client.post(MINT, asked(), role=None)).status == 200


async def test_right_secrets_cost_nothing(client: EdgeClient) -> None:
    for _ in range(BURST * 2):
        assert (await client.post(MINT, asked(), role=None)).status == 200


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"sub": ""}, ["sub"]),
        ({"sub": "a\nb"}, ["sub"]),
        ({"sub": "x" * 201}, ["sub"]),
        ({"role": "root"}, ["role"]),
        ({"ttl_s": 0}, ["ttl_s"]),
        ({"ttl_s": 86_401}, ["ttl_s"]),
        ({"topics": []}, ["topics"]),
        ({"topics": "*"}, ["topics"]),
        ({"admin_secret": None}, ["admin_secret"]),
        ({"password": "x"}, ["password"]),
    ],
)
async def test_a_wrong_shape_is_refused_with_its_place(
    client: EdgeClient, changes: dict[str, Any], loc: list[str]
) -> None:
    assert (await client.post(MINT, asked(**changes), role=None)).wrong_at(*loc)


async def test_a_token_that_no_node_would_take_is_not_minted(client: EdgeClient) -> None:
    """A hundred patterns are allowed, and so are long ones; all at once they make more than a header may hold."""
    message = (await client.post(MINT, asked(topics=["x" * 200] * 100), role=None)).wrong_at("topics")
    assert "8192" in message
    longest = await client.post(MINT, asked(topics=[f"{n:0>50}" for n in range(100)]), role=None)
    headers = {"Authorization": f"Bearer {longest.json(token_schemas.Token).token}"}
    assert (await client.get("/v1/topics", role=None, headers=headers)).status == 200


async def test_without_an_admin_secret_the_route_is_off(gateway: FakeGateway) -> None:
    client = EdgeClient(create_app(gateway, settings_of(auth_admin_secret="", dev=True)))
    (await client.post(MINT, asked(admin_secret=""), role=None)).problem(404, "not-found")
    assert client.token(Role.ADMIN)

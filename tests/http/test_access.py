"""Who may call which route: generated from the routes themselves, so that a new route is in the matrix at once."""

from __future__ import annotations

import json

import pytest
from quart import Quart
from werkzeug.routing import Rule

from openstream_http import access, sse
from openstream_http.app import create_app
from openstream_http.auth import Role
from support.edge import EdgeClient, FakeClock, settings_of
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio

PRODUCER, CONSUMER, ADMIN = frozenset({"producer", "admin"}), frozenset({"consumer", "admin"}), frozenset({"admin"})
ANY = frozenset({"producer", "consumer", "admin"})
#: The table of API.md, written down once more: what the routes declare must be this.
EXPECTED = {
    "PUT /v1/topics/<topic>": ADMIN,
    "GET /v1/topics": ANY,
    "GET /v1/topics/<topic>": ANY,
    "DELETE /v1/topics/<topic>": ADMIN,
    "POST /v1/topics/<topic>/events": PRODUCER,
    "GET /v1/topics/<topic>/events": CONSUMER,
    "GET /v1/topics/<topic>/partitions/<partition>/events": CONSUMER,
    "POST /v1/topics/<topic>/groups": ADMIN,
    "GET /v1/topics/<topic>/groups": CONSUMER,
    "GET /v1/topics/<topic>/groups/<group>": CONSUMER,
    "DELETE /v1/topics/<topic>/groups/<group>": ADMIN,
    "POST /v1/topics/<topic>/groups/<group>/read": CONSUMER,
    "POST /v1/topics/<topic>/groups/<group>/claim": CONSUMER,
    "POST /v1/topics/<topic>/groups/<group>/ack": CONSUMER,
    "PATCH /v1/topics/<topic>/groups/<group>": ADMIN,
    "POST /v1/topics/<topic>/groups/<group>/nack": CONSUMER,
    "POST /v1/topics/<topic>/groups/<group>/extend": CONSUMER,
    "GET /v1/topics/<topic>/groups/<group>/dead-letters": CONSUMER,
    "POST /v1/topics/<topic>/groups/<group>/dead-letters/redrive": ADMIN,
    "POST /v1/topics/<topic>/groups/<group>/reset": ADMIN,
    "POST /v1/topics/<topic>/replays": ADMIN,
    "GET /v1/replays": ADMIN,
    "GET /v1/replays/<replay_id>": ADMIN,
    "DELETE /v1/replays/<replay_id>": ADMIN,
    "GET /v1/metrics/summary": ANY,
    "GET /v1/cluster": ANY,
    "GET /v1/live": ANY,
    "GET /v1/topics/<topic>/tail": CONSUMER,
    "GET /asyncapi.json": ANY,
}
#: What a token narrowed to other topics gets where the route does not name its topic; everywhere else a 403.
NARROWED = {
    "GET /v1/topics": 200,
    "GET /asyncapi.json": 200,
    "GET /v1/metrics/summary": 200,
    "GET /v1/live": 200,
    "GET /v1/replays": 200,
    "GET /v1/replays/<replay_id>": 404,
    "DELETE /v1/replays/<replay_id>": 404,
}
PUBLIC = {
    "POST /v1/auth/token", "GET /livez", "GET /healthz", "GET /readyz", "GET /metrics", "GET /metrics/", "GET /",
    "GET /docs", "GET /docs/assets/<name>", "GET /openapi.json", "GET /problems", "GET /problems/<slug>",
    "GET /ui/assets/<name>", "GET /ui/config.json",
}  # fmt: skip


def routes(app: Quart) -> list[tuple[str, Rule]]:
    return [
        (f"{method} {rule.rule}", rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    ]


def test_every_route_declares_what_the_contract_says(app: Quart) -> None:
    declared = {name: access.access_of(app, rule.endpoint) for name, rule in routes(app)}
    assert {name for name, found in declared.items() if found and found.roles is None} == PUBLIC
    assert {name: found.roles for name, found in declared.items() if found and found.roles is not None} == EXPECTED


WHO = ["nobody", "garbage", "expired", "other-secret", "producer", "consumer", "admin", "narrowed"]


@pytest.mark.parametrize("who", WHO)
async def test_the_matrix_of_roles_and_routes(
    app: Quart, gateway: FakeGateway, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "LIFE", 0.0)  # a stream that is let in ends at once
    clock = FakeClock(ms=1)  # this app mints what expired long ago
    old = EdgeClient(create_app(gateway, settings_of(), clock=clock))
    other = EdgeClient(create_app(gateway, settings_of(auth_jwt_secret="zX0cVQw3rT5yU7iO9pA1sD2fG4hJ6kL8")))
    client = EdgeClient(app)
    await client.put("/v1/topics/known")
    token = {
        "nobody": None,
        "garbage": "a.b.c",
        "expired": old.token(),
        "other-secret": other.token(),
        "narrowed": client.token(Role.ADMIN, topics=["elsewhere.*"]),
    }.get(who) or (client.token(Role(who)) if who in set(Role) else None)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    for name, rule in routes(app):
        method = name.split()[0]
        found = access.access_of(app, rule.endpoint)
        assert found is not None
        answers = []
        for topic in ("known", "unknown"):
            path = rule.rule.replace("<topic>", topic).replace("<group>", "g").replace("<slug>", "conflict")
            path = path.replace("<name>", "page.css")
            # A body that no route takes: whoever is let in gets no further than its shape.
            body = None if method in {"GET", "DELETE"} else b"{"
            answers.append(await client.send(method, path, body, role=None, headers=headers))
        statuses = {answer.status for answer in answers}
        if found.roles is None:
            assert not statuses & {401, 403}, name
        elif who in {"nobody", "garbage", "expired", "other-secret"}:
            assert statuses == {401}, name
            assert all(answer.headers["WWW-Authenticate"].startswith("Bearer ") for answer in answers)
        elif who == "narrowed":
            expected = NARROWED.get(name, 403)
            assert statuses == {expected}, name
            # A topic that exists and one that does not cannot be told apart.
            assert answers[0].body.replace(b"known", b"unknown") == answers[1].body.replace(b"known", b"unknown"), name
            assert b"known" not in answers[0].body, name
        elif Role(who) in found.roles:
            assert not statuses & {401, 403}, name
        else:
            assert statuses == {403}, name
            assert all("insufficient_scope" in answer.headers["WWW-Authenticate"] for answer in answers)
        assert all(status < 500 for status in statuses), name


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

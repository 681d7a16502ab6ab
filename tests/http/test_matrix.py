"""Every route by every kind of token by every kind of topic, against one table (tests/support/routes.py).

The routes are the app's own, so that a new one without a row fails here.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from quart import Quart

from openstream_http import access, auth, sse
from openstream_http.app import create_app
from openstream_http.auth import Role
from openstream_http.openapi import describe
from openstream_runtime.domain.topics import TopicSettings
from openstream_runtime.gateway.replaying import ReplayWish
from support.edge import EdgeClient, FakeClock, settings_of
from support.fake_gateway import FakeGateway
from support.routes import COPY, KNOWN, MALFORMED, ROWS, UNKNOWN, About, Row

pytestmark = pytest.mark.anyio

LETTERS = {"p": Role.PRODUCER, "c": Role.CONSUMER, "a": Role.ADMIN}
#: What a token may be narrowed to, and whether that covers what is asked for is the matter of this function alone.
SCOPES: dict[str, list[str] | None] = {
    "all topics": None,
    "that topic": [KNOWN, UNKNOWN],
    "a pattern of it": ["kn?wn*", "[u]nknown", "dead"],
    "everything by a pattern": ["*"],
    "another topic": ["elsewhere.*", "know", "nown", "known/*", "KNOWN", "known\n"],
    "no topic": [],
}


def covers(scope: list[str] | None, topic: str | None) -> bool:
    return topic is None or scope is None or any(fnmatchcase(topic, pattern) for pattern in scope)


def expected(row: Row, role: Role, scope: list[str] | None, topic: str) -> int:
    """What the table says of a request with a good token."""
    if row.who and role not in {LETTERS[letter] for letter in row.who}:
        return 403
    if row.who and row.about is About.TOPIC:
        if topic == MALFORMED:
            return 422
        if not covers(scope, topic):
            return 403
    if row.about is About.EVERYTHING and scope is not None:
        return 403
    if row.about is About.REPLAY and not (covers(scope, KNOWN) and covers(scope, COPY)):
        return 404
    if not covers(scope, row.also):
        return 403
    return row.unknown if topic == UNKNOWN and row.about is About.TOPIC else row.known


@pytest.fixture(autouse=True)
def short_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LIFE", 0.0)  # a stream that is let in ends at once


async def begin_again(gateway: FakeGateway) -> None:
    """One topic with an event, a group and a replay, whatever the request before has done."""
    gateway.__init__()  # type: ignore[misc]
    await gateway.put_topic(KNOWN, 2, TopicSettings())
    await gateway.create_group(KNOWN, "g", start_id="0-0", start_ms=None)
    await gateway.create_replay(KNOWN, ReplayWish(COPY))


def test_every_route_of_the_app_has_a_row_and_every_row_a_route(app: Quart) -> None:
    routes = {
        f"{method} {rule.rule}": access.access_of(app, rule.endpoint)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert set(routes) == {row.route for row in ROWS}
    for row in ROWS:
        declared = routes[row.route]
        assert declared is not None
        roles = frozenset(LETTERS[letter] for letter in row.who) if row.who else None
        assert declared.roles == roles, row.route


def test_the_description_names_the_roles_of_the_table(app: Quart) -> None:
    paths = describe(app, "1")["paths"]
    for row in ROWS:
        operation = paths.get(row.route.split()[1].replace("<", "{").replace(">", "}"), {}).get(row.method.lower())
        if operation is not None and row.who:
            roles = ", ".join(sorted(LETTERS[letter] for letter in row.who))
            assert operation["description"].endswith(f"Roles: {roles}."), row.route


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("role", list(Role))
async def test_who_may_do_what_to_which_topic(app: Quart, gateway: FakeGateway, role: Role, scope: str) -> None:
    client, narrowed = EdgeClient(app), SCOPES[scope]
    headers = {"Authorization": f"Bearer {client.token(role, topics=narrowed)}"}
    wrong = []
    for row in ROWS:
        bodies = {}
        for topic in (KNOWN, UNKNOWN, MALFORMED) if row.about is About.TOPIC and row.who else (KNOWN,):
            await begin_again(gateway)
            answer = await client.send(row.method, row.path(topic), row.body, role=None, headers=headers)
            should = expected(row, role, narrowed, topic)
            if answer.status != should:
                wrong.append(f"{row.id} of {topic}: {answer.status}, and the table says {should}")
            if answer.status == 403:
                assert "insufficient_scope" in answer.headers["WWW-Authenticate"], row.id
                bodies[topic] = answer.body
                assert await untouched(gateway), row.id
            elif row.who and not covers(narrowed, KNOWN):
                assert KNOWN.encode() not in answer.body, f"{row.id} tells of a topic that the token does not cover"
        if {KNOWN, UNKNOWN} <= bodies.keys():
            assert bodies[KNOWN] == bodies[UNKNOWN], f"{row.id}: what exists and what does not can be told apart"
    assert not wrong, "\n".join(wrong)


async def untouched(gateway: FakeGateway) -> bool:
    """Whether all is as `begin_again` left it."""
    fresh = FakeGateway()
    await begin_again(fresh)
    return (gateway.held, gateway.jobs, gateway.waiting) == (fresh.held, fresh.jobs, 0)


def other(gateway: FakeGateway, **settings: str) -> str:
    """A token that a node with other settings has minted."""
    return EdgeClient(create_app(gateway, settings_of(**settings))).token()


def bad_tokens(app: Quart, gateway: FakeGateway) -> dict[str, list[str]]:
    """Values of `Authorization` that let nobody in, by what is wrong with them."""
    good, long_ago = EdgeClient(app).token(), FakeClock(ms=1)
    head, body, signature = good.split(".")
    unsigned = "eyJhbGciOiJub25lIn0"
    return {
        "none at all": [],
        "empty": [""],
        "no token": ["Bearer "],
        "another scheme": [f"Basic {good}"],
        "the token alone": [good],
        "twice": [f"Bearer {good}", f"Bearer {good}"],
        "twice in one": [f"Bearer {good}, Bearer {good}"],
        "garbage": ["Bearer a.b.c"],
        "unsigned": [f"Bearer {unsigned}.{body}."],
        "another algorithm": [f"Bearer {unsigned}.{body}.{signature}"],
        "cut": [f"Bearer {head}.{body}.{signature[:-4]}"],
        "huge": [f"Bearer {head}.{'x' * auth.MAX_TOKEN_CHARS}.{signature}"],
        "expired": [f"Bearer {EdgeClient(create_app(gateway, settings_of(), clock=long_ago)).token()}"],
        "another secret": [f"Bearer {other(gateway, auth_jwt_secret='zX0cVQw3rT5yU7iO9pA1sD2fG4hJ6kL8')}"],
        "another issuer": [f"Bearer {other(gateway, auth_jwt_issuer='elsewhere')}"],
        "another audience": [f"Bearer {other(gateway, auth_jwt_audience='elsewhere')}"],
    }


async def test_without_a_good_token_every_route_but_the_public_ones_is_a_401(app: Quart, gateway: FakeGateway) -> None:
    http = app.test_client()
    await begin_again(gateway)
    for why, values in bad_tokens(app, gateway).items():
        for row in ROWS:
            for topic in (KNOWN, UNKNOWN, MALFORMED):
                answer = await http.open(
                    row.path(topic),
                    method=row.method,
                    headers=[("Authorization", value) for value in values],  # type: ignore[arg-type]
                    json=row.body,
                )
                assert answer.status_code == (401 if row.who else row.known), (why, row.id)
                if not row.who:
                    break  # the path names no topic
                assert answer.headers["WWW-Authenticate"].startswith("Bearer realm="), (why, row.id)
    assert await untouched(gateway)


@pytest.mark.parametrize("name", ["token", "access_token", "authorization", "Authorization", "jwt"])
async def test_a_token_in_the_address_a_cookie_or_another_header_is_none(client: EdgeClient, name: str) -> None:
    """Addresses are logged and bookmarked, and a browser sends cookies for whoever asks."""
    good = client.token()
    (await client.get(f"/v1/topics?{name}={good}", role=None)).problem(401, "unauthenticated")
    (await client.get(f"/v1/topics?{name}=Bearer%20{good}", role=None)).problem(401, "unauthenticated")
    for headers in ({"Cookie": f"{name}={good}"}, {"X-Authorization": f"Bearer {good}"}, {"Proxy-Authorization": good}):
        (await client.get("/v1/topics", role=None, headers=headers)).problem(401, "unauthenticated")


async def test_options_and_head_give_nothing_away(app: Quart, gateway: FakeGateway) -> None:
    await begin_again(gateway)
    client = EdgeClient(app)
    for row in ROWS:
        answer = await client.send("OPTIONS", row.path(KNOWN), role=None)
        assert (answer.status, answer.body) == (200, b""), row.id
        if row.method == "GET" and row.who:
            assert (await client.send("HEAD", row.path(KNOWN), role=None)).status == 401, row.id
    assert await untouched(gateway)


@pytest.mark.parametrize("how", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
async def test_a_method_is_what_the_request_line_says(client: EdgeClient, gateway: FakeGateway, how: str) -> None:
    await begin_again(gateway)
    answer = await client.get(f"/v1/topics/{KNOWN}", role=Role.CONSUMER, headers={how: "DELETE"})
    assert answer.status == 200
    assert KNOWN in gateway.held


@pytest.mark.parametrize("how", ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix", "X-Forwarded-Path"])
async def test_a_path_is_what_the_request_line_says(client: EdgeClient, how: str) -> None:
    (await client.get("/v1/topics", role=None, headers={how: "/livez"})).problem(401, "unauthenticated")
    assert (await client.get("/livez", role=None, headers={how: "/v1/topics"})).body == b"ok\n"


@pytest.mark.parametrize(
    "path",
    [
        "//v1/topics", "/v1//topics", "/v1/./topics", "/livez/../v1/topics", "/livez/..;/v1/topics", "/v1/topics;x=1",
        "/V1/topics", "/v1/topics%2f", "/v1%2ftopics", "/livez%2f..%2fv1%2ftopics", "/v1/topics%00", "/v1/topics.json",
        "/docs/assets/..%2f..%2fapp.py", "/ui/../v1/topics", "/metrics/../v1/topics", "/v1/topics%20",
        "/%76%31/topics%0a",
    ],
)  # fmt: skip
async def test_no_spelling_of_a_path_gets_around_the_token(client: EdgeClient, path: str) -> None:
    assert (await client.get(path, role=None)).status in {401, 404}


async def test_a_path_that_is_spelt_in_percent_is_the_path_that_it_says(client: EdgeClient) -> None:
    (await client.get("/%76%31/topics", role=None)).problem(401, "unauthenticated")
    answer = await client.get("/v1/topics/%6bnown", role=Role.CONSUMER, topics=["%6bnown"])
    answer.problem(403, "forbidden")

"""What holds for every request, whatever its route."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quart import Quart
from structlog.testing import capture_logs

from openstream_http.openapi import describe
from openstream_http.problems import BY_ERROR
from openstream_runtime.domain.errors import Fenced, OpenStreamError
from support.edge import EdgeClient, FakeMeter
from support.fake_gateway import FakeGateway, Trouble

pytestmark = pytest.mark.anyio


async def test_no_such_route_and_no_such_method_are_problems(client: EdgeClient) -> None:
    (await client.get("/nowhere", role=None)).problem(404, "not-found")
    answer = await client.delete("/v1/topics")
    answer.problem(405, "method-not-allowed")
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("error", [ValueError("secret-of-ours"), Fenced("secret-of-ours"), Trouble("secret-of-ours")])
async def test_our_own_fault_tells_the_client_an_id_and_the_log_the_story(
    client: EdgeClient, gateway: FakeGateway, error: Exception
) -> None:
    gateway.trouble = [error]
    with capture_logs() as logs:
        answer = await client.get("/v1/topics/orders")
    found = answer.problem(500, "internal-error")
    assert b"secret-of-ours" not in answer.body
    (line,) = logs
    assert line["error_id"] == found["error_id"]
    assert line["exc_info"] is error
    assert line["route"] == "/v1/topics/<topic>"
    assert "orders" not in str({name: value for name, value in line.items() if name != "exc_info"})


async def test_our_own_fault_in_a_stream_of_lines_is_no_less_a_problem(
    client: EdgeClient, gateway: FakeGateway
) -> None:
    gateway.trouble = [Trouble("x")]
    with capture_logs():
        answer = await client.post(
            "/v1/topics/a/events", b'{"event_type":"t","payload":1}\n', media="application/x-ndjson"
        )
    answer.problem(500, "internal-error")


async def test_every_answer_carries_the_headers_that_protect_a_browser(client: EdgeClient) -> None:
    for path in ("/docs", "/v1/topics", "/nowhere", "/metrics", "/v1/nowhere"):
        headers = (await client.get(path, role=None)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers.get("Cache-Control") == ("no-store" if path.startswith("/v1/") else None)


async def test_requests_are_counted_by_the_template_of_their_route(client: EdgeClient, meter: FakeMeter) -> None:
    await client.put("/v1/topics/orders")
    await client.get("/v1/topics/%0a")
    await client.get("/any/thing/at/all", role=None)
    await client.send("BREW", "/v1/topics/orders")
    await client.get("/metrics/", role=None)
    assert meter.requests == [
        ("PUT", "/v1/topics/<topic>", 201),
        ("GET", "/v1/topics/<topic>", 422),
        ("GET", "unmatched", 404),
        ("OTHER", "unmatched", 405),
        ("GET", "/metrics/", 200),
    ]


async def test_a_trailing_slash_is_no_redirect(client: EdgeClient) -> None:
    assert (await client.get("/v1/topics/")).status == 200
    assert (await client.get("/livez/", role=None)).status == 200


FIELDS = [
    *("events", "event_type", "payload", "partition_key", "timestamp_ms", "headers", "partitions", "ack", "group"),
    *("start_id", "start_ms", "consumer", "count", "block_ms", "items", "partition", "redis_ids", "min_idle_ms"),
    *("sub", "role", "admin_secret", "ttl_s", "topics"),
]
JSONISH = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["$", "0-0", "1-1", "orders", "g", "c", "\0", "~os:x", "\ud800", "9" * 30]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(FIELDS) | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
POSTS = [
    "/v1/auth/token",
    "/v1/topics/orders/events",
    "/v1/topics/orders/groups",
    "/v1/topics/orders/groups/g/read",
    "/v1/topics/orders/groups/g/claim",
    "/v1/topics/orders/groups/g/ack",
    "/v1/topics/orders/groups/g/reset",
]


def jsonish() -> st.SearchStrategy[bytes]:
    texts = JSONISH.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
    unescaped = JSONISH.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    cut = st.tuples(texts, st.integers(0, 50)).map(lambda pair: pair[0][: len(pair[0]) - pair[1]])
    return texts | unescaped | cut | st.binary(max_size=60)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "media",
    [
        "application/json",
        "application/x-ndjson",
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
    ],
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=jsonish())
async def test_no_bytes_whatsoever_are_our_fault(app: Quart, path: str, media: str, body: bytes) -> None:
    client = EdgeClient(app)
    await client.put("/v1/topics/orders", {})
    await client.post("/v1/topics/orders/groups", {"group": "g"})
    described = DESCRIBED.setdefault("paths", describe(app, "0")["paths"])
    template = path.replace("orders", "{topic}").replace("/g/", "/{group}/")
    answer = await client.send("POST", path, short(body), media=media)
    assert answer.status < 500, (body, answer.body)
    # And nothing is answered that the description does not know, in a media type that it does not know.
    response = described[template]["post"]["responses"][str(answer.status)]
    assert answer.headers["Content-Type"] in response["content"]


DESCRIBED: dict[str, Any] = {}


def short(body: bytes) -> bytes:
    """A read that would wait for half a minute tests nothing more than one that does not."""
    return body.replace(b'"block_ms"', b'"block_xx"')


def test_every_error_a_client_can_cause_has_its_place_in_the_table() -> None:
    # Only the house's own: other tests of the same session make subclasses too.
    ours = [cls for cls in OpenStreamError.__subclasses__() if cls.__module__ == OpenStreamError.__module__]
    unmapped = {cls.__name__ for cls in ours if cls not in BY_ERROR}
    assert unmapped == {"Fenced", "LeaseLost"}

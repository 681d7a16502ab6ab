"""What a node is watched by."""

from __future__ import annotations

import pytest

from openstream_http import schemas
from openstream_http.auth import Role
from support.edge import EdgeClient
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/livez", "/healthz"])
async def test_a_live_node_says_ok_even_when_it_is_not_ready(
    client: EdgeClient, gateway: FakeGateway, path: str
) -> None:
    gateway.draining = True
    answer = await client.get(path, role=None)
    assert (answer.status, answer.body) == (200, b"ok\n")


async def test_a_ready_node_says_so_and_why(client: EdgeClient) -> None:
    assert (await client.get("/readyz", role=None)).body == b"ok\n"
    verbose = await client.get("/readyz?verbose", role=None)
    assert verbose.body == b"[+] redis ok: 2 ms\n[+] postgres ok\n[+] not draining ok\nok\n"


async def test_a_draining_node_is_not_ready(client: EdgeClient, gateway: FakeGateway) -> None:
    gateway.draining = True
    answer = await client.get("/readyz", role=None)
    found = answer.problem(503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert [check["ok"] for check in found["checks"]] == [True, True, False]


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
async def test_metrics_are_for_prometheus_as_the_node_gives_them(client: EdgeClient, path: str) -> None:
    answer = await client.get(path, role=None)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"up 1.0" in answer.body


async def test_the_summary_covers_what_the_token_covers(client: EdgeClient) -> None:
    for name in ("a", "b"):
        await client.put(f"/v1/topics/{name}")
    whole = (await client.get("/v1/metrics/summary", role=Role.PRODUCER)).json(schemas.Summary)
    assert [topic["topic"] for topic in whole.topics] == ["a", "b"]
    part = (await client.get("/v1/metrics/summary", role=Role.CONSUMER, topics=["b"])).json(schemas.Summary)
    assert [topic["topic"] for topic in part.topics] == ["b"]


async def test_the_cluster_is_shown_to_tokens_that_are_not_narrowed(client: EdgeClient) -> None:
    assert (await client.get("/v1/cluster", role=Role.CONSUMER)).json(schemas.Cluster).nodes == [{"id": "n1"}]
    (await client.get("/v1/cluster", topics=["*"])).problem(403, "forbidden")

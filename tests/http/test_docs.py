"""Pages for people, and the description for machines."""

from __future__ import annotations

import re
from typing import Any

import pytest
from quart import Quart

from openstream_http import access, problems
from openstream_http.openapi import describe
from support.edge import EdgeClient

pytestmark = pytest.mark.anyio

#: What makes a browser fetch something: tags, style sheets, script.
FETCHES = re.compile(
    rb"""(?:src|href|action|data)\s*=\s*["']?([^"'\s>]+)|url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)"""
)
ASSETS = ["swagger-ui-bundle.js", "swagger-ui.css", "init.js", "page.css"]


@pytest.mark.parametrize("path", ["/docs", "/problems", "/problems/conflict"])
async def test_a_page_needs_nothing_from_elsewhere_and_runs_nothing_inline(client: EdgeClient, path: str) -> None:
    answer = await client.get(path, role=None)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert b"://" not in answer.body
    assert re.search(rb"<script(?![^>]*\bsrc=)", answer.body) is None
    assert re.search(rb"<[^>]+\s(on\w+|style)\s*=", answer.body) is None
    assert b"<style" not in answer.body
    for found in FETCHES.findall(answer.body):
        where = b"".join(found).decode().split("#")[0]
        assert where.startswith("/")
        assert (await client.get(where, role=None)).status == 200, where


@pytest.mark.parametrize("name", ASSETS)
async def test_an_asset_is_ours_and_is_not_sent_twice(client: EdgeClient, name: str) -> None:
    path = f"/docs/assets/{name}"
    answer = await client.get(path, role=None)
    assert answer.status == 200
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    again = await client.get(path, role=None, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    if name.endswith(".css"):
        fetched = [b"".join(found) for found in FETCHES.findall(answer.body)]
        assert all(where.startswith((b"data:", b"#")) for where in fetched), fetched[:3]


async def test_swagger_ui_is_told_to_ask_nobody_else(client: EdgeClient) -> None:
    text = (await client.get("/docs/assets/init.js", role=None)).body
    assert b"validatorUrl: null" in text
    assert b'url: "/openapi.json"' in text
    assert b"://" not in text


@pytest.mark.parametrize("name", ["LICENSE", "nope.js", "..%2f..%2fapp.py", "%2e%2e"])
async def test_nothing_else_is_an_asset(client: EdgeClient, name: str) -> None:
    (await client.get(f"/docs/assets/{name}", role=None)).problem(404, "not-found")


@pytest.mark.parametrize("slug", sorted(problems.KINDS))
async def test_every_problem_is_explained_where_its_type_points(client: EdgeClient, slug: str) -> None:
    answer = await client.get(f"/problems/{slug}", role=None)
    assert answer.status == 200
    assert slug.encode() in answer.body


async def test_a_problem_that_is_none_is_a_404(client: EdgeClient) -> None:
    (await client.get("/problems/no-such", role=None)).problem(404, "not-found")


async def test_the_description_is_openapi_3_1_and_knows_every_route(app: Quart, client: EdgeClient) -> None:
    answer = await client.get("/openapi.json", role=None)
    assert answer.headers["Content-Type"] == "application/json"
    whole = answer.json()
    assert whole == describe(app, whole["info"]["version"])
    assert whole["openapi"].startswith("3.1")
    assert whole["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/v1/") or rule.rule in {"/livez", "/readyz", "/metrics"}:
            path = re.sub(r"<([^>]+)>", r"{\1}", rule.rule)
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                operation = whole["paths"][path][method.lower()]
                found = access.access_of(app, rule.endpoint)
                assert found is not None
                assert operation["security"] == ([] if found.roles is None else [{"bearer": []}])
                assert operation["summary"]
    identifiers = [operation["operationId"] for path in whole["paths"].values() for operation in path.values()]
    assert len(identifiers) == len(set(identifiers))


async def test_every_reference_in_the_description_leads_somewhere(client: EdgeClient) -> None:
    whole = (await client.get("/openapi.json", role=None)).json()

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [one for value in node.values() for one in references(value)]
        return [one for value in node for one in references(value)] if isinstance(node, list) else []

    found = set(references(whole))
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in whole["components"]["schemas"], reference


async def test_produce_is_described_with_every_body_and_its_query(client: EdgeClient) -> None:
    operation = (await client.get("/openapi.json", role=None)).json()["paths"]["/v1/topics/{topic}/events"]["post"]
    assert set(operation["requestBody"]["content"]) == {
        "application/json", "application/x-ndjson",
        "application/cloudevents+json", "application/cloudevents-batch+json",
    }  # fmt: skip
    assert [one["name"] for one in operation["parameters"]] == [
        "topic", "partitions", "ack", "ce-specversion", "ce-id", "ce-source", "ce-type",
        "Producer-Id", "Producer-Epoch", "Producer-Seq",
    ]  # fmt: skip
    assert set(operation["responses"]) == {
        "200", "400", "401", "403", "404", "408", "409", "413", "414", "415", "422", "429", "431", "500", "503",
    }  # fmt: skip
    assert set(operation["responses"]["429"]["content"]) == {"application/problem+json"}
    assert "Retry-After" in operation["responses"]["429"]["headers"]

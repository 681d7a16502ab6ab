"""GET /asyncapi.json, against the official schema of AsyncAPI 3.0.0.

`data/asyncapi-3.0.0.json` is `schemas/3.0.0-without-$id.json` of the npm package `@asyncapi/specs` 6.11.1, as it
is (Apache-2.0, the AsyncAPI Initiative).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from openstream_http.auth import Role
from support.edge import EdgeClient
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio

TOPICS = ["orders", "audit.log", "a-b_c"]


@pytest.fixture(scope="module")
def official() -> jsonschema.Draft7Validator:
    schema = json.loads((Path(__file__).parent / "data" / "asyncapi-3.0.0.json").read_bytes())
    return jsonschema.Draft7Validator(schema)


async def document(client: EdgeClient, **how: Any) -> dict[str, Any]:
    answer = await client.get("/asyncapi.json", **how)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture
async def filled(client: EdgeClient) -> EdgeClient:
    for topic in TOPICS:
        await client.put(f"/v1/topics/{topic}", {"partitions": 3})
    return client


def follow(whole: dict[str, Any], reference: str) -> Any:
    node: Any = whole
    for step in reference.removeprefix("#/").split("/"):
        node = node[step.replace("~1", "/").replace("~0", "~")]
    return node


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [one for value in node.values() for one in references(value)]
    return [one for value in node for one in references(value)] if isinstance(node, list) else []


async def test_the_official_schema_takes_it(filled: EdgeClient, official: jsonschema.Draft7Validator) -> None:
    errors = [
        f"{list(error.absolute_path)}: {error.message}"[:300] for error in official.iter_errors(await document(filled))
    ]
    assert errors == []


async def test_the_official_schema_would_not_take_a_worse_one(
    filled: EdgeClient, official: jsonschema.Draft7Validator
) -> None:
    spoils: list[Callable[[Any], object]] = [
        lambda whole: whole.pop("info"),
        lambda whole: whole["channels"]["orders"].update(publish={}),
        lambda whole: whole["operations"]["orders:read"].update(action="publish"),
        lambda whole: whole["components"]["operationBindings"]["read"]["http"].update(method="READ"),
        lambda whole: whole["components"]["schemas"]["Event"].update(type="structure"),
    ]
    for spoil in spoils:
        whole = await document(filled)
        spoil(whole)
        assert not official.is_valid(whole)


async def test_a_node_without_topics_has_a_document_too(
    client: EdgeClient, official: jsonschema.Draft7Validator
) -> None:
    whole = await document(client)
    official.validate(whole)
    assert (whole["asyncapi"], whole["channels"], whole["operations"]) == ("3.0.0", {}, {})


async def test_every_reference_leads_somewhere_and_every_operation_to_its_own_channel(filled: EdgeClient) -> None:
    whole = await document(filled)
    found = references(whole)
    assert len(found) > 50
    for reference in found:
        follow(whole, reference)
    for operation in whole["operations"].values():
        channel = operation["channel"]["$ref"]
        assert all(one["$ref"].startswith(f"{channel}/messages/") for one in operation["messages"])


async def test_a_topic_has_its_addresses_its_messages_and_what_a_node_does_with_them(filled: EdgeClient) -> None:
    whole = await document(filled)
    assert set(whole["channels"]) == {name for topic in TOPICS for name in (topic, f"{topic}:groups")}
    assert whole["channels"]["audit.log"]["address"] == "/v1/topics/audit.log/events"
    assert whole["channels"]["orders:groups"]["address"] == "/v1/topics/orders/groups/{group}/read"
    actions = {name: one["action"] for name, one in whole["operations"].items() if name.startswith("orders:")}
    assert actions == {"orders:produce": "receive", "orders:history": "send", "orders:read": "send"}
    message = follow(whole, follow(whole, "#/channels/orders/messages/line")["$ref"])
    assert message["contentType"] == "application/x-ndjson"
    assert set(follow(whole, message["payload"]["$ref"])["required"]) == {"event_type", "payload"}
    assert whole["servers"]["node"]["security"] == [{"$ref": "#/components/securitySchemes/bearer"}]
    assert whole["servers"]["node"]["host"] == "localhost"


async def test_every_address_is_a_route_that_takes_the_method(filled: EdgeClient) -> None:
    whole = await document(filled)
    adapter = filled.app.url_map.bind("localhost")
    for operation in whole["operations"].values():
        address = follow(whole, operation["channel"]["$ref"])["address"].replace("{group}", "g")
        method = follow(whole, operation["bindings"]["$ref"])["http"]["method"]
        assert adapter.match(address, method=method)


async def test_it_takes_a_token_of_any_role(filled: EdgeClient) -> None:
    (await filled.get("/asyncapi.json", role=None)).problem(401, "unauthenticated")
    for role in Role:
        assert len((await document(filled, role=role))["channels"]) == 6


async def test_a_narrowed_token_sees_nothing_of_other_topics(filled: EdgeClient, gateway: FakeGateway) -> None:
    whole = await document(filled, role=Role.CONSUMER, topics=["ord*"])
    assert set(whole["channels"]) == {"orders", "orders:groups"}
    assert b"audit" not in json.dumps(whole).encode()
    assert len(gateway.held) == 3

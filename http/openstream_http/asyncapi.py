"""The topics as an AsyncAPI 3.0 document: channels, messages and operations, from the shapes the routes use.

Written from the node's side: it receives what producers POST and sends what consumers ask for. Each topic has two
channels, its events (`orders`) and its consumer groups (`orders:groups`; no topic's name holds a colon). What topics
share stands once, among the components, so that a document about thousands of them stays readable.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec
from quart import Blueprint, Response, request

from openstream_http import group_schemas, schemas
from openstream_http.access import permits, principal
from openstream_http.auth import Role
from openstream_http.cloudevents.schema import CloudEvent
from openstream_http.docs import version
from openstream_http.edge import edge
from openstream_http.history import HistoryAnswer, KeptEvent, TopicHistoryQuery
from openstream_http.negotiation import CLOUD_EVENT, CLOUD_EVENTS, JSON, LINES
from openstream_http.openapi import describes
from openstream_http.rendering import json_response
from openstream_runtime.domain.topics import Topic

_SCHEMAS = "#/components/schemas/"
#: Name, media type, shape, and what it is.
_MESSAGES: tuple[tuple[str, str, Any, str], ...] = (
    ("events", JSON, schemas.ProduceRequest, "events to append"),
    ("line", LINES[0], schemas.Event, "an event to append, one a line"),
    ("cloudEvent", CLOUD_EVENT, CloudEvent, "a CloudEvent in structured mode"),
    ("cloudEvents", CLOUD_EVENTS, list[CloudEvent], "a batch of CloudEvents"),
    ("page", JSON, HistoryAnswer, "a page of what is kept"),
    ("keptLine", LINES[0], KeptEvent, "an event that is kept, one a line"),
    ("delivered", JSON, group_schemas.ReadAnswer, "events handed to a consumer"),
)
#: Name, method, the shape of its query.
_BINDINGS: tuple[tuple[str, str, Any], ...] = (
    ("produce", "POST", schemas.ProduceQuery),
    ("history", "GET", TopicHistoryQuery),
    ("read", "POST", None),
)
_PRODUCED = ("events", "line", "cloudEvent", "cloudEvents")
_KEPT = ("page", "keptLine", "cloudEvents")
_DELIVERED = ("delivered", "cloudEvents")

asyncapi = Blueprint("asyncapi", __name__)


@asyncapi.get("/asyncapi.json")
@permits(Role.PRODUCER, Role.CONSUMER)
@describes("topics", responses={200: JSON}, problems=(503,))
async def asyncapi_document() -> Response:
    """The topics the token covers, as AsyncAPI 3.0."""
    allows = principal().allows
    topics = [topic for topic in await edge().gateway.topics() if allows(topic.name)]
    return json_response(document(topics, host=request.host, protocol=request.scheme))


def document(topics: Iterable[Topic], *, host: str, protocol: str) -> dict[str, Any]:
    """The whole document."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for topic in topics:
        _add(topic, channels, operations)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "OpenStream topics",
            "version": version(),
            "description": "The events of each topic, as a node receives and sends them; /openapi.json has all routes.",
        },
        "defaultContentType": JSON,
        "servers": {
            "node": {
                "host": host,
                "protocol": protocol,
                "description": "Any node serves any request.",
                "security": [{"$ref": "#/components/securitySchemes/bearer"}],
            }
        },
        "channels": channels,
        "operations": operations,
        "components": _components(),
    }


def _add(topic: Topic, channels: dict[str, Any], operations: dict[str, Any]) -> None:
    name, path = topic.name, f"/v1/topics/{topic.name}"
    channels[name] = {
        "address": f"{path}/events",
        "title": name,
        "description": f"{topic.partitions} partitions; events that share a partition key share a partition.",
        "messages": _messages(dict.fromkeys(_PRODUCED + _KEPT)),
    }
    channels[f"{name}:groups"] = {
        "address": f"{path}/groups/{{group}}/read",
        "title": f"{name}, by consumer group",
        "parameters": {"group": {"description": "a consumer group of the topic"}},
        "messages": _messages(_DELIVERED),
    }
    operations[f"{name}:produce"] = _operation("receive", name, "produce", _PRODUCED)
    operations[f"{name}:history"] = _operation("send", name, "history", _KEPT)
    operations[f"{name}:read"] = _operation("send", f"{name}:groups", "read", _DELIVERED)


def _messages(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _operation(action: str, channel: str, binding: str, messages: Iterable[str]) -> dict[str, Any]:
    at = f"#/channels/{channel}"
    return {
        "action": action,
        "channel": {"$ref": at},
        "messages": [{"$ref": f"{at}/messages/{name}"} for name in messages],
        "bindings": {"$ref": f"#/components/operationBindings/{binding}"},
    }


@cache
def _components() -> dict[str, Any]:
    shapes = [shape for _, _, shape, _ in _MESSAGES] + [query for _, _, query in _BINDINGS if query is not None]
    references, found = msgspec.json.schema_components(shapes, ref_template=f"{_SCHEMAS}{{name}}")
    payloads, queries = references[: len(_MESSAGES)], iter(references[len(_MESSAGES) :])
    return {
        "schemas": dict(sorted(found.items())),
        "messages": {
            name: {"name": name, "title": title, "contentType": media, "payload": payload}
            for (name, media, _, title), payload in zip(_MESSAGES, payloads, strict=True)
        },
        "operationBindings": {
            name: {"http": {"method": method, "bindingVersion": "0.3.0"} | ({"query": next(queries)} if query else {})}
            for name, method, query in _BINDINGS
        },
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
    }

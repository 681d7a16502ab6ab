"""CloudEvents for tests: one that has everything, and ways to send and to read them."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from support.edge import Answer, EdgeClient

ONE = "application/cloudevents+json"
MANY = "application/cloudevents-batch+json"
OURS = {"openstreampartition", "openstreamid", "openstreamdeliveries"}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

FULL: dict[str, Any] = {
    "specversion": "1.0",
    "id": "A 1-ü",
    "source": "/shop/tills/7?x=%20",
    "type": "order.created",
    "subject": "orders/7",
    "time": "2026-11-24T20:00:00.123Z",
    "datacontenttype": "application/json",
    "dataschema": "https://example.com/order.json",
    "partitionkey": "user-1",
    "traceparent": TRACEPARENT,
    "comexample": "50 % \"off\" \\ 'now'",
    "data": {"order_id": "o-1", "amount": 12.34},
}


def cloud_event(**changes: Any) -> dict[str, Any]:
    """FULL with changes; None takes a member away."""
    return {name: value for name, value in (FULL | changes).items() if value is not None}


def binary(event: dict[str, Any]) -> dict[str, str]:
    """The headers of an event in binary mode; its data is the body."""
    headers = {f"ce-{name}": quote(str(value), safe="") for name, value in event.items() if name != "data"}
    content_type = headers.pop("ce-datacontenttype", None)
    return headers if content_type is None else headers | {"Content-Type": event["datacontenttype"]}


async def send(client: EdgeClient, mode: str, event: dict[str, Any], data: bytes, topic: str = "orders") -> Answer:
    """One event in a mode: `binary`, `structured` or `batched`. `data`: its data as JSON."""
    path = f"/v1/topics/{topic}/events?partitions=4"
    if mode == "binary":
        return await client.post(path, data, headers=binary(event), media=None)
    head = json.dumps({name: value for name, value in event.items() if name != "data"})
    body = head[:-1].encode() + b',"data":' + data + b"}"
    if mode == "structured":
        return await client.post(path, body, media=f"{ONE}; charset=UTF-8")
    return await client.post(path, b"[" + body + b"]", media=MANY)


async def kept(client: EdgeClient, topic: str = "orders", query: str = "") -> list[dict[str, Any]]:
    """What the history has, as CloudEvents."""
    answer = await client.get(f"/v1/topics/{topic}/events?{query}", headers={"Accept": MANY})
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == MANY
    found: list[dict[str, Any]] = answer.json()
    return found


def without_ours(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in OURS}

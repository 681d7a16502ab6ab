"""CloudEvents through a real node: in by each mode, out of Redis and PostgreSQL by history and by group, acked."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cloud_events import MANY, ONE, binary, cloud_event, without_ours
from support.cluster import Cluster
from support.partitions import count_stored, lengths, wait_for

pytestmark = pytest.mark.timeout(60)

EVENTS = "/v1/topics/orders/events"
PARTITIONS = 2
BATCH = {"Accept": MANY}
DATA = b'{ "order_id":"o-1",\n "amount": 12.340 }'
SENT: dict[str, dict[str, Any]] = {
    "structured": cloud_event(id="structured", data=json.loads(DATA), count=5, sampled=True),
    "binary": cloud_event(id="binary", data=json.loads(DATA)),
    "bytes": cloud_event(
        id="bytes", data=None, datacontenttype="image/png", data_base64=b64encode(b"\x89PNG").decode()
    ),
    "text": cloud_event(id="text", data="zwölf\n", datacontenttype="text/plain"),
    "batch-0": cloud_event(id="batch-0", data=[0], partitionkey=None),
    "batch-1": cloud_event(id="batch-1", data=None, time="2026-11-24T21:00:00.000001+01:00"),
}


def post(client: Client, body: Any, headers: dict[str, str]) -> None:
    reply = client.request("POST", f"{EVENTS}?partitions={PARTITIONS}", body, headers=headers)
    assert reply.status == 200, reply


def produce(client: Client) -> None:
    """Everything in SENT, each by its mode."""
    head = json.dumps({name: value for name, value in SENT["structured"].items() if name != "data"})
    post(client, head[:-1].encode() + b',"data":' + DATA + b"}", {"Content-Type": ONE})
    post(client, DATA, binary(SENT["binary"]))
    raw = {name: value for name, value in SENT["bytes"].items() if name != "data_base64"}
    post(client, b64decode(SENT["bytes"]["data_base64"]), binary(raw))
    post(client, SENT["text"]["data"].encode(), binary(SENT["text"]))
    post(client, [SENT["batch-0"], SENT["batch-1"]], {"Content-Type": MANY})


def batch(client: Client, method: str, path: str, body: Any = None) -> list[dict[str, Any]]:
    reply = client.request(method, path, body, headers=BATCH)
    assert (reply.status, reply.headers["content-type"]) == (200, MANY), reply
    assert reply.body.count(DATA) in {0, 2}, "data comes back byte for byte"
    events: list[dict[str, Any]] = reply.json
    return events


def by_id(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {event["id"]: without_ours(event) for event in events}


def is_only_in_postgres(servers: EmbeddedServers) -> bool:
    return count_stored(servers.database_url, "orders") == len(SENT) and not sum(
        lengths(servers.redis_url, "orders", PARTITIONS)
    )


def test_events_come_back_as_they_were_from_wherever_they_are(own_servers: EmbeddedServers, tmp_path: Path) -> None:
    with Cluster(own_servers, tmp_path) as cluster:
        client = Client(cluster.urls[0], cluster.token())
        assert client.request("PUT", "/v1/topics/orders", {"partitions": PARTITIONS, "retention_ms": 500}).status == 201
        client.make_group("orders", "hot")
        produce(client)

        read = batch(client, "POST", "/v1/topics/orders/groups/hot/read", {"consumer": "c1", "block_ms": 2_000})
        while len(read) < len(SENT):
            read += batch(client, "POST", "/v1/topics/orders/groups/hot/read", {"consumer": "c1", "block_ms": 2_000})
        assert by_id(read) == SENT
        assert {event["openstreamdeliveries"] for event in read} == {1}
        named = [{"partition": one["openstreampartition"], "redis_id": one["openstreamid"]} for one in read]
        assert client.ack("orders", "hot", named) == len(SENT)

        wait_for(partial(is_only_in_postgres, own_servers), "Redis has forgotten them", 20)
        assert by_id(batch(client, "GET", EVENTS)) == SENT
        assert client.request("GET", EVENTS, headers=BATCH).body.count(b'"data":' + DATA + b"}") == 2, "byte for byte"
        pages = [
            event
            for p in range(PARTITIONS)
            for event in batch(client, "GET", f"/v1/topics/orders/partitions/{p}/events")
        ]
        assert by_id(pages) == SENT

        described = client.get("/asyncapi.json").json
        assert described["channels"]["orders"]["address"] == EVENTS

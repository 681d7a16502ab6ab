"""One request, one answer: HTTP to a node as a hostile or careful client speaks it, blocking, never repeated."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PROBLEM = "application/problem+json"
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. Header names are in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def slug(self) -> str | None:
        """Which problem it is; None when it is none."""
        if self.headers.get("content-type") != PROBLEM:
            return None
        return str(self.json["type"]).removeprefix("/problems/")


class Client:
    """Speaks to one node, on a connection of its own for each request."""

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 15.0) -> None:
        address = urlsplit(url)
        self.host, self.port = address.hostname or "", address.port or 0
        self.token = token
        self.timeout = timeout

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """`body`: bytes or an iterator of bytes (chunked) as they are, anything else as JSON. OSError when cut off."""
        given = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        if body is not None:
            given |= _JSON
            if not isinstance(body, bytes) and not hasattr(body, "__next__"):
                body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout or self.timeout)
        try:
            connection.request(method, path, body, {**given, **(headers or {})})
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, names, answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.request("GET", path)

    def post(self, path: str, body: Any, *, timeout: float | None = None) -> Reply:
        return self.request("POST", path, body, timeout=timeout)

    def raw(self, message: bytes, *, timeout: float | None = None) -> bytes:
        """Bytes as they are; everything the node says until it closes, or falls silent."""
        with self.connect(timeout) as connection:
            connection.sendall(message)
            said = b""
            try:
                while piece := connection.recv(65_536):
                    said += piece
            except TimeoutError:
                pass
            return said

    def connect(self, timeout: float | None = None) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=timeout or self.timeout)

    def message(self, path: str, body: bytes, *, length: int | None = None) -> bytes:
        """A POST of JSON for `connect`; a `length` larger than the body is a promise to be broken."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nAuthorization: Bearer {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
        )
        return head.encode() + body

    # ---- what most tests ask

    def produce(
        self,
        topic: str,
        payloads: Sequence[Any],
        *,
        keys: Sequence[str | None] | None = None,
        partitions: int | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """One event for each payload, each under its key."""
        named = keys if keys is not None else [None] * len(payloads)
        events = [
            {"event_type": "test", "payload": payload, **({} if key is None else {"partition_key": key})}
            for payload, key in zip(payloads, named, strict=True)
        ]
        body: dict[str, Any] = {"events": events}
        if partitions is not None:
            body["partitions"] = partitions
        return self.post(f"/v1/topics/{topic}/events", body, timeout=timeout)

    def put_topic(self, topic: str, partitions: int) -> None:
        reply = self.request("PUT", f"/v1/topics/{topic}", {"partitions": partitions})
        assert reply.status in (200, 201), reply

    def make_group(self, topic: str, group: str, start_id: str = "0-0") -> None:
        reply = self.post(f"/v1/topics/{topic}/groups", {"group": group, "start_id": start_id})
        assert reply.status in (200, 201), reply

    def read(
        self, topic: str, group: str, consumer: str, *, count: int = 100, block_ms: int = 0
    ) -> list[dict[str, Any]]:
        """The events of one read that must be answered with 200."""
        reply = self.try_read(topic, group, consumer, count=count, block_ms=block_ms)
        assert reply.status == 200, reply
        events: list[dict[str, Any]] = reply.json["events"]
        return events

    def try_read(self, topic: str, group: str, consumer: str, *, count: int = 100, block_ms: int = 0) -> Reply:
        wish = {"consumer": consumer, "count": count, "block_ms": block_ms}
        return self.post(f"/v1/topics/{topic}/groups/{group}/read", wish, timeout=self.timeout + block_ms / 1000)

    def ack(self, topic: str, group: str, events: Sequence[Mapping[str, Any]]) -> int:
        by_partition: dict[int, list[str]] = {}
        for event in events:
            by_partition.setdefault(event["partition"], []).append(event["redis_id"])
        items = [{"partition": partition, "redis_ids": ids} for partition, ids in by_partition.items()]
        reply = self.post(f"/v1/topics/{topic}/groups/{group}/ack", {"items": items})
        assert reply.status == 200, reply
        return int(reply.json["acked"])

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series with these labels; 0 when there is none."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{key}="{want}"' in series for key, want in labels.items()):
                total += float(value)
        return total

"""A cluster in memory behind the client's transport: it keeps the contract, and breaks it where a test says so.

service = FakeService()
service.next_answers.append(problem(429, "overloaded", retry_after_ms=20))
async with OpenStream("http://a", "token", http=service.transport) as client: …
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import httpx2

#: Instead of an answer: a response, an error of the connection, or a function of the request.
Fault = httpx2.Response | Exception | Callable[[httpx2.Request], httpx2.Response]


def problem(status: int, slug: str, **facts: Any) -> httpx2.Response:
    body = {"type": f"/problems/{slug}", "title": slug, "status": status, "detail": f"it is {slug}", **facts}
    return httpx2.Response(status, json=body, headers={"content-type": "application/problem+json"})


class FakeService:
    """Topics have `partitions` partitions; a key's partition is its length modulo that."""

    def __init__(self, partitions: int = 2) -> None:
        self.partitions = partitions
        self.requests: list[httpx2.Request] = []
        #: Answers to the next produce requests, in the place of doing them.
        self.produce_faults: deque[Fault] = deque()
        #: The same for anything else, by the end of its path.
        self.faults: dict[str, deque[Fault]] = {}
        #: Hosts that cannot be reached.
        self.away: set[str] = set()
        self.topics: dict[str, list[list[dict[str, Any]]]] = {}
        self.positions: dict[tuple[str, str], list[int]] = {}
        self.pending: dict[tuple[str, str], dict[tuple[int, str], dict[str, Any]]] = {}
        self.acked: list[tuple[int, str]] = []
        #: What was nacked with which delay, how often each was extended, and what the next extensions call lost.
        self.nacked: list[tuple[int, str, int]] = []
        self.extended: Counter[tuple[int, str]] = Counter()
        self.lost: set[tuple[int, str]] = set()
        self.claim_idle_ms: int | None = None
        #: Of each numbered producer: its epoch, its next number, and the last request with its answer.
        self.producers: dict[str, tuple[int, int, tuple[int, bytes], httpx2.Response]] = {}
        self.reads_cut: deque[int] = deque()
        self._changed = anyio.Event()
        self.transport = httpx2.MockTransport(self._handle)

    def events(self, topic: str) -> list[dict[str, Any]]:
        """Partition after partition."""
        return [event for partition in self.topics.get(topic, []) for event in partition]

    def put(self, topic: str, *payloads: Any, partition: int = 0) -> None:
        for payload in payloads:
            self._append(topic, partition, {"event_type": "test", "payload": payload})

    def group(self, topic: str, group: str) -> None:
        self._topic(topic)
        self.positions[topic, group] = [0] * self.partitions
        self.pending[topic, group] = {}

    def paths(self, end: str) -> list[str]:
        return [request.url.path for request in self.requests if request.url.path.endswith(end)]

    def keep_and_lose(self, request: httpx2.Request) -> httpx2.Response:
        """A fault: the events are kept, and nobody hears of it."""
        self._numbered(request.url.path.split("/")[3], request)
        raise httpx2.ReadError("the connection broke")

    # ---- the node

    async def _handle(self, request: httpx2.Request) -> httpx2.Response:
        await anyio.lowlevel.checkpoint()
        self.requests.append(request)
        if request.url.host in self.away:
            raise httpx2.ConnectError("refused")
        path = request.url.path
        faults = self.produce_faults if self._is_produce(request) else self.faults.get(path.rpartition("/")[2])
        if faults:
            fault = faults.popleft()
            if isinstance(fault, Exception):
                raise fault
            return fault(request) if callable(fault) else fault
        match path.strip("/").split("/")[1:]:
            case ["topics", topic, "events"] if request.method == "POST":
                return self._numbered(topic, request)
            case ["topics", topic, "events"]:
                return self._history(topic, None, request)
            case ["topics", topic, "partitions", number, "events"]:
                return self._history(topic, int(number), request)
            case ["topics", topic, "groups", group, "read"]:
                return await self._read(topic, group, json.loads(request.content))
            case ["topics", topic, "groups", group, "ack"]:
                return self._ack(topic, group, json.loads(request.content))
            case ["topics", topic, "groups", group, "nack"]:
                return self._nack(topic, group, json.loads(request.content))
            case ["topics", topic, "groups", group, "extend"]:
                return self._extend(topic, group, json.loads(request.content))
            case ["topics", topic, "groups", group] if (topic, group) in self.positions:
                settings = {"topic": topic, "group": group, "claim_idle_ms": self.claim_idle_ms}
                return httpx2.Response(200, json={**settings, "pending": 0, "lag": 0, "partitions": []})
            case ["topics", topic, "groups", group, "claim"]:
                return self._claim(topic, group, json.loads(request.content))
            case ["metrics", "summary"]:
                return httpx2.Response(200, json={"topics": [self._stats(topic) for topic in self.topics]})
            case ["topics", topic] if topic in self.topics:
                return httpx2.Response(200, json={"topic": topic, "partitions": self.partitions, "new_field": 1})
        return problem(404, "not-found")

    def _stats(self, topic: str) -> dict[str, Any]:
        logs = enumerate(self.topics[topic])
        stats: list[dict[str, Any]] = [
            {"partition": number, "last_id": log[-1]["redis_id"] if log else "0-0", "groups": []}
            for number, log in logs
        ]
        return {"topic": topic, "partition_stats": stats}

    @staticmethod
    def _is_produce(request: httpx2.Request) -> bool:
        return request.method == "POST" and request.url.path.endswith("/events")

    def _topic(self, topic: str) -> list[list[dict[str, Any]]]:
        return self.topics.setdefault(topic, [[] for _ in range(self.partitions)])

    def _append(self, topic: str, partition: int, event: dict[str, Any]) -> dict[str, Any]:
        log = self._topic(topic)[partition]
        kept = {"partition_key": None, "timestamp_ms": 1, "headers": {}, **event}
        log.append({**kept, "partition": partition, "redis_id": f"{len(log) + 1}-0"})
        self._changed.set()
        self._changed = anyio.Event()
        return {"partition": partition, "redis_id": log[-1]["redis_id"]}

    def _produce(self, topic: str, body: dict[str, Any]) -> httpx2.Response:
        results = [
            self._append(topic, len(event.get("partition_key") or "") % self.partitions, event)
            for event in body["events"]
        ]
        return httpx2.Response(200, json={"topic": topic, "partitions": self.partitions, "results": results})

    def _numbered(self, topic: str, request: httpx2.Request) -> httpx2.Response:
        """Once for each number of a producer; a request without headers as it comes."""
        body = json.loads(request.content)
        name = request.headers.get("producer-id")
        if name is None:
            return self._produce(topic, body)
        epoch, seq = int(request.headers["producer-epoch"]), int(request.headers["producer-seq"])
        known = self.producers.get(name)
        if known is None and seq != 0:
            return problem(409, "unknown-producer")
        if known is not None:
            if epoch < known[0]:
                return problem(403, "stale-epoch", current_epoch=known[0])
            if epoch == known[0] and (seq, request.content) == known[2]:
                again = json.loads(known[3].content)
                results = [{**one, "duplicate": True} for one in again["results"]]
                return httpx2.Response(200, json={**again, "results": results, "duplicate": True})
            if epoch == known[0] and seq != known[1]:
                return problem(409, "out-of-sequence", expected_seq=known[1])
        answer = self._produce(topic, body)
        self.producers[name] = epoch, seq + len(body["events"]), (seq, request.content), answer
        return answer

    async def _read(self, topic: str, group: str, wish: dict[str, Any]) -> httpx2.Response:
        at = self.positions.get((topic, group))
        if at is None:
            return problem(404, "not-found")
        taken: list[dict[str, Any]] = []
        with anyio.move_on_after(wish["block_ms"] / 1000):
            while not taken:
                for number, log in enumerate(self._topic(topic)):
                    some = log[at[number] : at[number] + wish["count"] - len(taken)]
                    at[number] += len(some)
                    taken += some
                if not taken:
                    await self._changed.wait()
        self.pending[topic, group].update({(event["partition"], event["redis_id"]): event for event in taken})
        return self._delivered(topic, group, wish, taken)

    def _delivered(self, topic: str, group: str, wish: dict[str, Any], taken: list[dict[str, Any]]) -> httpx2.Response:
        events = [{**event, "deliveries": 1} for event in taken]
        return httpx2.Response(
            200, json={"topic": topic, "group": group, "consumer": wish["consumer"], "events": events}
        )

    def _ack(self, topic: str, group: str, wish: dict[str, Any]) -> httpx2.Response:
        done = [(item["partition"], one) for item in wish["items"] for one in item["redis_ids"]]
        held = self.pending[topic, group]
        acked = [one for one in done if held.pop(one, None) is not None]
        self.acked += acked
        return httpx2.Response(200, json={"topic": topic, "group": group, "acked": len(acked)})

    def _nack(self, topic: str, group: str, wish: dict[str, Any]) -> httpx2.Response:
        held = self.pending[topic, group]
        done = [(item["partition"], one) for item in wish["items"] for one in item["redis_ids"]]
        self.nacked += [(*one, wish.get("delay_ms", 0)) for one in done if held.pop(one, None) is not None]
        return httpx2.Response(200, json={"topic": topic, "group": group, "nacked": len(done), "dead_lettered": 0})

    def _extend(self, topic: str, group: str, wish: dict[str, Any]) -> httpx2.Response:
        asked = [(item["partition"], one) for item in wish["items"] for one in item["redis_ids"]]
        lost = [{"partition": number, "redis_ids": [one]} for number, one in asked if (number, one) in self.lost]
        self.extended.update(one for one in asked if one not in self.lost)
        return httpx2.Response(200, json={"extended": len(asked) - len(lost), "lost": lost})

    def _claim(self, topic: str, group: str, wish: dict[str, Any]) -> httpx2.Response:
        return self._delivered(topic, group, wish, list(self.pending[topic, group].values())[: wish["count"]])

    def _history(self, topic: str, partition: int | None, request: httpx2.Request) -> httpx2.Response:
        """`from_id` is inclusive. `reads_cut`: after how many events the next streams break off."""
        start_at, start = _place(request.url.params.get("from_id"), partition)
        found = [
            event
            for event in self.events(topic)
            if (partition is None or event["partition"] == partition)
            and (event["partition"], int(event["redis_id"].partition("-")[0])) >= (start_at, start)
        ]
        if request.headers.get("accept") == "application/x-ndjson":
            cut = self.reads_cut.popleft() if self.reads_cut else None
            return httpx2.Response(200, content=_stream(found, cut))
        limit = int(request.url.params.get("limit", 100))
        rest = found[limit:]
        next_id = None
        if rest:
            next_id = rest[0]["redis_id"] if partition is not None else f"p{rest[0]['partition']}@{rest[0]['redis_id']}"
        return httpx2.Response(200, json={"topic": topic, "events": found[:limit], "next_id": next_id})


def _place(from_id: str | None, partition: int | None) -> tuple[int, int]:
    if from_id is None:
        return (partition or 0, 0)
    where, _, position = from_id.rpartition("@")
    return (int(where.lstrip("p") or partition or 0), int(position.partition("-")[0]))


async def _stream(events: list[dict[str, Any]], cut: int | None) -> AsyncIterator[bytes]:
    for event in events[:cut]:
        yield json.dumps(event).encode() + b"\n"
    if cut is not None:
        yield b'{"partition":0,"redi'
        raise httpx2.RemoteProtocolError("the body broke off")

"""Streams: snapshots of the node and tails of a topic, on a real port, to their ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from quart import Quart

from openstream_http import sse
from openstream_http.auth import Role
from openstream_http.rendering import HEAD_BYTES
from openstream_runtime.actors.audience import MAX_SEATS, SEAT_EVENTS
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.positions import Position
from support.edge import EdgeClient
from support.fake_gateway import FakeGateway
from support.wire import Wire, request, until, wire

pytestmark = pytest.mark.anyio
TAIL = "/v1/topics/orders/tail"


def event(ms: int = 1, payload: bytes = b"{}", *, key: str | None = None, event_type: str = "test") -> StoredEvent:
    return StoredEvent(Position(ms, 0), event_type, key, payload, 5, None)


class Stream:
    """A stream as a client reads it: `next()` is its next event."""

    def __init__(self, line: Wire) -> None:
        self._line = line
        self._text = b""
        self.head = ""
        self.ended = False

    async def open(self) -> None:
        while b"\r\n\r\n" not in self._text:
            self._text += await self._line.stream.receive()
        head, _, self._text = self._text.partition(b"\r\n\r\n")
        self.head = head.decode().lower()

    async def next(self) -> tuple[str, Any]:
        """Event and data. Chunks of HTTP are taken for what they are: sizes on lines of their own."""
        with anyio.fail_after(5):
            while b"\n\n" not in self._text:
                self._text += await self._line.stream.receive()
        block, _, self._text = self._text.partition(b"\n\n")
        fields = dict(line.split(": ", 1) for line in block.decode().splitlines() if ": " in line)
        return fields["event"], json.loads(fields["data"])

    async def rest(self) -> bytes:
        try:
            while True:
                self._text += await self._line.stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return self._text


@asynccontextmanager
async def stream(running: Any, path: str, **token: Any) -> AsyncIterator[Stream]:
    async with wire(running.port) as line:
        await line.send(request("GET", path, token=running.client.token(**token)))
        found = Stream(line)
        await found.open()
        yield found


async def topic(client: EdgeClient, name: str = "orders", partitions: int = 2) -> None:
    assert (await client.put(f"/v1/topics/{name}", {"partitions": partitions})).status == 201


# ---------------------------------------------------------------------------------------------------- snapshots


async def test_a_stream_begins_with_the_history_and_goes_on_with_snapshots(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running:
        await topic(running.client)
        async with stream(running, "/v1/live?topic=orders", role=Role.CONSUMER) as live:
            assert "content-type: text/event-stream" in live.head
            assert "cache-control: no-store" in live.head
            assert await live.next() == ("history", {"fields": ["at_ms"], "points": [[1]]})
            first = {"topics": ["orders"], "detail": "orders", "restarts": []}
            assert await live.next() == ("snapshot", first)
            gateway.tick()
            assert await live.next() == ("snapshot", first)


async def test_a_narrowed_token_sees_its_topics_and_nothing_of_the_whole(serve: Any) -> None:
    async with serve() as running:
        await topic(running.client)
        await topic(running.client, "secret")
        async with stream(running, "/v1/live", role=Role.PRODUCER, topics=["ord*"]) as live:
            assert await live.next() == ("snapshot", {"topics": ["orders"], "detail": None, "restarts": None})
        narrowed = await running.client.get("/v1/live?topic=secret", topics=["ord*"])
        narrowed.problem(403, "forbidden")


@pytest.mark.parametrize("path", ["/v1/live", TAIL])
async def test_nobody_watches_without_a_token(client: EdgeClient, path: str) -> None:
    (await client.get(path, role=None)).problem(401, "unauthenticated")


async def test_a_strange_query_is_refused(client: EdgeClient) -> None:
    await topic(client)
    (await client.get("/v1/live?topik=orders")).problem(422, "invalid-request")
    (await client.get("/v1/live?topic=..")).problem(422, "invalid-request")
    (await client.get(f"{TAIL}?partition=x")).problem(422, "invalid-request")
    (await client.get(f"{TAIL}?partition=2")).problem(422, "invalid-request")


async def test_draining_ends_every_stream_with_a_word_and_the_server_stops_at_once(serve: Any) -> None:
    async with serve(grace=20.0) as running:
        await topic(running.client)
        async with stream(running, "/v1/live") as live, stream(running, TAIL) as tail:
            await live.next()
            await live.next()
            await tail.next()
            running.ctx.ask_to_stop()
            with anyio.fail_after(5):
                assert await live.next() == ("bye", {"reason": "the node is draining"})
                assert await tail.next() == ("bye", {"reason": "the node is draining"})
                await running.ended.wait()


async def test_a_stream_ends_with_its_token(client: EdgeClient, app: Quart) -> None:
    """A token is checked when the stream begins; a stream that outlived it would be a way around its end."""
    await topic(client)
    for path in ("/v1/live", TAIL):
        token = client.token(ttl_s=1 - 30)  # good for one second: clocks may differ by thirty
        answer = await client.send("GET", path, headers={"Authorization": f"Bearer {token}"})
        assert answer.body.rstrip().endswith(b'{"reason":"the stream has lived long enough, or its token has"}')


async def test_streams_count_among_the_requests_and_leave_no_trace(serve: Any, gateway: FakeGateway) -> None:
    async with serve(max_requests=2) as running:
        await topic(running.client)
        async with stream(running, "/v1/live"), stream(running, TAIL):
            await until(lambda: running.server.describe()["in_flight"] == 2)
            async with wire(running.port) as third:
                await third.send(request("GET", "/v1/topics", token=running.client.token()))
                assert (await third.answer()).status == 503
        await until(lambda: running.server.describe()["in_flight"] == 0)
        assert len(gateway.audience) == 0


# -------------------------------------------------------------------------------------------------------- tails


async def test_a_tail_shows_events_as_they_come(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running:
        await topic(running.client)
        async with stream(running, TAIL, role=Role.CONSUMER) as tail:
            assert await tail.next() == ("open", {})
            gateway.show(1, StoredEvent(Position(7, 3), "a", "k", b'{"n": 1.50}\r\n', 5, b'{"h":"v"}'))
            name, data = await tail.next()
            assert (name, data["dropped"]) == ("events", 0)
            assert data["events"] == [
                {
                    "partition": 1, "redis_id": "7-3", "event_type": "a", "partition_key": "k", "timestamp_ms": 5,
                    "headers": {"h": "v"}, "payload": {"n": 1.5},
                }
            ]  # fmt: skip


async def test_a_large_payload_comes_as_its_head(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running:
        await topic(running.client)
        async with stream(running, TAIL) as tail:
            await tail.next()
            payload = b'"' + "ä".encode() * HEAD_BYTES + b'"'
            gateway.show(0, event(payload=payload))
            [found] = (await tail.next())[1]["events"]
            assert "payload" not in found
            assert found["payload_bytes"] == len(payload)
            assert payload.decode().startswith(found["payload_head"])
            assert HEAD_BYTES - 2 <= len(found["payload_head"].encode()) <= HEAD_BYTES


async def test_a_tail_may_be_narrowed(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running:
        await topic(running.client)
        async with stream(running, f"{TAIL}?partition=1&key=k&event_type=b") as tail:
            await tail.next()
            [seat] = gateway.audience.seats()
            assert {at.partition for at in seat.partitions} == {1}
            for one in (event(key="k"), event(event_type="b"), event(9, key="k", event_type="b")):
                gateway.show(1, one)
            assert [one["redis_id"] for one in (await tail.next())[1]["events"]] == ["9-0"]


async def test_what_a_watcher_does_not_take_in_time_is_counted(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running:
        await topic(running.client)
        async with stream(running, TAIL) as tail:
            await tail.next()
            for ms in range(1, SEAT_EVENTS + 8):  # without an await: nobody takes anything meanwhile
                gateway.show(0, event(ms))
            _, data = await tail.next()
            assert (len(data["events"]), data["dropped"]) == (SEAT_EVENTS, 7)


async def test_a_reader_that_does_not_read_holds_a_bounded_queue(serve: Any, gateway: FakeGateway) -> None:
    async with serve(grace=0.2) as running:
        await topic(running.client)
        async with stream(running, TAIL):
            await until(lambda: len(gateway.audience) == 1)
            [seat] = gateway.audience.seats()
            large = event(payload=b'"' + b"x" * 4_000 + b'"')
            for _ in range(400):  # far more than sockets hold
                for _ in range(100):
                    gateway.show(0, large)
                await anyio.lowlevel.checkpoint()
            assert seat._bytes <= 1 << 20
            assert seat._dropped > 0


async def test_a_tail_says_that_the_line_is_alive(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT", 0.05)
    async with serve() as running:
        await topic(running.client)
        async with wire(running.port) as line:
            await line.send(request("GET", TAIL, token=running.client.token()))
            said = b""
            with anyio.fail_after(5):
                while said.count(sse.PULSE) < 3:
                    said += await line.stream.receive()


async def test_too_many_tails_are_an_overload(client: EdgeClient, gateway: FakeGateway) -> None:
    await topic(client)
    for _ in range(MAX_SEATS):
        await gateway.tail("orders")
    found = (await client.get(TAIL)).problem(429, "overloaded")
    assert found["reason"] == "tails"


async def test_a_producer_may_not_tail_and_an_unknown_topic_is_not_found(client: EdgeClient) -> None:
    await topic(client)
    (await client.get(TAIL, role=Role.PRODUCER)).problem(403, "forbidden")
    (await client.get("/v1/topics/nope/tail")).problem(404, "not-found")


def test_a_frame_is_one_line_of_data() -> None:
    assert sse.frame("a", b'{"x":\r\n1}') == b'event: a\ndata: {"x":  1}\n\n'

"""Producing with `ack: "persisted"`: the answer waits for PostgreSQL, and says what PostgreSQL does not have."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from openstream_http import ndjson, schemas
from openstream_runtime.domain.errors import PartlyDone, Unavailable
from openstream_runtime.domain.positions import Position
from openstream_runtime.gateway.results import Ack
from support.edge import Answer, EdgeClient
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio

EVENTS = "/v1/topics/orders/events"
LINES = "application/x-ndjson"
CHUNK = ndjson.CHUNK_EVENTS


def body(**more: Any) -> dict[str, Any]:
    return {"events": [{"event_type": "t", "payload": 1}], "ack": "persisted"} | more


def lines(count: int) -> bytes:
    return b"".join(
        json.dumps({"event_type": "t", "payload": n, "partition_key": "k"}).encode() + b"\n" for n in range(count)
    )


async def until(claim: Any) -> None:
    with anyio.fail_after(5):
        while not claim():  # noqa: ASYNC110 (the fake tells nobody)
            await anyio.sleep(0.001)


class Request:
    """A request on its way."""

    def __init__(self) -> None:
        self.answer: Answer | None = None

    async def run(self, client: EdgeClient, data: Any, **how: Any) -> None:
        self.answer = await client.post(how.pop("path", EVENTS), data, **how)


async def test_the_answer_waits_for_postgresql(client: EdgeClient, gateway: FakeGateway) -> None:
    gateway.database = anyio.Event()
    request = Request()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request.run, client, body())
        await until(lambda: gateway.unconfirmed == 1)
        assert len(gateway.events("orders")) == 1
        assert request.answer is None
        gateway.database.set()
    assert request.answer is not None
    assert request.answer.status == 200
    assert len(request.answer.json(schemas.Produced).results) == 1


async def test_what_postgresql_has_not_confirmed_is_no_reason_to_send_it_again(
    client: EdgeClient, gateway: FakeGateway
) -> None:
    result = {"partition": 0, "redis_id": Position(5, 1), "status": "not_persisted"}
    gateway.losses[0] = PartlyDone("not in time", topic="orders", results=[result])
    answer = await client.post(EVENTS, body())
    found = answer.problem(503, "partly-done")
    assert found["results"] == [result | {"redis_id": "5-1"}]
    assert "outcome" not in found
    assert "Retry-After" not in answer.headers
    assert "retry_after_ms" not in found


async def test_what_was_lost_is_not_stored_and_may_be_sent_again(client: EdgeClient, gateway: FakeGateway) -> None:
    gateway.losses[0] = Unavailable("lost", backend="redis", retry_after_ms=1_000)
    answer = await client.post(EVENTS, body())
    found = answer.problem(503, "unavailable")
    assert (found["outcome"], answer.headers["Retry-After"]) == ("not_stored", "1")


async def test_chunks_of_lines_wait_for_postgresql_together(client: EdgeClient, gateway: FakeGateway) -> None:
    gateway.database = anyio.Event()
    request = Request()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_send_lines, request, client, lines(3 * CHUNK + 7))
        await until(lambda: gateway.unconfirmed == 4)
        gateway.database.set()
    assert request.answer is not None
    assert request.answer.status == 200
    produced = request.answer.json(schemas.Produced)
    assert [str(one.position) for one in gateway.events("orders")] == [one.redis_id for one in produced.results]
    assert gateway.acks == [Ack.PERSISTED] * 4


async def test_no_more_chunks_than_a_request_may_hold_wait_at_a_time(client: EdgeClient, gateway: FakeGateway) -> None:
    gateway.database = anyio.Event()
    request = Request()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_send_lines, request, client, lines(2 * ndjson.WINDOW * CHUNK))
        await until(lambda: gateway.unconfirmed == ndjson.WINDOW)
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        assert len(gateway.appends) == ndjson.WINDOW
        gateway.database.set()
    assert request.answer is not None
    assert len(request.answer.json(schemas.Produced).results) == 2 * ndjson.WINDOW * CHUNK


async def test_a_chunk_that_is_lost_ends_the_request_and_what_stands_before_it_counts(
    client: EdgeClient, gateway: FakeGateway
) -> None:
    gateway.database = anyio.Event()
    request = Request()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_send_lines, request, client, lines(3 * CHUNK))
        await until(lambda: gateway.unconfirmed == 3)
        gateway.losses = {0: Unavailable("lost", backend="redis", retry_after_ms=1_000)}
        gateway.database.set()
    assert request.answer is not None
    # The others were kept: whoever sent all of it again would double them.
    found = request.answer.problem(503, "outcome-unknown")
    assert (found["appended"], found["line"], found["outcome"]) == (0, 1, "unknown")
    assert "Retry-After" not in request.answer.headers


async def test_a_last_chunk_that_is_lost_is_definite(client: EdgeClient, gateway: FakeGateway) -> None:
    gateway.losses = {2: Unavailable("lost", backend="redis", retry_after_ms=1_000)}
    request = Request()
    await _send_lines(request, client, lines(2 * CHUNK + 5))
    assert request.answer is not None
    found = request.answer.problem(503, "unavailable")
    assert (found["appended"], found["line"], found["outcome"]) == (2 * CHUNK, 2 * CHUNK + 1, "not_stored")


async def _send_lines(request: Request, client: EdgeClient, data: bytes) -> None:
    await request.run(client, data, path=f"{EVENTS}?ack=persisted&partitions=1", media=LINES)

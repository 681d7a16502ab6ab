"""Producing what may be repeated: the headers of producers, ids of events, and what a client is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openstream_http import ndjson, schemas
from openstream_http.producing import stamp_of
from openstream_runtime.domain.errors import (
    OpenStreamError,
    OutcomeUnknown,
    OutOfSequence,
    Overloaded,
    SequenceReused,
    StaleEpoch,
    Unavailable,
    UnknownProducer,
)
from openstream_runtime.domain.producers import MAX_NUMBER, Stamp
from support.edge import Answer, EdgeClient
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio

EVENTS = "/v1/topics/orders/events"
LINES = "application/x-ndjson"


def stamp(producer: str = "p", epoch: object = 0, seq: object = 0) -> dict[str, str]:
    return {"Producer-Id": producer, "Producer-Epoch": str(epoch), "Producer-Seq": str(seq)}


def body(count: int = 1, **event: Any) -> dict[str, Any]:
    return {"events": [{"event_type": "t", "payload": n} | event for n in range(count)]}


def lines(count: int) -> bytes:
    return b"".join(json.dumps({"event_type": "t", "payload": n}).encode() + b"\n" for n in range(count))


async def send(client: EdgeClient, sent: Any, headers: dict[str, str], **how: Any) -> Answer:
    return await client.post(EVENTS, sent, headers=headers, **how)


async def test_the_headers_reach_the_node(client: EdgeClient, gateway: FakeGateway) -> None:
    assert (await send(client, body(), stamp("a.B-9_", 3, 0))).status == 200
    assert (await send(client, body(), stamp("x" * 200, MAX_NUMBER, MAX_NUMBER - 1))).status == 200
    assert (await client.post(EVENTS, body())).status == 200
    assert gateway.stamps == [Stamp("a.B-9_", 3, 0), Stamp("x" * 200, MAX_NUMBER, MAX_NUMBER - 1), None]


async def test_a_repetition_is_a_200_with_the_original_ids(client: EdgeClient, gateway: FakeGateway) -> None:
    first = (await send(client, body(3), stamp())).json(schemas.Produced)
    assert not first.duplicate
    assert not any(result.duplicate for result in first.results)
    again = await send(client, body(3), stamp())
    assert again.status == 200
    found = again.json()
    assert found["duplicate"] is True
    assert [one.pop("duplicate") for one in found["results"]] == [True] * 3
    assert found["results"] == [{"partition": one.partition, "redis_id": one.redis_id} for one in first.results]
    assert len(gateway.events("orders")) == 3


@pytest.mark.parametrize(
    ("headers", "wrong"),
    [
        ({"Producer-Id": "p"}, "Producer-Epoch"),
        ({"Producer-Epoch": "0"}, "Producer-Id"),
        ({"Producer-Seq": "0"}, "Producer-Id"),
        ({"Producer-Id": "p", "Producer-Epoch": "0"}, "Producer-Seq"),
        ({"Producer-Epoch": "0", "Producer-Seq": "0"}, "Producer-Id"),
        *((stamp(odd), "Producer-Id") for odd in ("", "a b", "é", "x" * 201, "a/b", "{p}", "p:1")),
        *((stamp("p", odd), "Producer-Epoch") for odd in ("", "-1", "1.0", "+1", "x", "1e3", 2**53, "1_0", "٣")),
        *((stamp("p", 0, odd), "Producer-Seq") for odd in ("", "-1", "1.0", "0x1", 2**53, "9" * 400, MAX_NUMBER)),
    ],
)
async def test_a_wrong_header_is_refused_with_its_name(
    client: EdgeClient, gateway: FakeGateway, headers: dict[str, str], wrong: str
) -> None:
    assert (await send(client, body(), headers)).wrong_at("headers", wrong)
    assert (await send(client, lines(1), headers, media=LINES)).wrong_at("headers", wrong)
    assert gateway.events("orders") == []


def test_a_header_that_comes_twice_is_refused() -> None:
    from werkzeug.datastructures import Headers

    from openstream_http.problems import Problem

    for name in stamp():
        with pytest.raises(Problem, match=f"headers.{name}"):
            stamp_of(Headers([*stamp().items(), (name, "1")]))
    assert stamp_of(Headers([("X-Producer-Id", "p")])) is None


@pytest.mark.parametrize(
    ("error", "status", "slug", "facts"),
    [
        (StaleEpoch("no", producer="p", current_epoch=7), 403, "stale-epoch", {"current_epoch": 7, "producer": "p"}),
        (OutOfSequence("no", expected_seq=40), 409, "out-of-sequence", {"expected_seq": 40}),
        (SequenceReused("no", producer_seq=3), 409, "sequence-reused", {"producer_seq": 3}),
        (UnknownProducer("no", topic="orders"), 409, "unknown-producer", {"topic": "orders"}),
    ],
)
@pytest.mark.parametrize("media", ["application/json", LINES])
async def test_what_a_producer_does_wrong_has_a_problem_of_its_own(
    client: EdgeClient,
    gateway: FakeGateway,
    error: OpenStreamError,
    status: int,
    slug: str,
    facts: dict[str, Any],
    media: str,
) -> None:
    gateway.trouble = [error]
    sent = lines(1) if media == LINES else body()
    answer = await send(client, sent, stamp(), media=media)
    found = answer.problem(status, slug)
    assert {name: found[name] for name in facts} == facts
    assert "outcome" not in found  # below what is expected, everything is kept
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("media", ["application/json", LINES])
async def test_an_unknown_outcome_that_may_be_repeated_says_so_and_when(
    client: EdgeClient, gateway: FakeGateway, media: str
) -> None:
    gateway.trouble = [OutcomeUnknown("lost; repeating the same request is safe", repeatable=True, retry_after_ms=1000)]
    answer = await send(client, lines(1) if media == LINES else body(), stamp(), media=media)
    found = answer.problem(503, "outcome-unknown")
    assert (found["outcome"], found["repeatable"], answer.headers["Retry-After"]) == ("unknown", True, "1")


@pytest.mark.parametrize("error", [Overloaded, Unavailable])
async def test_a_refusal_of_what_may_be_a_repetition_does_not_say_that_nothing_is_stored(
    client: EdgeClient, gateway: FakeGateway, error: type[OpenStreamError]
) -> None:
    gateway.trouble = [error(repeatable=True)]
    found = (await send(client, body(), stamp())).json()
    assert found["repeatable"] is True
    assert "outcome" not in found
    gateway.trouble = [error()]
    assert (await client.post(EVENTS, body())).json()["outcome"] == "not_stored"


async def test_every_thousand_lines_are_a_request_of_their_own(client: EdgeClient, gateway: FakeGateway) -> None:
    count = 2 * ndjson.CHUNK_EVENTS + 5
    first = (await send(client, lines(count), stamp("p", 1, 10), media=LINES)).json(schemas.Produced)
    assert [one.seq for one in gateway.stamps if one is not None] == [10, 1_010, 2_010]
    assert not first.duplicate
    gateway.answers.pop(Stamp("p", 1, 2_010))
    part = await send(client, lines(count), stamp("p", 1, 10), media=LINES)
    found = part.json(schemas.Produced)
    assert part.headers["Content-Length"] == str(len(part.body))
    assert [one.duplicate for one in found.results] == [True] * 2_000 + [False] * 5
    assert not found.duplicate
    whole = await send(client, lines(count), stamp("p", 1, 10), media=LINES)
    assert whole.headers["Content-Length"] == str(len(whole.body))
    assert whole.json(schemas.Produced).duplicate


async def test_lines_that_end_in_trouble_say_from_where_to_go_on(client: EdgeClient, gateway: FakeGateway) -> None:
    found = (await send(client, lines(1_500) + b"{\n", stamp(), media=LINES)).problem(400, "not-json")
    assert (found["appended"], found["line"]) == (1_500, 1_501)
    assert (await send(client, lines(3), stamp(seq=1_500), media=LINES)).status == 200


async def test_an_event_id_is_kept_with_its_event_and_a_known_one_marked(
    client: EdgeClient, gateway: FakeGateway
) -> None:
    sent = {"events": [{"event_type": "t", "payload": 1, "event_id": one} for one in ("a", "b")]}
    first = (await client.post(EVENTS, sent)).json(schemas.Produced)
    sent["events"].append({"event_type": "t", "payload": 2})
    again = (await client.post(EVENTS, sent)).json(schemas.Produced)
    assert [one.redis_id for one in again.results[:2]] == [one.redis_id for one in first.results]
    assert [one.duplicate for one in again.results] == [True, True, False]
    assert not again.duplicate


@pytest.mark.parametrize("wrong", ["", "x" * 201, "a\nb", 7, {}])
async def test_a_wrong_event_id_is_refused_with_its_place(
    client: EdgeClient, gateway: FakeGateway, wrong: object
) -> None:
    assert (await client.post(EVENTS, body(event_id=wrong))).wrong_at("events", 0, "event_id")
    assert gateway.events("orders") == []


async def test_browsers_may_send_the_headers(client: EdgeClient) -> None:
    asked = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    answer = await client.send("OPTIONS", EVENTS, headers=asked, role=None)
    assert {"Producer-Id", "Producer-Epoch", "Producer-Seq"} <= set(
        answer.headers["Access-Control-Allow-Headers"].split(", ")
    )

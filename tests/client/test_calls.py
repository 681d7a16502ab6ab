"""One request each, errors by what one can do about them, history, tracing, and the client without await."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from types import ModuleType
from typing import Any

import httpx2
import pytest

from openstream_client import (
    Event,
    Forbidden,
    NotFound,
    OpenStream,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    ServerFault,
    SyncOpenStream,
    Unauthenticated,
    Unavailable,
    Unreachable,
    tracing,
)
from openstream_client.backoff import Backoff
from openstream_client.errors import Conflict, Gone, of_answer
from support.fake_service import FakeService, problem

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(401, "unauthenticated"), Unauthenticated),
        (problem(403, "forbidden"), Forbidden),
        (problem(404, "not-found"), NotFound),
        (problem(409, "conflict"), Conflict),
        (problem(410, "gone", earliest_id="5-0"), Gone),
        (problem(413, "body-too-large"), Rejected),
        (problem(422, "invalid-request"), Rejected),
        (problem(429, "overloaded", retry_after_ms=1500), Overloaded),
        (problem(500, "internal-error"), ServerFault),
        (problem(503, "unavailable"), Unavailable),
        (problem(503, "outcome-unknown"), OutcomeUnknown),
        (httpx2.Response(502, text="<html>bad gateway</html>"), ServerFault),
        (httpx2.Response(429, text="slow down", headers={"retry-after": "7"}), Overloaded),
    ],
)
async def test_an_answer_becomes_the_error_that_says_what_to_do(answer: httpx2.Response, kind: type[Exception]) -> None:
    assert type(of_answer(answer.status_code, answer.headers, answer.content)) is kind


async def test_an_error_carries_what_a_program_needs() -> None:
    late = of_answer(429, {"retry-after": "7"}, b"")
    assert isinstance(late, Overloaded)
    assert late.retry_after == 7
    gone = problem(410, "gone", earliest_id="5-0")
    assert of_answer(410, gone.headers, gone.content).earliest_id == "5-0"  # type: ignore[attr-defined]


async def test_unknown_fields_of_an_answer_are_no_error(client: OpenStream, service: FakeService) -> None:
    service.put("orders", 1)
    assert (await client.topic("orders")).partitions == 2


@pytest.mark.parametrize("content", [b"<html>", b'{"topic":1}', b"[]", b""])
async def test_an_answer_nobody_understands_is_the_nodes_fault(
    client: OpenStream, service: FakeService, content: bytes
) -> None:
    service.faults["orders"] = deque([httpx2.Response(200, content=content)])
    with pytest.raises(ServerFault, match="does not understand"):
        await client.topic("orders")


async def test_what_can_be_repeated_is_asked_of_the_next_node(client: OpenStream, service: FakeService) -> None:
    service.put("orders", 1)
    service.faults["orders"] = deque([httpx2.ReadError("broke")])
    assert (await client.topic("orders")).topic == "orders"
    assert [request.url.host for request in service.requests] == ["a", "b"]


async def test_with_no_node_to_be_reached_the_error_names_the_last(client: OpenStream, service: FakeService) -> None:
    service.away |= {"a", "b"}
    with pytest.raises(Unreachable, match="http://b"):
        await client.topics()
    assert len(service.requests) == 2


async def test_a_produce_whose_answer_was_lost_is_sent_to_no_other_node(
    client: OpenStream, service: FakeService
) -> None:
    service.produce_faults.append(httpx2.ReadTimeout(""))
    with pytest.raises(OutcomeUnknown):
        await client.produce("orders", Event("test", 1))
    assert len(service.requests) == 1
    assert service.events("orders") == []


async def test_events_with_ids_of_their_own_are_asked_for_once_more(client: OpenStream, service: FakeService) -> None:
    service.produce_faults += [httpx2.ReadTimeout("")] * 2
    with pytest.raises(OutcomeUnknown):
        await client.produce("orders", [Event("test", 1, event_id="a"), Event("test", 2)])
    await client.produce("orders", [Event("test", 1, event_id="a")])
    assert [request.url.host for request in service.requests] == ["a", "b", "a"]
    assert [event["event_id"] for event in service.events("orders")] == ["a"]


async def test_names_cannot_walk_up_the_path(client: OpenStream, service: FakeService) -> None:
    for name in ("..", "a/b", "a?b", "ä"):
        with pytest.raises(NotFound):
            await client.topic(name)
    assert all(request.url.raw_path.count(b"/") == 3 for request in service.requests)


async def test_the_token_is_in_the_header_and_in_no_representation(client: OpenStream, service: FakeService) -> None:
    service.put("orders", 1)
    await client.topic("orders")
    assert service.requests[0].headers["authorization"] == "Bearer a-token"
    assert "a-token" not in repr(client) + repr(vars(client))


# ---- history


async def test_history_comes_in_pages_with_the_payload_as_it_was_sent(client: OpenStream, service: FakeService) -> None:
    service.put("orders", *range(5))
    page = await client.history("orders", partition=0, limit=3)
    more = await client.history("orders", partition=0, limit=3, from_id=page.next_id)
    assert [event.payload for event in [*page.events, *more.events]] == list(range(5))
    assert bytes(page.events[1].raw_payload) == b"1"
    assert more.next_id is None


@pytest.mark.parametrize("partition", [None, 1])
async def test_a_stream_that_breaks_off_goes_on_without_gap_or_double(
    client: OpenStream, service: FakeService, partition: int | None
) -> None:
    service.put("orders", *range(10))
    service.put("orders", *range(10, 30), partition=1)
    service.reads_cut.extend([0, 3, 8, 1])
    seen = [event.payload async for event in client.stream_history("orders", partition=partition)]
    assert seen == (list(range(30)) if partition is None else list(range(10, 30)))


async def test_a_stream_that_does_not_come_back_is_given_up(client: OpenStream, service: FakeService) -> None:
    service.put("orders", *range(10))
    service.reads_cut.extend([2] * 100)
    seen = []
    with pytest.raises(Unavailable):  # noqa: PT012 - the loop is what raises
        async for event in client.stream_history("orders", partition=0, give_up_after=0.3):
            seen.append(event.payload)
            service.away |= {"a", "b"}
    assert seen == [0, 1]


# ---- tracing


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Any:
    """OpenTelemetry's two functions, in a span of their own making."""
    module = ModuleType("opentelemetry.propagate")
    vars(module)["inject"] = lambda carrier: carrier.update(traceparent="00-current")
    vars(module)["extract"] = lambda carrier: ("context of", carrier.get("traceparent"))
    monkeypatch.setitem(sys.modules, "opentelemetry", ModuleType("opentelemetry"))
    monkeypatch.setitem(sys.modules, "opentelemetry.propagate", module)
    tracing._propagation.cache_clear()
    yield
    tracing._propagation.cache_clear()


@pytest.mark.usefixtures("telemetry")
async def test_an_event_carries_the_trace_it_was_made_in_and_keeps_its_own(
    client: OpenStream, service: FakeService
) -> None:
    service.group("orders", "billing")
    await client.produce("orders", [Event("test", 1), Event("test", 2, headers={"traceparent": "00-own", "k": "v"})])
    found = [event["headers"] for event in service.events("orders")]
    assert found == [{"traceparent": "00-current"}, {"traceparent": "00-own", "k": "v"}]
    assert service.requests[0].headers["traceparent"] == "00-current"
    async with client.consume("orders", "billing") as messages:
        assert (await anext(messages)).context == ("context of", "00-current")


async def test_without_opentelemetry_nothing_is_added(client: OpenStream, service: FakeService) -> None:
    tracing._propagation.cache_clear()
    await client.produce("orders", Event("test", 1))
    if "opentelemetry" not in sys.modules:
        assert service.events("orders")[0]["headers"] == {}


# ---- waiting


def test_a_pause_is_never_shorter_than_what_the_node_asked_for_and_not_always_the_same() -> None:
    least, most = Backoff(spread=lambda: 0.0), Backoff(spread=lambda: 1.0)
    assert least.pause(2.0) == 2.0
    assert 2.0 < most.pause(2.0) <= 3.0


def test_pauses_grow_up_to_their_limit_and_begin_anew() -> None:
    backoff = Backoff(0.1, 5.0, spread=lambda: 1.0)
    pauses = [backoff.pause() for _ in range(40)]
    assert pauses[:3] == [0.1, 0.2, 0.4]
    assert pauses[-1] == 5.0
    backoff.worked()
    assert backoff.pause() == 0.1


# ---- without await


def test_the_client_without_await_does_the_same(service: FakeService, anyio_backend: str) -> None:
    service.group("orders", "billing")
    with SyncOpenStream("http://a", http=service.transport, backend=anyio_backend) as client:
        assert client.produce("orders", Event("test", 1)).results[0].redis_id == "1-0"
        with client.producer("orders") as producer:
            receipt = producer.send(Event("test", 2))
            producer.flush()
            assert receipt.placed().redis_id == "2-0"
        seen = []
        for message in client.consume("orders", "billing"):
            seen.append(message.payload)
            message.ack()
            if len(seen) == 2:
                break
        assert seen == [1, 2]
        service.put("orders", 3, 4)
        for message in client.consume("orders", "billing"):
            with contextlib.suppress(ZeroDivisionError), message:
                if message.payload == 4:
                    break
                raise ZeroDivisionError
        assert service.nacked == [(0, "3-0", 1_000)]
        service.topics["orders"][0] = service.topics["orders"][0][:2]
        assert [event.payload for event in client.stream_history("orders")] == [1, 2]
        with pytest.raises(NotFound):
            client.topic("nothing")
    assert len(service.acked) == 3

"""Producing: batches, order, room, and what happens to an answer that was lost."""

from __future__ import annotations

import json

import anyio
import httpx2
import pytest

from openstream_client import (
    ClientError,
    Event,
    NotSent,
    OpenStream,
    OutcomeUnknown,
    OutOfSequence,
    Overloaded,
    PartlyDone,
    Rejected,
    StaleEpoch,
    Stamp,
    UnknownProducer,
)
from support.fake_service import FakeService, problem

pytestmark = pytest.mark.anyio


def event(number: int, key: str | None = None) -> Event:
    return Event("test", number, partition_key=key)


def payloads(service: FakeService, topic: str = "orders") -> list[int]:
    return [kept["payload"] for kept in service.events(topic)]


async def test_many_sends_travel_in_few_requests_and_in_order(client: OpenStream, service: FakeService) -> None:
    async with client.producer("orders", batch_events=50) as producer:
        receipts = [await producer.send(event(number)) for number in range(120)]
        await producer.flush()
        assert (await receipts[119].placed()).redis_id == "120-0"
    assert payloads(service) == list(range(120))
    assert len(service.paths("/events")) == 3


async def test_leaving_the_block_sends_what_waits(client: OpenStream, service: FakeService) -> None:
    async with client.producer("orders", linger=60) as producer:
        await producer.send({"event_type": "test", "payload": 1})
        assert payloads(service) == []
    assert payloads(service) == [1]


async def test_a_batch_leaves_by_itself_after_its_linger(client: OpenStream, service: FakeService) -> None:
    async with client.producer("orders", linger=0.01) as producer:
        receipt = await producer.send(event(1))
        with anyio.fail_after(5):
            await receipt.placed()
        assert payloads(service) == [1]


async def test_a_batch_is_bounded_in_bytes(client: OpenStream, service: FakeService) -> None:
    async with client.producer("orders", batch_bytes=600) as producer:
        for _ in range(4):
            await producer.send(Event("test", "x" * 250))
    assert [len(json.loads(request.content)["events"]) for request in service.requests] == [2, 2]


async def test_429_is_waited_out_without_losing_doubling_or_reordering(
    client: OpenStream, service: FakeService
) -> None:
    service.produce_faults += [problem(429, "overloaded", retry_after_ms=10), problem(503, "unavailable")]
    service.produce_faults.append(problem(503, "unavailable"))
    async with client.producer("orders", batch_events=10) as producer:
        for number in range(30):
            await producer.send(event(number))
    assert payloads(service) == list(range(30))


async def test_overload_that_lasts_is_told_and_nothing_behind_it_is_sent(
    client: OpenStream, service: FakeService
) -> None:
    service.produce_faults.extend(problem(429, "overloaded", retry_after_ms=60_000) for _ in range(5))
    with pytest.raises(Overloaded) as told:
        async with client.producer("orders", give_up_after=1) as producer:
            await producer.send(event(1))
    assert told.value.retry_after == 60
    assert payloads(service) == []


async def test_a_lost_answer_is_asked_for_again_at_the_next_node_and_nothing_is_doubled(
    client: OpenStream, service: FakeService
) -> None:
    service.produce_faults += [service.keep_and_lose, service.keep_and_lose, httpx2.ReadTimeout("")]
    async with client.producer("orders", batch_events=10) as producer:
        receipts = [await producer.send(event(number)) for number in range(25)]
        await producer.flush()
        assert (await receipts[0].placed()).duplicate
        assert not (await receipts[10].placed()).duplicate
        assert producer.stamp is not None
        assert producer.stamp.seq == 25
    assert payloads(service) == list(range(25))
    assert [request.url.host for request in service.requests][:3] == ["a", "b", "a"]


@pytest.mark.parametrize(
    "unsure",
    [
        problem(503, "outcome-unknown", repeatable=True, retry_after_ms=1),
        problem(429, "partly-done", repeatable=True, retry_after_ms=1, results=[]),
        httpx2.Response(502, content=b"<html>a proxy knows nothing</html>"),
        httpx2.Response(504),
    ],
)
async def test_what_may_be_repeated_is_repeated_as_it_was(
    client: OpenStream, service: FakeService, unsure: httpx2.Response
) -> None:
    service.produce_faults += [unsure, unsure]
    async with client.producer("orders") as producer:
        await producer.send(event(1))
    assert payloads(service) == [1]
    assert len({(request.content, request.headers["producer-seq"]) for request in service.requests}) == 1


async def test_an_outcome_that_stays_unknown_is_told_and_can_not_come_true_later(
    client: OpenStream, service: FakeService
) -> None:
    service.produce_faults.append(httpx2.ReadError("broke"))
    service.produce_faults.extend(problem(503, "unavailable", retry_after_ms=60_000) for _ in range(2))
    late: list[httpx2.Request] = []
    async with client.producer("orders", give_up_after=1, on_failure=lambda *_: None) as producer:
        first = await producer.send(event(1))
        await producer.flush()
        with pytest.raises(OutcomeUnknown):
            await first.placed()
        late.append(service.requests[0])
        service.produce_faults.clear()
        await (await producer.send(event(2))).placed()
    answer = await client._transport._http.send(late[0])  # the try that was lost arrives after all
    assert answer.json()["type"] == "/problems/stale-epoch"
    assert payloads(service) == [2]


async def test_a_producer_that_was_forgotten_goes_on_when_nothing_of_it_is_open(
    client: OpenStream, service: FakeService
) -> None:
    async with client.producer("orders") as producer:
        await (await producer.send(event(1))).placed()
        service.producers.clear()
        await (await producer.send(event(2))).placed()
        assert producer.stamp is not None
        assert (producer.stamp.epoch, producer.stamp.seq) == (1, 1)
    assert payloads(service) == [1, 2]


async def test_a_producer_that_was_forgotten_while_an_answer_was_lost_does_not_guess(
    client: OpenStream, service: FakeService
) -> None:
    def forget(request: httpx2.Request) -> httpx2.Response:
        service.producers.clear()
        return service.keep_and_lose(request) if request.headers["producer-seq"] == "0" else _lost(request)

    def _lost(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("broke")

    with pytest.raises(OutcomeUnknown) as told:  # noqa: PT012 - leaving the producer is what raises
        async with client.producer("orders") as producer:
            await (await producer.send(event(1))).placed()
            service.produce_faults.append(forget)
            await producer.send(event(2))
    assert isinstance(told.value.__cause__, UnknownProducer)
    assert payloads(service) == [1]


async def test_a_producer_goes_on_where_another_stopped_and_one_that_was_replaced_is_told(
    client: OpenStream, service: FakeService
) -> None:
    async with client.producer("orders", stamp=Stamp("importer")) as first:
        await (await first.send(event(1))).placed()
        assert first.stamp == Stamp("importer", 0, 1)
        async with client.producer("orders", stamp=first.stamp) as second:
            await second.send(event(2))
        async with client.producer("orders", stamp=Stamp("importer", 1)) as third:
            await third.send(event(3))
        late = await first.send(event(4))
        with pytest.raises(StaleEpoch):
            await late.placed()
        with pytest.raises(NotSent):
            await first.send(event(5))
        first._failure = None  # told already; leaving would say it again
    assert payloads(service) == [1, 2, 3]


async def test_a_gap_in_the_numbers_is_told_with_the_number_that_is_expected(
    client: OpenStream, service: FakeService
) -> None:
    await client.produce("orders", event(1), stamp=Stamp("importer"))
    with pytest.raises(OutOfSequence) as told:
        await client.produce("orders", event(2), stamp=Stamp("importer", 0, 5))
    assert told.value.expected_seq == 1
    assert (await client.produce("orders", event(1), stamp=Stamp("importer"))).duplicate
    assert payloads(service) == [1]


async def test_a_stamp_of_ones_own_needs_one_lane(client: OpenStream) -> None:
    with pytest.raises(ValueError, match="one lane"):
        async with client.producer("orders", stamp=Stamp("importer"), lanes=2):
            pass


async def test_without_numbers_a_lost_answer_is_never_followed_by_a_second_try(
    client: OpenStream, service: FakeService
) -> None:
    service.produce_faults.append(httpx2.ReadError("the connection broke"))
    async with client.producer("orders", on_failure=lambda *_: None, idempotent=False) as producer:
        first = await producer.send(event(1))
        await producer.flush()
        with pytest.raises(OutcomeUnknown):
            await first.placed()
        second = await producer.send(event(2))
        await second.placed()
    assert payloads(service) == [2]


async def test_without_a_handler_a_failure_ends_the_producer(client: OpenStream, service: FakeService) -> None:
    service.produce_faults.append(problem(503, "outcome-unknown", outcome="unknown"))
    with pytest.raises(OutcomeUnknown):  # noqa: PT012 - leaving the producer is what raises
        async with client.producer("orders") as producer:
            receipt = await producer.send(event(1))
            with pytest.raises(OutcomeUnknown):
                await receipt.placed()
            with pytest.raises(NotSent):
                await producer.send(event(2))
    assert len(service.paths("/events")) == 1


async def test_a_node_that_cannot_be_reached_is_passed_over_before_anything_was_sent(
    client: OpenStream, service: FakeService
) -> None:
    service.away.add("a")
    async with client.producer("orders") as producer:
        await producer.send(event(1))
    assert payloads(service) == [1]
    assert client.url == "http://b"


async def test_events_the_node_names_are_taken_out_and_the_others_go(client: OpenStream, service: FakeService) -> None:
    service.produce_faults.append(
        problem(422, "invalid-request", errors=[{"loc": ["events", 1, "headers"], "msg": ""}])
    )
    failed: list[tuple[object, type[ClientError]]] = []
    async with client.producer(
        "orders", on_failure=lambda one, why: failed.append((one.payload, type(why)))
    ) as producer:
        for number in range(3):
            await producer.send(event(number))
    assert payloads(service) == [0, 2]
    assert failed == [(1, Rejected)]


async def test_of_a_request_that_was_partly_kept_only_what_was_refused_is_sent_again(
    client: OpenStream, service: FakeService
) -> None:
    def partly(request: httpx2.Request) -> httpx2.Response:
        service.put("orders", 0)
        results = [
            {"partition": 0, "redis_id": "1-0", "status": "appended"},
            {"partition": 1, "status": "not_stored"},
            {"partition": 1, "status": "unknown"},
            {"partition": 1, "redis_id": "9-0", "status": "not_replicated"},
        ]
        return problem(429, "partly-done", results=results, retry_after_ms=1)

    service.produce_faults.append(partly)
    why: dict[object, type[ClientError]] = {}
    async with client.producer(
        "orders", on_failure=lambda one, error: why.update({one.payload: type(error)}), idempotent=False
    ) as producer:
        for number in range(4):
            await producer.send(event(number))
    assert payloads(service) == [0, 1]
    assert why == {2: OutcomeUnknown, 3: PartlyDone}


async def test_send_waits_while_the_buffer_is_full(client: OpenStream, service: FakeService) -> None:
    service.produce_faults.append(problem(429, "overloaded", retry_after_ms=50))
    most = 0
    async with client.producer("orders", batch_events=1, buffer_bytes=500) as producer:
        for number in range(40):
            await producer.send(event(number))
            most = max(most, producer.buffered_bytes)
    assert most <= 500
    assert payloads(service) == list(range(40))


async def test_lanes_keep_the_order_of_each_key(client: OpenStream, service: FakeService) -> None:
    service.produce_faults.extend(problem(429, "overloaded", retry_after_ms=5) for _ in range(4))
    async with client.producer("orders", lanes=4, batch_events=3) as producer:
        for number in range(100):
            await producer.send(event(number, key="abcdefgh"[: 1 + number % 7]))
    for length in range(1, 8):
        mine = [kept["payload"] for kept in service.events("orders") if len(kept["partition_key"]) == length]
        assert mine == sorted(mine)
    assert sorted(payloads(service)) == list(range(100))


async def test_an_error_of_the_caller_comes_out_as_it_is(client: OpenStream) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.producer("orders"):
            raise ZeroDivisionError


async def test_a_cancelled_producer_leaves_nobody_waiting(client: OpenStream, service: FakeService) -> None:
    service.produce_faults.extend(problem(429, "overloaded", retry_after_ms=60_000) for _ in range(3))
    receipts = []
    with anyio.move_on_after(0.2):
        async with client.producer("orders", batch_events=1, give_up_after=600) as producer:
            receipts = [await producer.send(event(number)) for number in range(3)]
            await anyio.sleep_forever()
    for receipt in receipts:
        with anyio.fail_after(1), pytest.raises(NotSent):
            await receipt.placed()

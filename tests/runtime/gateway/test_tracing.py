"""What the node tells of its work: which spans it makes, what they are linked to, and which it makes not."""

from __future__ import annotations

import anyio
import pytest

from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.tracing import TraceContext
from openstream_runtime.gateway.results import Ack
from openstream_runtime.ports.log import Refusal
from openstream_runtime.ports.tracing import MAX_LINKS, Operation
from support.actors import Rig, eventually, make_world
from support.desk import Desk, items, open_desk, payloads
from support.fake_tracer import SAMPLED, UNSAMPLED, FakeTracer, contexts
from support.persisting import persisting
from support.replaying import ask, ended, in_target, replaying

pytestmark = pytest.mark.anyio


@pytest.fixture
def tracer() -> FakeTracer:
    return FakeTracer()


@pytest.fixture
def rig(tracer: FakeTracer) -> Rig:
    return make_world(tracer=tracer)


def made_in(context: TraceContext | None, payload: int = 1, key: str | None = None) -> NewEvent:
    """An event that carries the span it was made in."""
    headers = None if context is None else b'{"k":"v","traceparent":"%b"}' % context.header.encode()
    return NewEvent("test", key, str(payload).encode(), 1, headers)


async def produce(desk: Desk, parent: TraceContext | None, *events: NewEvent) -> None:
    with desk.rig.world.tracer.serve("POST", parent):
        await desk.gateway.produce("orders", events, partitions=2)


def link(context: TraceContext) -> tuple[int, int]:
    return (context.trace_id, context.span_id)


async def test_a_produce_is_a_span_of_its_client_and_its_append_is_linked_to_it(rig: Rig, tracer: FakeTracer) -> None:
    async with open_desk(rig) as desk:
        await produce(desk, SAMPLED, made_in(None), made_in(None))
    appended, sent = tracer.spans
    assert (sent.name, sent.trace_id, sent.parent, sent.events) == ("send orders", *link(SAMPLED), 2)
    assert appended.name == "append orders"
    assert appended.links == [(sent.trace_id, sent.span_id)]
    assert (appended.parent, appended.events, appended.partition) == (None, 2, sent.partition)
    assert sent.partition in (0, 1)


async def test_requests_that_wait_together_are_one_append_linked_to_each(rig: Rig, tracer: FakeTracer) -> None:
    async with open_desk(rig) as desk:
        await produce(desk, None, made_in(None))
        tracer.spans.clear()
        async with anyio.create_task_group() as tasks:
            for context in (*contexts(40), UNSAMPLED):
                tasks.start_soon(produce, desk, context, made_in(None))
    appended, requests = tracer.of(Operation.APPEND), tracer.of(Operation.SEND)
    assert len(requests) == 40
    assert sum(span.events or 0 for span in appended) == 41
    assert all(len(span.links) <= MAX_LINKS for span in appended)
    linked = {one for span in appended for one in span.links}
    assert linked <= {(span.trace_id, span.span_id) for span in requests}
    assert len(linked) >= MAX_LINKS


async def test_nothing_is_told_of_requests_that_nobody_records(rig: Rig, tracer: FakeTracer) -> None:
    async with open_desk(rig) as desk:
        await produce(desk, UNSAMPLED, made_in(None))
        await desk.gateway.produce("orders", [made_in(None)])  # and of one that came by no request at all
    assert tracer.spans == []


async def test_an_append_that_is_refused_fails_by_its_reason(rig: Rig, tracer: FakeTracer) -> None:
    async with open_desk(rig) as desk:
        await produce(desk, SAMPLED, made_in(None))
        tracer.spans.clear()
        rig.redis.unavailable = True
        with pytest.raises(OpenStreamError):
            await produce(desk, SAMPLED, made_in(None))
    appended, sent = tracer.spans
    assert appended.error == str(Refusal.UNAVAILABLE)
    assert sent.error == "Unavailable"


async def test_a_read_is_linked_to_who_made_what_it_hands_out_and_an_ack_settles(rig: Rig, tracer: FakeTracer) -> None:
    first, second = contexts(2)
    async with open_desk(rig) as desk:
        events = [made_in(first), made_in(first), made_in(second), made_in(UNSAMPLED), made_in(None)]
        await desk.gateway.produce("orders", events, partitions=2)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        with tracer.serve("POST", SAMPLED):
            handout = await desk.read(consumer="c1")
        with tracer.serve("POST", SAMPLED):
            await desk.gateway.ack("orders", "g", items(handout))
    received, acked = tracer.spans
    assert len(payloads(handout)) == 5
    assert (received.name, received.group, received.events) == ("receive orders", "g", 5)
    assert sorted(received.links) == [link(first), link(second)]
    assert (acked.name, acked.group, acked.events) == ("ack orders", "g", 5)
    assert acked.links == []


async def test_a_claim_is_linked_as_a_read_is(rig: Rig, tracer: FakeTracer) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", [made_in(SAMPLED)], partitions=1)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        await desk.read(consumer="gone")
        with tracer.serve("POST", None):
            await desk.gateway.claim("orders", "g", "c2", min_idle_ms=0, count=10)
    (claimed,) = tracer.spans
    assert (claimed.name, claimed.group, claimed.events, claimed.links) == ("claim orders", "g", 1, [link(SAMPLED)])


async def test_what_is_persisted_is_linked_to_who_made_it(rig: Rig, tracer: FakeTracer) -> None:
    topic = await rig.topic("orders", 1)
    many = contexts(MAX_LINKS + 10)
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", [made_in(one, number) for number, one in enumerate(many)])
        async with persisting(rig, topic, tail=False):
            await eventually(lambda: len(rig.stored(topic)) == len(many))
    (persisted,) = tracer.of(Operation.PERSIST)
    assert (persisted.partition, persisted.events, persisted.error) == (0, len(many), None)
    assert persisted.links == [link(one) for one in many[:MAX_LINKS]]
    assert persisted.parent is None


async def test_what_nobody_traced_is_persisted_without_a_span(rig: Rig, tracer: FakeTracer) -> None:
    topic = await rig.topic("orders", 1)
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", [made_in(None), made_in(UNSAMPLED)])
        async with persisting(rig, topic, tail=False):
            await eventually(lambda: len(rig.stored(topic)) == 2)
    assert tracer.spans == []


async def test_a_replay_is_linked_to_who_made_what_it_copies_and_copies_carry_it_on(
    rig: Rig, tracer: FakeTracer
) -> None:
    orders, copy = await rig.topic("orders", 1), await rig.topic("copy", 1)
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", [made_in(SAMPLED, 1), made_in(None, 2)])
        async with persisting(rig, orders, tail=False):
            await eventually(lambda: len(rig.stored(orders)) == 2)
    tracer.spans.clear()
    async with replaying(rig):
        await ended(rig, await ask(rig))
    (copied,) = tracer.spans
    assert (copied.name, copied.events, copied.links) == ("replay copy", 2, [link(SAMPLED)])
    first, second = in_target(rig, copy)[0]
    assert SAMPLED.header.encode() in (first.headers or b"")
    assert b"traceparent" not in (second.headers or b"")


async def test_a_level_of_ack_that_is_not_reached_is_the_requests_failure(rig: Rig, tracer: FakeTracer) -> None:
    async with open_desk(rig) as desk:
        with pytest.raises(OpenStreamError), tracer.serve("POST", SAMPLED):
            await desk.gateway.produce("orders", [made_in(None)], partitions=1, ack=Ack.PERSISTED)
    assert tracer.of(Operation.SEND)[0].error == "PartlyDone"
    assert tracer.of(Operation.APPEND)[0].error is None

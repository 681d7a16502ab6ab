"""What a request says of its trace: kept with its events, never over what they say, and answered by a span."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openstream_http.app import create_app
from openstream_http.limits import MAX_HEADER_BYTES
from openstream_runtime.settings import Settings
from support.edge import EdgeClient
from support.fake_gateway import FakeGateway
from support.fake_tracer import SAMPLED, UNSAMPLED, FakeTracer

pytestmark = pytest.mark.anyio

EVENTS = "/v1/topics/orders/events"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OWN = "00-99999999999999999999999999999999-8888888888888888-00"
TRACE = {"traceparent": PARENT, "tracestate": "vendor=x"}


def event(**fields: Any) -> dict[str, Any]:
    return {"event_type": "t", "payload": 1} | fields


def kept(gateway: FakeGateway) -> list[dict[str, str]]:
    return [json.loads(one.headers or b"{}") for one in gateway.events("orders")]


async def test_events_carry_on_what_their_request_says(client: EdgeClient, gateway: FakeGateway) -> None:
    body = {"events": [event(), event(headers={"k": "v"}), event(headers={})], "partitions": 1}
    assert (await client.post(EVENTS, body, headers=TRACE)).status == 200
    assert kept(gateway) == [TRACE, {"k": "v", **TRACE}, TRACE]


async def test_what_an_event_says_itself_stands(client: EdgeClient, gateway: FakeGateway) -> None:
    own = [{"traceparent": OWN}, {"traceparent": "no context at all"}, {"Traceparent": OWN}, {"tracestate": "mine=1"}]
    body = {"events": [event(headers=headers) for headers in own], "partitions": 1}
    assert (await client.post(EVENTS, body, headers=TRACE)).status == 200
    assert kept(gateway) == own


@pytest.mark.parametrize("said", [{}, {"tracestate": "vendor=x"}, {"traceparent": "x"}, {"traceparent": f"{PARENT},x"}])
async def test_a_request_that_names_no_trace_adds_nothing(
    client: EdgeClient, gateway: FakeGateway, said: dict[str, str]
) -> None:
    body = {"events": [event(), event(headers={"k": "v"})], "partitions": 1}
    assert (await client.post(EVENTS, body, headers=said)).status == 200
    assert kept(gateway) == [{}, {"k": "v"}]


async def test_lines_carry_it_as_well(client: EdgeClient, gateway: FakeGateway) -> None:
    lines = [event(), event(headers={"traceparent": OWN}), event(headers={"k": "v"})]
    body = "\n".join(map(json.dumps, lines)).encode()
    answer = await client.post(f"{EVENTS}?partitions=1", body, headers=TRACE, media="application/x-ndjson")
    assert answer.status == 200
    assert kept(gateway) == [TRACE, {"traceparent": OWN}, {"k": "v", **TRACE}]


async def test_cloudevents_carry_it_where_they_have_no_extension_of_that_name(
    client: EdgeClient, gateway: FakeGateway
) -> None:
    plain = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": 1}
    media = {"Content-Type": "application/cloudevents-batch+json", **TRACE}
    body = [plain, plain | {"id": "2", "traceparent": OWN}]
    assert (await client.post(f"{EVENTS}?partitions=1", body, headers=media)).status == 200
    first, second = kept(gateway)
    assert (first["traceparent"], first["tracestate"]) == (PARENT, "vendor=x")
    assert second["traceparent"] == OWN
    assert "tracestate" not in second


async def test_headers_as_large_as_they_may_be_are_not_refused_for_what_we_add(
    client: EdgeClient, gateway: FakeGateway
) -> None:
    largest = {"k": "v" * (MAX_HEADER_BYTES - len('{"k":""}'))}
    body = {"events": [event(headers=largest)], "partitions": 1}
    assert (await client.post(EVENTS, body, headers=TRACE)).status == 200
    assert kept(gateway) == [largest | TRACE]


@pytest.fixture
def tracer() -> FakeTracer:
    return FakeTracer()


@pytest.fixture
def traced(gateway: FakeGateway, settings: Settings, tracer: FakeTracer) -> EdgeClient:
    return EdgeClient(create_app(gateway, settings, tracer=tracer))


async def test_a_request_is_a_span_in_its_clients_trace_and_the_answer_names_it(
    traced: EdgeClient, tracer: FakeTracer
) -> None:
    answer = await traced.get("/v1/topics", headers={"traceparent": SAMPLED.header})
    (span,) = tracer.spans
    assert (span.trace_id, span.parent) == (SAMPLED.trace_id, SAMPLED.span_id)
    assert (span.name, span.route, span.status) == ("GET /v1/topics", "/v1/topics", 200)
    assert answer.headers["traceresponse"] == f"00-{SAMPLED.trace_id:032x}-{span.span_id:016x}-01"


async def test_a_request_that_is_not_recorded_is_answered_without_a_name(
    traced: EdgeClient, tracer: FakeTracer
) -> None:
    answer = await traced.get("/v1/topics", headers={"traceparent": UNSAMPLED.header})
    assert "traceresponse" not in answer.headers
    assert tracer.spans == []


async def test_what_is_refused_is_a_span_as_well_and_no_failure_of_ours(traced: EdgeClient, tracer: FakeTracer) -> None:
    await traced.get("/v1/topics", role=None)
    await traced.get("/v1/no/such/route?secret=hunter2")
    await traced.post(EVENTS, {"events": [{"event_type": "t", "payload": 1, "hunter2": 1}]})
    assert [(span.name, span.status, span.error) for span in tracer.spans] == [
        ("GET /v1/topics", 401, None),
        ("GET unmatched", 404, None),
        ("POST /v1/topics/<topic>/events", 422, None),
    ]
    assert "hunter2" not in repr(tracer.spans)


async def test_probes_metrics_and_what_dashboards_poll_are_no_spans(traced: EdgeClient, tracer: FakeTracer) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/docs", "/v1/metrics/summary", "/v1/cluster", "/v1/topics/x/tail"):
        await traced.get(path, headers={"traceparent": SAMPLED.header})
    assert tracer.spans == []


async def test_without_a_tracer_nothing_is_answered_of_traces(client: EdgeClient) -> None:
    answer = await client.get("/v1/topics", headers={"traceparent": SAMPLED.header})
    assert "traceresponse" not in answer.headers

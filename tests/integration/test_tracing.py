"""A client's trace through a whole node, as a collector gets it by real OTLP; and a collector that never answers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import JWT_SECRET, Cluster
from support.fake_collector import FakeCollector, Span, black_hole

PRODUCER, CONSUMER = "4bf92f3577b34da6a3ce929d0e0e4736", "aaaabbbbccccddddeeeeffff00001111"
MADE = f"00-{PRODUCER}-00f067aa0ba902b7-01"
READ = f"00-{CONSUMER}-1111222233334444-01"
OWN = "00-99999999999999999999999999999999-8888888888888888-01"
PAYLOAD, HEADER, KEY, SECRET = "4111-1111-1111-1111", "a-header-of-ours", "customer-77", "the-collectors-key"
#: What the node's own words and its collector must never hold.
PRIVATE = (PAYLOAD, HEADER, KEY, SECRET, JWT_SECRET)


def environment(url: str, **more: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={SECRET}",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        **more,
    }


def client_of(cluster: Cluster) -> Client:
    return Client(cluster.url(0), cluster.token())


def send(client: Client, path: str, body: Any, parent: str | None = None, state: str | None = None) -> Any:
    headers = {name: value for name, value in (("traceparent", parent), ("tracestate", state)) if value is not None}
    reply = client.request("POST", path, body, headers=headers)
    assert reply.status in (200, 201, 202), reply
    return reply.json, reply.headers


def test_a_trace_goes_through_append_persist_read_ack_and_replay_as_one_picture(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    with (
        FakeCollector() as collector,
        Cluster(own_servers, tmp_path, nodes=1, environment=environment(collector.url)) as cluster,
    ):
        client = client_of(cluster)
        client.put_topic("orders", 1)
        client.make_group("orders", "billing")
        events = [
            {"event_type": "plain", "payload": {"card": PAYLOAD}, "partition_key": KEY},
            {"event_type": "with-headers", "payload": 2, "headers": {"k": HEADER}},
            {"event_type": "traced-itself", "payload": 3, "headers": {"traceparent": OWN}},
        ]
        _, answered = send(client, "/v1/topics/orders/events", {"events": events}, MADE, "vendor=x")

        got, _ = send(client, "/v1/topics/orders/groups/billing/read", {"consumer": "c", "block_ms": 5000}, READ)
        plain, with_headers, traced = (event["headers"] for event in got["events"])
        assert plain == {"traceparent": MADE, "tracestate": "vendor=x"}
        assert with_headers == {"k": HEADER, "traceparent": MADE, "tracestate": "vendor=x"}
        assert traced == {"traceparent": OWN}
        ids = [event["redis_id"] for event in got["events"]]
        send(client, "/v1/topics/orders/groups/billing/ack", {"items": [{"partition": 0, "redis_ids": ids}]}, READ)
        collector.wait_for(lambda: collector.named("persist orders"))

        send(client, "/v1/topics/orders/replays", {"target_topic": "orders-again"})
        collector.wait_for(lambda: collector.named("persist orders-again"))
        kept = client.get("/v1/topics/orders-again/events").json["events"]
        assert [event["headers"]["traceparent"] for event in kept] == [MADE, MADE, OWN]

        client.post("/v1/topics/orders/events", {"events": [{"event_type": "nobody-asked", "payload": 1}]})
        wait_until_persisted(client, "orders")
        cluster.stop(0)
        print(picture := collector.picture())
        (tmp_path / "traces.txt").write_text(picture)
        check_picture(collector, answered)
        check_logs(collector, cluster)


def wait_until_persisted(client: Client, topic: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        (found,) = [one for one in client.get("/v1/metrics/summary").json["topics"] if one["topic"] == topic]
        (part,) = found["partition_stats"]
        if part["unpersisted"] == 0 and part["length"] == 4:
            return
        assert time.monotonic() < deadline, part
        time.sleep(0.05)


def check_picture(collector: FakeCollector, answered: dict[str, str]) -> None:
    def spans(name: str) -> list[Span]:
        return collector.named(name)

    sent, untraced = spans("send orders")
    assert (sent.trace_id, sent.parent_id, sent.kind) == (PRODUCER, MADE[36:52], "SERVER")
    assert answered["traceresponse"] == f"00-{PRODUCER}-{sent.span_id}-01"
    assert sent.attributes["messaging.batch.message_count"] == 3
    assert sent.attributes["http.route"] == "/v1/topics/<topic>/events"

    appended, appended_untraced = spans("append orders")
    assert appended.is_linked_to(sent)
    assert appended_untraced.is_linked_to(untraced)
    assert sent.began_ns <= appended.began_ns <= appended.ended_ns <= sent.ended_ns

    made, own = (PRODUCER, MADE[36:52]), (OWN[3:35], OWN[36:52])
    for name in ("persist orders", "replay orders-again", "persist orders-again"):
        # What was copied is linked to who made it, however often it is copied; what nobody traced makes no span.
        links = [link for span in spans(name) for link in span.links]
        assert sorted(links) == sorted([made, own]), name
        assert all(span.attributes["messaging.destination.partition.id"] == "0" for span in spans(name))

    (received,) = spans("receive orders")
    assert (received.trace_id, received.parent_id) == (CONSUMER, READ[36:52])
    assert received.links == [made, own]
    assert received.attributes["messaging.consumer.group.name"] == "billing"
    (acked,) = spans("ack orders")
    assert (acked.trace_id, acked.attributes["messaging.operation.type"]) == (CONSUMER, "settle")
    assert acked.attributes["messaging.batch.message_count"] == 3

    assert {span.attributes.get("messaging.system", "openstream") for span in collector.spans} == {"openstream"}
    assert not [span.name for span in collector.spans if span.failed]


def check_logs(collector: FakeCollector, cluster: Cluster) -> None:
    assert {"node starting", "listening", "node stopped"} <= {line.body for line in collector.logs}
    for private in PRIVATE:
        assert private.encode() not in collector.bytes
        assert private not in cluster.log(0)
    in_spans = [json.loads(line) for line in cluster.log(0).splitlines() if '"span_id"' in line]
    known = {(span.trace_id, span.span_id) for span in collector.spans}
    assert in_spans, "no line was written inside a span"
    assert {(line["trace_id"], line["span_id"]) for line in in_spans} <= known


def test_a_collector_that_never_answers_costs_nobody_anything_and_holds_no_shutdown(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    small = {"OTEL_BSP_MAX_QUEUE_SIZE": "5", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "5", "OPENSTREAM_GRACE_MS": "3000"}
    with (
        black_hole() as url,
        Cluster(own_servers, tmp_path, nodes=1, environment=environment(url, **small)) as cluster,
    ):
        client = client_of(cluster)
        client.put_topic("orders", 1)
        for number in range(40):
            assert client.produce("orders", [number]).status == 200
        assert client.metric("openstream_telemetry_dropped_total", signal="traces") > 0
        assert client.metric("openstream_telemetry_sent_total") == 0
        took = cluster.stop(0, within_s=4.5)  # its grace and the margin above it
    print(f"stopped in {took:.2f} s")

"""Traces and logs as a collector gets them: over real OTLP, masked, named by the conventions, sampled per parent."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog

from openstream_runtime.domain.tracing import TraceContext
from openstream_runtime.export import Export
from openstream_runtime.ports.tracing import NO_TRACER, Operation
from openstream_runtime.telemetry import exporting, logs
from openstream_runtime.telemetry.otlp import Otlp
from support.fake_collector import FakeCollector, black_hole
from support.fake_tracer import SAMPLED, UNSAMPLED, contexts

API_KEY = "k9-Secret-Of-The-Collector"


@pytest.fixture
def collector() -> Iterator[FakeCollector]:
    with FakeCollector() as made:
        yield made


@contextmanager
def exported(url: str, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[Otlp]:
    """An export set up as a process's environment sets it up."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "20", **variables}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    otlp = exporting.start(Export.of(environ), version="1.2.3", node="node-7")
    assert otlp is not None
    try:
        yield otlp
    finally:
        otlp.close(0)


def test_nothing_is_started_and_nothing_imported_while_nothing_is_exported() -> None:
    program = (
        "import sys, threading\n"
        "import openstream_http.main, openstream_runtime.node\n"
        "from openstream_runtime.export import Export\n"
        "from openstream_runtime.telemetry import exporting\n"
        "assert exporting.start(Export.of({}), version='1', node='n') is None\n"
        # redis-py imports the metrics of whatever OpenTelemetry is installed; those are not ours and cost no thread.
        "ours = ('opentelemetry.sdk.trace', 'opentelemetry.sdk._logs', 'opentelemetry.exporter', 'google')\n"
        "print([m for m in sys.modules if m.startswith(ours)], threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] 1"


def test_spans_arrive_named_by_the_conventions(collector: FakeCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    with exported(collector.url, monkeypatch, OTEL_EXPORTER_OTLP_HEADERS=f"api-key={API_KEY}") as otlp:
        with otlp.tracer.serve("POST", SAMPLED) as span:
            span.tell(Operation.SEND, "orders", partition=3)
            span.count(2)
            span.answered("/v1/topics/<topic>/events", 200)
        with otlp.tracer.batch(Operation.PERSIST, "orders", contexts(2), events=5, partition=3):
            pass
        otlp.close(10)
    sent, persisted = collector.spans
    assert (sent.name, sent.kind, sent.failed) == ("send orders", "SERVER", False)
    assert (sent.trace_id, sent.parent_id) == (f"{SAMPLED.trace_id:032x}", f"{SAMPLED.span_id:016x}")
    assert sent.attributes == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "http.route": "/v1/topics/<topic>/events",
        "http.response.status_code": 200,
        "messaging.system": "openstream",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "3",
        "messaging.batch.message_count": 2,
    }
    assert (persisted.name, persisted.kind, len(persisted.links)) == ("persist orders", "CONSUMER", 2)
    assert persisted.attributes["messaging.operation.type"] == "process"
    assert collector.headers["api-key"] == API_KEY
    assert collector.resource["service.name"] == "openstream"
    assert (collector.resource["service.version"], collector.resource["service.instance.id"]) == ("1.2.3", "node-7")


def test_the_service_is_named_as_the_environment_says(
    collector: FakeCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"OTEL_SERVICE_NAME": "events", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=blue"}
    with exported(collector.url, monkeypatch, OTEL_EXPORTER_OTLP_COMPRESSION="gzip", **said) as otlp:
        with otlp.tracer.serve("GET", None):
            pass
        otlp.close(10)
    assert collector.resource["service.name"] == "events"
    assert collector.resource["deployment.environment.name"] == "blue"
    assert collector.resource["service.version"] == "1.2.3"


@pytest.mark.parametrize("sampler", ["parentbased_traceidratio", "parentbased_always_off"])
def test_whoever_is_recorded_stays_recorded_and_nobody_else(
    sampler: str, collector: FakeCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": "0"}
    with exported(collector.url, monkeypatch, **none) as otlp:
        for parent in (None, UNSAMPLED, SAMPLED):
            with otlp.tracer.serve("GET", parent):
                pass
        with otlp.tracer.batch(Operation.APPEND, "orders", [UNSAMPLED], events=1):
            pass
        with otlp.tracer.batch(Operation.PERSIST, "orders", [UNSAMPLED, SAMPLED], events=1):
            pass
        otlp.close(10)
    assert [span.name for span in collector.spans] == ["GET", "persist orders"]
    assert collector.spans[0].trace_id == f"{SAMPLED.trace_id:032x}"


def test_always_off_is_off_also_for_work_for_many(collector: FakeCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    with exported(collector.url, monkeypatch, OTEL_TRACES_SAMPLER="always_off") as otlp:
        with otlp.tracer.serve("GET", SAMPLED):
            pass
        with otlp.tracer.batch(Operation.PERSIST, "orders", contexts(3), events=1):
            pass
        otlp.close(10)
    assert collector.spans == []


def test_log_lines_name_their_trace_and_arrive_masked(
    collector: FakeCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    with exported(collector.url, monkeypatch, OTEL_LOGS_EXPORTER="otlp") as otlp:
        logs.configure(form="json", stream=stream, secrets=[API_KEY], ids=otlp.ids, sink=otlp.logs)
        log = structlog.get_logger("openstream_runtime.tests")
        with otlp.tracer.serve("POST", SAMPLED) as span:
            assert span.context is not None
            log.warning("took long", topic="orders", password="hunter2-Pa55w0rd", url=f"x?key={API_KEY}", n=3)
            logging.getLogger("hypercorn.error").error("also with %s", API_KEY)
        try:
            raise ValueError(f"with {API_KEY}")
        except ValueError:
            log.exception("failed")
        otlp.close(10)
    lines = {line.body: line for line in collector.logs}
    assert set(lines) == {"took long", "also with ***", "failed"}
    took, foreign, failed = lines["took long"], lines["also with ***"], lines["failed"]
    assert (took.body, took.severity, took.logger) == ("took long", "WARNING", "openstream_runtime.tests")
    assert took.attributes == {"topic": "orders", "password": "***", "url": "x?key=***", "n": 3}
    assert (took.trace_id, took.span_id) == (f"{SAMPLED.trace_id:032x}", f"{span.context.span_id:016x}")
    assert (foreign.logger, foreign.trace_id) == ("hypercorn.error", took.trace_id)
    assert "ValueError" in failed.attributes["exception.stacktrace"]
    assert failed.trace_id == ""
    for secret in (API_KEY, "hunter2-Pa55w0rd"):
        assert secret.encode() not in collector.bytes
        assert secret not in stream.getvalue()
    first, second, third = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["trace_id"], first["span_id"]) == (took.trace_id, took.span_id)
    assert second["trace_id"] == took.trace_id
    assert "trace_id" not in third


def test_what_is_said_while_telemetry_is_sent_is_not_sent(
    collector: FakeCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.status = 400
    stream = io.StringIO()
    with exported(collector.url, monkeypatch, OTEL_LOGS_EXPORTER="otlp", OTEL_BLRP_SCHEDULE_DELAY="10") as otlp:
        logs.configure(form="json", stream=stream, ids=otlp.ids, sink=otlp.logs)
        structlog.get_logger("openstream_runtime.tests").info("one")
        collector.wait_for(lambda: "takes no telemetry" in stream.getvalue())
        collector.status = 200
        structlog.get_logger("openstream_runtime.tests").info("two")
        collector.wait_for(lambda: collector.logs)
        otlp.close(10)
    assert [line.body for line in collector.logs] == ["two"]
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [
        "one",
        "the collector takes no telemetry; it is dropped and counted",
        "two",
        "the collector takes telemetry again",
    ]


def test_a_line_the_sink_cannot_take_is_no_error_of_who_wrote_it() -> None:
    stream = io.StringIO()

    def broken(record: logging.LogRecord, fields: object) -> None:
        raise RuntimeError("no room")

    logs.configure(form="json", stream=stream, sink=broken)
    structlog.get_logger("openstream_runtime.tests").info("hello")
    written, complaint = stream.getvalue().splitlines()
    assert json.loads(written)["event"] == "hello"
    assert json.loads(complaint)["error"] == "RuntimeError"


@pytest.mark.parametrize("away", ["silent", "closed"])
def test_a_collector_that_is_away_holds_the_end_for_less_than_a_second(
    away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with black_hole() as silent:
        url = silent if away == "silent" else "http://127.0.0.1:1"
        with exported(url, monkeypatch, OTEL_LOGS_EXPORTER="otlp") as otlp:
            for _ in range(600):
                with otlp.tracer.serve("GET", None):
                    pass
            began = time.monotonic()
            otlp.close(0.5)
            assert time.monotonic() - began < 3  # half a second on a machine that has nothing else to do


def test_without_traces_there_is_no_tracer(collector: FakeCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    only_logs = {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "otlp"}
    with exported(collector.url, monkeypatch, **only_logs) as otlp:
        assert otlp.tracer is NO_TRACER
        assert otlp.logs is not None


def test_a_clients_tracestate_goes_on_with_its_trace(collector: FakeCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    with exported(collector.url, monkeypatch) as otlp:
        with otlp.tracer.serve("GET", TraceContext(1, 2, True, "vendor=x")) as span:
            assert span.context is not None
            assert span.context.state == "vendor=x"
        with otlp.tracer.serve("GET", TraceContext(1, 2, True, "not a state")) as span:
            assert span.context is not None
        otlp.close(10)
    assert len(collector.spans) == 2

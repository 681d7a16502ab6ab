"""The standard variables OTEL_*: what they switch on, what is refused, and that no secret of theirs is said."""

from __future__ import annotations

import pytest

from openstream_runtime.export import Export, Signal
from openstream_runtime.settings import Settings, SettingsError

NEEDED = {
    "REDIS_URL": "redis://127.0.0.1:6379/0",
    "DATABASE_URL": "postgresql://127.0.0.1/openstream",
    "AUTH_JWT_SECRET": "q8Xv3kZr0sT5uY7wB9dF1hJ4mN6pR2tV8xL0cQ3e",
}
AT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}


def test_nothing_is_exported_without_an_endpoint() -> None:
    assert Export.of({}) == Export()
    assert (
        Export.of({"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "otlp"}) == Export()
    )
    assert Export.of({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}) == Export()


def test_an_endpoint_switches_traces_on_and_logs_only_when_asked_for() -> None:
    assert Export.of(AT) == Export(traces=Signal("http://collector:4318/v1/traces", 2048, 512, 5.0))
    logs = Export.of(AT | {"OTEL_LOGS_EXPORTER": "otlp"}).logs
    assert logs == Signal("http://collector:4318/v1/logs", 2048, 512, 1.0)


def test_an_endpoint_of_one_signal_is_taken_as_it_is() -> None:
    export = Export.of({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://x/in", "OTEL_LOGS_EXPORTER": "otlp"})
    assert export.traces is not None
    assert export.traces.url == "https://x/in"
    assert export.logs is None


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "TRUE"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_they_switch_off_as_well(off: dict[str, str]) -> None:
    assert Export.of(AT | off) == Export()


def test_how_much_waits_is_as_the_standard_says() -> None:
    export = Export.of(
        AT
        | {"OTEL_LOGS_EXPORTER": "otlp", "OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_SCHEDULE_DELAY": "250"}
        | {"OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "7"}
    )
    assert export.traces == Signal("http://collector:4318/v1/traces", 10, 10, 0.25)
    assert export.logs is not None
    assert (export.logs.queue, export.logs.batch) == (2048, 7)


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_LOGS_EXPORTER": "console"}, "OTEL_LOGS_EXPORTER"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "OTEL_BSP_MAX_QUEUE_SIZE"),
        ({"OTEL_BSP_SCHEDULE_DELAY": "often"}, "OTEL_BSP_SCHEDULE_DELAY"),
    ],
)
def test_what_cannot_be_done_is_refused_at_the_start_by_name(bad: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env(NEEDED | AT | bad)
    (problem,) = refused.value.problems
    assert problem.startswith(name)


def test_nothing_is_refused_of_what_is_off() -> None:
    assert Settings.from_env(NEEDED | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}).otel


def test_every_problem_is_told_at_once_and_without_its_value() -> None:
    bad = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://user:hunter22@x",
        "OTEL_TRACES_EXPORTER": "s3cret",
        "OPENSTREAM_PORT": "x",
    }
    with pytest.raises(SettingsError) as refused:
        Settings.from_env(NEEDED | bad)
    assert len(refused.value.problems) == 3
    assert "hunter22" not in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_the_values_of_headers_and_passwords_are_secrets() -> None:
    said = AT | {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=abc%20def,x-team=blue"}
    assert {"abc def", "abc%20def", "blue"} <= set(Export.of(said).secrets)
    url = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:hunter22@x"}
    assert Export.of(url).secrets == ("https://user:hunter22@x",)


def test_the_settings_hand_the_variables_on_and_never_show_them() -> None:
    settings = Settings.from_env(NEEDED | AT | {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=hunter22", "OTHER": "1"})
    assert set(settings.otel) == {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"}
    assert "hunter22" not in repr(settings)

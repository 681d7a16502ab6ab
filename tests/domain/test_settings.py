"""Settings: every variable, every refusal, all refusals at once, and never a secret in what is said about them."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openstream_runtime.settings import Settings, SettingsError, weakness_of

SECRET = "q8Xv3kZr0sT5uY7wB9dF1hJ4mN6pR2tV8xL0cQ3e"
ADMIN = "Zr0sT5uY7wB9dF1hJ4mN6pR2tV8xL0cQ3eq8Xv3k"
NEEDED = {
    "REDIS_URL": "redis://default:p4ss-of-redis@127.0.0.1:6379/0",
    "DATABASE_URL": "postgresql://app:p4ss-of-postgres@127.0.0.1/openstream",
    "AUTH_JWT_SECRET": SECRET,
}
OPEN = "0.0.0.0"  # noqa: S104 - never bound, only judged
SECRETS = ("p4ss-of-redis", "p4ss-of-postgres", SECRET, ADMIN)


def test_three_variables_make_a_node_and_the_rest_has_defaults() -> None:
    settings = Settings.from_env(NEEDED)
    assert settings.redis_url.get_secret_value() == NEEDED["REDIS_URL"]
    assert settings.database_url.get_secret_value() == NEEDED["DATABASE_URL"]
    assert settings.auth_jwt_secret.get_secret_value() == SECRET
    assert (settings.host, settings.port, settings.dev) == ("127.0.0.1", 8_000, False)
    assert settings.auth_admin_secret is None
    assert settings.cors_allow_origins == ()
    assert settings.log_format == "auto"


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("AUTH_JWT_ISSUER", "me", "auth_jwt_issuer", "me"),
        ("AUTH_JWT_AUDIENCE", "you", "auth_jwt_audience", "you"),
        ("CORS_ALLOW_ORIGINS", "http://a, http://b ,,", "cors_allow_origins", ("http://a", "http://b")),
        ("CORS_ALLOW_ORIGINS", "http://localhost:3000", "cors_allow_origins", ("http://localhost:3000",)),
        ("OPENSTREAM_HOST", OPEN, "host", OPEN),
        ("OPENSTREAM_PORT", "0", "port", 0),
        ("OPENSTREAM_NODE_ID", "node-1.x_y", "node_id", "node-1.x_y"),
        ("PARTITIONS_DEFAULT", "1024", "partitions_default", 1_024),
        ("OPENSTREAM_RETENTION_MS", "0", "retention_ms", 0),
        ("MAX_BODY_BYTES", "1024", "max_body_bytes", 1_024),
        ("BACKPRESSURE_MAX_STREAM_LEN", "1", "backpressure_max_stream_len", 1),
        ("OPENSTREAM_MAX_UNPERSISTED", "5", "backpressure_max_unpersisted", 5),
        ("OPENSTREAM_MAX_REDIS_MEMORY", "0.5", "backpressure_redis_memory", 0.5),
        ("OPENSTREAM_MAILBOX_BYTES", "1048576", "mailbox_bytes", 1 << 20),
        ("OPENSTREAM_MAX_REQUESTS", "7", "max_requests", 7),
        ("OPENSTREAM_MAX_CONNECTIONS", "9", "max_connections", 9),
        ("OPENSTREAM_MAX_PRODUCERS", "1", "max_producers", 1),
        ("OPENSTREAM_MAX_EVENT_IDS", "1", "max_event_ids", 1),
        ("OPENSTREAM_PRODUCER_MS", "60000", "producer_ms", 60_000),
        ("OPENSTREAM_EVENT_ID_MS", "1000", "event_id_ms", 1_000),
        ("OPENSTREAM_LEASE_MS", "500", "lease_ms", 500),
        ("OPENSTREAM_CLAIM_IDLE_MS", "100", "claim_idle_ms", 100),
        ("OPENSTREAM_CONSUMER_IDLE_MS", "1000", "consumer_idle_ms", 1_000),
        ("OPENSTREAM_GRACE_MS", "1000", "grace_ms", 1_000),
        ("OPENSTREAM_STARTUP_MS", "1000", "startup_ms", 1_000),
        ("OPENSTREAM_ACK_REPLICAS", "0", "ack_replicas", 0),
        ("OPENSTREAM_LOG_LEVEL", "debug", "log_level", "debug"),
        ("OPENSTREAM_LOG_FORMAT", "json", "log_format", "json"),
        ("OPENSTREAM_GRAFANA_URL", "https://grafana.example/d/1", "grafana_url", "https://grafana.example/d/1"),
        ("OPENSTREAM_PROMETHEUS_URL", "http://prometheus:9090", "prometheus_url", "http://prometheus:9090"),
    ],
)
def test_a_variable_sets_its_field(variable: str, text: str, field: str, value: Any) -> None:
    assert getattr(Settings.from_env(NEEDED | {variable: text}), field) == value


@pytest.mark.parametrize("text", ["javascript:alert(1)", "grafana:3000", "//grafana", "ftp://grafana"])
def test_a_link_for_people_is_never_one_that_a_browser_runs(text: str) -> None:
    with pytest.raises(SettingsError, match="OPENSTREAM_GRAFANA_URL: expected a URL"):
        Settings.from_env(NEEDED | {"OPENSTREAM_GRAFANA_URL": text})


def test_every_variable_is_tried_by_a_test() -> None:
    (mark,) = test_a_variable_sets_its_field.pytestmark
    tried = {case[0] for case in mark.args[1]}
    others = {*NEEDED, "AUTH_ADMIN_SECRET", "OPENSTREAM_DEV", "OTEL_*"}
    assert tried | others == {str(field.validation_alias) for field in Settings.model_fields.values()}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("REDIS_URL", "127.0.0.1:6379"),
        ("REDIS_URL", "http://h"),
        ("REDIS_URL", "postgresql://h"),
        ("REDIS_URL", "redis+sentinel://h:26379"),
        ("REDIS_URL", "redis+cluster://h:6379/3"),
        ("DATABASE_URL", "mysql://h/x"),
        ("DATABASE_URL", "host=db"),
        ("OPENSTREAM_PORT", "65536"),
        ("OPENSTREAM_PORT", "-1"),
        ("OPENSTREAM_PORT", "http"),
        ("OPENSTREAM_PORT", "80.5"),
        ("OPENSTREAM_NODE_ID", "node 1"),
        ("OPENSTREAM_NODE_ID", "node\n"),
        ("OPENSTREAM_NODE_ID", "a" * 101),
        ("OPENSTREAM_NODE_ID", "{x}"),
        ("PARTITIONS_DEFAULT", "0"),
        ("PARTITIONS_DEFAULT", "1025"),
        ("OPENSTREAM_RETENTION_MS", "-1"),
        ("MAX_BODY_BYTES", "1023"),
        ("MAX_BODY_BYTES", "999999999999"),
        ("BACKPRESSURE_MAX_STREAM_LEN", "0"),
        ("OPENSTREAM_MAX_UNPERSISTED", "0"),
        ("OPENSTREAM_MAX_REDIS_MEMORY", "0"),
        ("OPENSTREAM_MAX_REDIS_MEMORY", "1.1"),
        ("OPENSTREAM_MAX_REDIS_MEMORY", "nan"),
        ("OPENSTREAM_MAILBOX_BYTES", "1"),
        ("OPENSTREAM_MAX_REQUESTS", "0"),
        ("OPENSTREAM_MAX_CONNECTIONS", "0"),
        ("OPENSTREAM_LEASE_MS", "499"),
        ("OPENSTREAM_LEASE_MS", "300001"),
        ("OPENSTREAM_CLAIM_IDLE_MS", "99"),
        ("OPENSTREAM_CONSUMER_IDLE_MS", "999"),
        ("OPENSTREAM_GRACE_MS", "999"),
        ("OPENSTREAM_STARTUP_MS", "999"),
        ("OPENSTREAM_ACK_REPLICAS", "17"),
        ("OPENSTREAM_LOG_LEVEL", "loud"),
        ("OPENSTREAM_LOG_FORMAT", "xml"),
        ("OPENSTREAM_DEV", "perhaps"),
        ("CORS_ALLOW_ORIGINS", "*"),
        ("CORS_ALLOW_ORIGINS", "http://a, *"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_the_name_of_its_variable(variable: str, text: str) -> None:
    (problem,) = problems(NEEDED | {variable: text})
    assert problem.startswith(variable)


@pytest.mark.parametrize("variable", NEEDED)
@pytest.mark.parametrize("text", [None, ""])
def test_what_is_needed_is_asked_for(variable: str, text: str | None) -> None:
    environment = {name: value for name, value in NEEDED.items() if name != variable}
    if text is not None:
        environment[variable] = text
    assert problems(environment) == [f"{variable} is not set"]


def test_every_problem_is_told_at_once_one_sentence_each() -> None:
    found = problems(
        {
            "REDIS_URL": "nonsense",
            "AUTH_JWT_SECRET": "changeme",
            "AUTH_ADMIN_SECRET": "dev-admin-secret",
            "OPENSTREAM_PORT": "x",
            "PARTITIONS_DEFAULT": "0",
            "CORS_ALLOW_ORIGINS": "*",
        }
    )
    named = [problem.partition(":")[0].partition(" ")[0] for problem in found]
    assert sorted(named) == [
        "AUTH_ADMIN_SECRET",
        "AUTH_JWT_SECRET",
        "CORS_ALLOW_ORIGINS",
        "DATABASE_URL",
        "OPENSTREAM_PORT",
        "PARTITIONS_DEFAULT",
        "REDIS_URL",
    ]
    assert not [problem for problem in found if "\n" in problem]


def test_two_weak_secrets_are_two_problems() -> None:
    assert len(problems(NEEDED | {"AUTH_JWT_SECRET": "a" * 40, "AUTH_ADMIN_SECRET": "short"})) == 2


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ("short", "fewer than 32 bytes"),
        ("x" * 31, "fewer than 32 bytes"),
        ("changeme", "known default"),
        ("dev-admin-secret", "known default"),
        ("a-very-long-changeme-that-looks-like-a-real-secret", "known default"),
        ("CHANGE-ME-CHANGE-ME-CHANGE-ME-CHANGE-ME", "known default"),
        ("a" * 64, "repeats itself"),
        ("ab" * 32, "repeats itself"),
        ("1234" * 16, "repeats itself"),
    ],
)
@pytest.mark.parametrize("variable", ["AUTH_JWT_SECRET", "AUTH_ADMIN_SECRET"])
def test_a_weak_secret_is_refused_with_how_to_make_a_good_one(variable: str, secret: str, says: str) -> None:
    (problem,) = problems(NEEDED | {variable: secret})
    assert problem.startswith(f"{variable} ")
    assert says in problem
    assert "openssl rand" in problem
    assert secret not in problem.replace("known default", "")


@pytest.mark.parametrize("secret", [SECRET, ADMIN, "0123456789abcdef" * 2, "correct horse battery staple, twice over"])
def test_a_good_secret_passes(secret: str) -> None:
    assert weakness_of(secret) is None


def test_development_takes_known_secrets_on_loopback_only() -> None:
    known = NEEDED | {"OPENSTREAM_DEV": "1", "AUTH_ADMIN_SECRET": "dev-admin-secret"}
    assert Settings.from_env(known).auth_admin_secret is not None
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert Settings.from_env(known, host=host).host == host
    for host in (OPEN, "::", "192.168.1.2", "example.org"):
        (problem,) = problems(known | {"OPENSTREAM_HOST": host})
        assert "loopback only" in problem
    assert problems(known | {"AUTH_JWT_SECRET": "short"}) == ["AUTH_JWT_SECRET has fewer than 32 bytes"]


def test_development_on_an_open_address_is_told_beside_any_other_problem() -> None:
    found = problems({"OPENSTREAM_DEV": "1", "OPENSTREAM_HOST": OPEN, "AUTH_JWT_SECRET": "short"})
    assert len([problem for problem in found if "loopback only" in problem]) == 1
    assert len([problem for problem in found if "fewer than 32 bytes" in problem]) == 1


def test_overrides_win_and_none_leaves_what_the_environment_says() -> None:
    environment = NEEDED | {"OPENSTREAM_PORT": "9000", "OPENSTREAM_HOST": "127.0.0.2"}
    settings = Settings.from_env(environment, port=0, host=None)
    assert (settings.port, settings.host) == (0, "127.0.0.2")


def test_an_override_is_checked_like_a_variable() -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_env(NEEDED, port=70_000)
    assert refusal.value.problems[0].startswith("OPENSTREAM_PORT: ")


def test_two_nodes_of_one_machine_never_share_a_made_up_id() -> None:
    ids = {Settings.from_env(NEEDED).node_id for _ in range(50)}
    assert len(ids) == 50
    assert all(1 <= len(one) <= 100 for one in ids)


def test_the_environment_of_the_process_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENSTREAM_PORT", "1234")
    monkeypatch.setenv("REDIS_URL", "redis://from-the-process")
    assert Settings.from_env(NEEDED).port == 8_000
    assert problems({}) == ["REDIS_URL is not set", "DATABASE_URL is not set", "AUTH_JWT_SECRET is not set"]


@pytest.mark.parametrize("url", ["redis+sentinel://:p@a:1,b:2/main/0", "redis+cluster://:p@a:1,b:2"])
def test_redis_may_be_found_by_sentinels_or_be_a_cluster(url: str) -> None:
    assert Settings.from_env({**NEEDED, "REDIS_URL": url}).redis_url.get_secret_value() == url


def test_settings_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Settings.from_env(NEEDED).port = 1


def test_no_way_of_showing_settings_shows_a_secret() -> None:
    settings = Settings.from_env(NEEDED | {"AUTH_ADMIN_SECRET": ADMIN})
    shown = "".join(
        [repr(settings), str(settings), f"{settings}", settings.model_dump_json(), repr(settings.model_dump())]
    )
    assert not [secret for secret in SECRETS if secret in shown]


BROKEN = [
    {"OPENSTREAM_PORT": "x"},
    {"REDIS_URL": "p4ss-of-redis"},
    {"DATABASE_URL": "mysql://u:p4ss-of-postgres@h"},
    {"AUTH_ADMIN_SECRET": ADMIN, "OPENSTREAM_DEV": "perhaps"},
    {"AUTH_JWT_SECRET": "p4ss-of-redis"},
    {"CORS_ALLOW_ORIGINS": "*"},
    {"OPENSTREAM_DEV": "1", "OPENSTREAM_HOST": OPEN},
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: "+".join(broken))
def test_no_refusal_shows_a_secret_nor_carries_it_along(broken: dict[str, str]) -> None:
    try:
        Settings.from_env(NEEDED | broken)
    except SettingsError as error:
        shown = "".join([str(error), repr(error), *error.problems, *traceback.format_exception(error)])
        cause: BaseException | None = error
        while cause is not None:  # what an error reporter would walk
            shown += repr(cause) + str(cause)
            cause = cause.__cause__ or cause.__context__
    else:
        pytest.fail("it should have been refused")
    assert not [secret for secret in SECRETS if secret in shown]


@given(st.text(max_size=60).filter(lambda secret: secret.isprintable()))
def test_any_secret_is_judged_without_an_error_and_without_being_repeated(secret: str) -> None:
    weakness = weakness_of(secret)
    if weakness is not None and len(secret) > 12:
        assert secret not in weakness


def problems(environment: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_env(environment)
    return refusal.value.problems

"""Real secrets go through every door of the log; none may come out of it, and nobody may forge a line."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import time
from typing import Any

import msgspec
import psycopg
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from openstream_runtime.domain.events import NewEvent, StoredEvent
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.telemetry import logs
from openstream_runtime.telemetry.logs import configure
from openstream_runtime.telemetry.redaction import EVENT_LIMIT, MASK, TRACEBACK_LIMIT, VALUE_LIMIT, Redaction

PASSWORD = "hunter2-Pa55w0rd"
ODD_PASSWORD = "p@ss/w:rd#1%"
JWT_SECRET = "q8Xv3kZr0sT5uY7wB9dF1hJ4mN6pR2tV"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
PAYLOAD = b'{"card":"4111-1111-1111-1111"}'
REDIS_URL = f"redis://default:{PASSWORD}@127.0.0.1:6379/0"
DATABASE_URL = "postgresql://app:p%40ss%2Fw%3Ard%231%25@db/openstream"
LEAKS = (PASSWORD, ODD_PASSWORD, "p%40ss%2Fw%3Ard%231%25", JWT_SECRET, TOKEN, "4111-1111", "c2lnbmF0dXJl")
KNOWN = (REDIS_URL, DATABASE_URL, JWT_SECRET)


@pytest.fixture(params=["json", "console"])
def form(request: pytest.FixtureRequest) -> logs.Form:
    chosen: logs.Form = request.param
    return chosen


VALUES: dict[str, Any] = {
    "url": REDIS_URL,
    "text around a url": f"cannot connect to {DATABASE_URL}: refused",
    "url with an odd password": f"redis://:{ODD_PASSWORD}@h:1/0",
    "keyword dsn": f"host=db user=app password={PASSWORD} dbname=x",
    "quoted keyword": f"password='{PASSWORD}'",
    "json": json.dumps({"admin_secret": JWT_SECRET}),
    "header": f"Authorization: Bearer {TOKEN}",
    "basic header": "authorization: Basic c2lnbmF0dXJlOjEyMzQ1Ng==",
    "bearer": f"got Bearer {TOKEN} twice",
    "bare token": TOKEN,
    "query": f"/v1/x?access_token={TOKEN}&y=1",
    "environment": f"AUTH_JWT_SECRET={JWT_SECRET}",
    "known value inside a word": f"xx{JWT_SECRET}yy",
    "bytes": PAYLOAD,
    "nested": {"outer": [{"password": PASSWORD, "url": REDIS_URL}], "Authorization": f"Bearer {TOKEN}"},
    "key that is a url": {REDIS_URL: 1},
    "set": {REDIS_URL},
    "exception": RuntimeError(f"no route to {DATABASE_URL}"),
    "nested exception": [ValueError(f"bad token={TOKEN}")],
    "settings value": SecretStr(PASSWORD),
    "event": NewEvent("t", None, PAYLOAD, 1),
    "stored event": StoredEvent(Position(1, 0), "t", None, PAYLOAD, 1),
    "list of events": [NewEvent("t", None, PAYLOAD, 1)],
    "long before": "x" * (VALUE_LIMIT - 20) + REDIS_URL,
    "refused row": psycopg.DataError(f"value too long\nDETAIL: Failing row contains (1, {PAYLOAD.decode()}\n2nd)."),
    "private key": f"-----BEGIN RSA PRIVATE KEY-----\n{JWT_SECRET}\n-----END RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("what", VALUES)
def test_no_secret_leaves_in_a_value_of_ours(form: logs.Form, what: str) -> None:
    out = capture(form)
    structlog.get_logger("openstream_runtime.x").info("something", value=VALUES[what], deeper={"more": VALUES[what]})
    assert_clean(out)


# What others have made into text before we see it: there only the shapes of secrets can be found, so no raw payloads.
TEXTS = [what for what in VALUES if what not in {"bytes", "event", "stored event", "list of events"}]


@pytest.mark.parametrize("what", TEXTS)
def test_no_secret_leaves_in_a_message_or_an_argument_of_the_standard_library(form: logs.Form, what: str) -> None:
    out = capture(form)
    logging.getLogger("psycopg.pool").warning("trouble with %s", VALUES[what])
    logging.getLogger("hypercorn.error").error(f"trouble with {VALUES[what]}")
    assert_clean(out, events=2)


@pytest.mark.parametrize("what", TEXTS)
def test_no_secret_leaves_in_a_traceback(form: logs.Form, what: str) -> None:
    out = capture(form)
    local_variable = VALUES[what]  # shown by renderers that print the values of locals
    try:
        try:
            raise ValueError(local_variable)
        except ValueError as cause:
            raise ExceptionGroup(f"group {VALUES[what]}", [RuntimeError(f"inner {VALUES[what]}")]) from cause
    except ExceptionGroup:
        structlog.get_logger("openstream_runtime.x").exception("failed")
        logging.getLogger("asyncio").exception("failed too")
    assert_clean(out, events=2)
    assert "RuntimeError" in out.getvalue()


@pytest.mark.parametrize(
    "key", ["authorization", "Authorization", "access_token", "AUTH_JWT_SECRET", "password", "set-cookie", "dsn", "pwd"]
)
def test_a_key_that_names_a_secret_hides_any_value(form: logs.Form, key: str) -> None:
    out = capture(form)
    structlog.get_logger("openstream_runtime.x").info("m", **{key: "plain-word", "inner": {key: ["plain-word"]}})
    assert "plain-word" not in out.getvalue()
    assert MASK in out.getvalue()


def test_payloads_are_told_by_their_length_only() -> None:
    out = capture("json")
    structlog.get_logger("openstream_runtime.x").info("m", payload=PAYLOAD, body="text of it", headers={"a": "b"})
    line = json.loads(out.getvalue())
    assert (line["payload"], line["body"], line["headers"]) == ("<30 of bytes>", "<10 of str>", "<1 of dict>")


def test_context_bound_around_a_request_is_masked_too() -> None:
    out = capture("json")
    with structlog.contextvars.bound_contextvars(request_id="r-1", authorization=f"Bearer {TOKEN}"):
        structlog.get_logger("openstream_runtime.x").info("m")
        logging.getLogger("asyncio").warning("n")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["request_id"] for line in lines] == ["r-1", "r-1"]
    assert [line["authorization"] for line in lines] == [MASK, MASK]


def test_what_is_no_secret_stays_readable() -> None:
    out = capture("json")
    structlog.get_logger("openstream_runtime.x").warning(
        "persister took the partition",
        at=TopicPartition("orders", 3),
        position=Position(17, 4),
        count=12,
        ratio=0.5,
        ok=True,
        nothing=None,
        url="http://127.0.0.1:8000/v1/topics?limit=3",
        error=LookupError("no such topic: orders"),
        names=["a", "b"],
    )
    line = json.loads(out.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "persister took the partition",
        "level": "warning",
        "logger": "openstream_runtime.x",
        "at": "orders/3",
        "position": "17-4",
        "count": 12,
        "ratio": 0.5,
        "ok": True,
        "nothing": None,
        "url": "http://127.0.0.1:8000/v1/topics?limit=3",
        "error": "LookupError: no such topic: orders",
        "names": ["a", "b"],
    }


def test_values_messages_and_tracebacks_are_cut() -> None:
    out = capture("json")
    structlog.get_logger("openstream_runtime.x").info(
        "e" * 5_000, value="v" * 5_000, many=list(range(5_000)), big=10**400
    )
    try:
        raise ValueError("t" * 100_000)
    except ValueError:
        structlog.get_logger("openstream_runtime.x").exception("failed")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert len(first["event"]) == EVENT_LIMIT + 1
    assert len(first["value"]) == VALUE_LIMIT + 1
    assert len(first["many"]) == 32
    assert first["big"] == "<integer of 1329 bits>"
    assert TRACEBACK_LIMIT <= len(second["exception"]) < TRACEBACK_LIMIT + 100


FORGERY = 'orders\n{"event": "forged"}\r\nforged\x1b[2K\x85forged\u2028forged\x00'


def test_in_json_one_event_is_one_line_whatever_stands_in_it() -> None:
    out = capture("json")
    structlog.get_logger("openstream_runtime.x").info(FORGERY, topic=FORGERY, inner={FORGERY: [FORGERY]})
    logging.getLogger("hypercorn.error").error(FORGERY)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[0])["topic"] == FORGERY
    assert out.getvalue().isascii()


def test_on_the_console_a_stranger_writes_no_line_and_moves_no_cursor() -> None:
    out = capture("console")
    structlog.get_logger("openstream_runtime.x").info(FORGERY, topic=FORGERY)
    logging.getLogger("hypercorn.error").error(FORGERY)
    try:
        raise ValueError(FORGERY)
    except ValueError:
        structlog.get_logger("openstream_runtime.x").exception("failed")
    text = out.getvalue()
    assert "\x1b" not in text
    assert "\x00" not in text
    lines = text.splitlines()
    assert [line for line in lines if not line.startswith("| ")] == lines[:3]
    assert len([line for line in lines[:3] if line[:4].isdigit()]) == 3


@given(st.text(max_size=300), st.sampled_from(LEAKS))
def test_a_known_secret_is_found_in_whatever_surrounds_it(around: str, leak: str) -> None:
    redaction = Redaction([*LEAKS])
    assert leak not in redaction.text(f"{around}{leak}{around}", limit=10_000)


@pytest.mark.parametrize(
    "unit", ["a", "a.", "eyJ", "eyJ-", "a://", "eyJaaaa.", "token", "token ", "bearer ", '"', "DETAIL: ", "=:"]
)
def test_masking_takes_linear_time_on_hostile_text(unit: str) -> None:
    redaction = Redaction(KNOWN)
    text = (unit * 70_000)[:65_000]
    begun = time.process_time()
    redaction.text(text)
    assert time.process_time() - begun < 5  # quadratic would be minutes; measured: a tenth of a second at most


def test_the_level_holds_for_ours_and_nobody_else_may_talk_at_debug() -> None:
    out = capture("json", level="debug")
    structlog.get_logger("openstream_runtime.x").debug("ours")
    logging.getLogger("hpack.hpack").debug("Decoded (authorization, %s)", TOKEN)
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["ours"]

    out = capture("json", level="error")
    structlog.get_logger("openstream_runtime.x").warning("too quiet")
    logging.getLogger("asyncio").warning("too quiet")
    structlog.get_logger("openstream_runtime.x").error("loud")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["loud"]


def test_configuring_again_replaces_and_a_module_level_logger_follows() -> None:
    log = structlog.get_logger("openstream_runtime.x")
    first = capture("json")
    log.info("one")
    second = capture("json")
    log.info("two")
    logging.getLogger("asyncio").warning("three")
    assert "one" in first.getvalue()
    assert "two" not in first.getvalue()
    assert len(second.getvalue().splitlines()) == 2


def test_auto_is_json_off_a_terminal_and_readable_on_one() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    plain, terminal = io.StringIO(), Terminal()
    for stream in (plain, terminal):
        configure(stream=stream)
        structlog.get_logger("openstream_runtime.x").info("hello", count=3)
    assert json.loads(plain.getvalue())["count"] == 3
    with pytest.raises(json.JSONDecodeError):
        json.loads(terminal.getvalue())
    assert "hello" in terminal.getvalue()


def test_a_record_that_cannot_be_made_into_text_says_so_without_its_arguments() -> None:
    out = capture("json")
    logging.getLogger("asyncio").warning("%d %d", PASSWORD)
    line = json.loads(out.getvalue())
    assert line["event"] == "a log line could not be written"
    assert PASSWORD not in out.getvalue()


def test_a_value_whose_text_raises_does_not_stop_the_line() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError(PASSWORD)

    out = capture("json")
    structlog.get_logger("openstream_runtime.x").info("m", broken=Broken())
    assert json.loads(out.getvalue())["broken"] == "<Broken that cannot be shown: RuntimeError>"


def test_a_stream_that_is_closed_does_not_stop_the_node() -> None:
    out = capture("json")
    out.close()
    structlog.get_logger("openstream_runtime.x").info("nobody listens")


def test_uncaught_exceptions_warnings_and_threads_leave_through_the_same_door() -> None:
    program = f"""
import threading, warnings
from openstream_runtime.telemetry.logs import configure
configure(secrets={KNOWN!r})
warnings.warn("old call with password={PASSWORD}")
thread = threading.Thread(target=lambda: open("redis://u:{PASSWORD}@h"))
thread.start(); thread.join()
secret = {JWT_SECRET!r}
raise RuntimeError("cannot open {REDIS_URL} with " + secret)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert not [leak for leak in LEAKS if leak in done.stderr]
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["level"] for line in lines] == ["warning", "critical", "critical"]
    assert "cannot open" in lines[2]["exception"]


def test_every_struct_of_the_domain_is_shown_by_name_only() -> None:
    class Anything(msgspec.Struct):
        inner: str

    assert Redaction()(None, "info", {"event": "m", "x": Anything(PASSWORD)})["x"] == "<Anything>"


def capture(form: logs.Form, level: str = "info") -> io.StringIO:
    out = io.StringIO()
    configure(level, form=form, secrets=KNOWN, stream=out)
    root = logging.getLogger()  # without pytest's own handlers, which refuse what a broken record does
    root.handlers = [handler for handler in root.handlers if isinstance(handler, logs._Handler)]
    return out


def assert_clean(out: io.StringIO, events: int = 1) -> None:
    text = out.getvalue()
    assert not [leak for leak in LEAKS if leak in text], text
    assert (
        text.count("openstream_runtime.x")
        + text.count("psycopg.pool")
        + text.count("hypercorn.error")
        + text.count("asyncio")
        >= events
    ), text

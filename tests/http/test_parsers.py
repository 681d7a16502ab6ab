"""Whatever comes in, the parsers of the edge give a value or a problem below 500; what they take comes back whole."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quart import Quart
from werkzeug.datastructures import Headers

from openstream_http.app import create_app
from openstream_http.bodies import decode, diagnose
from openstream_http.cloudevents.times import LAST_MS, ms_of, time_of
from openstream_http.negotiation import CLOUD_EVENTS, JSON, LINES, wanted
from openstream_http.problems import Problem
from openstream_http.producing import PRODUCER_HEADERS, next_stamp, stamp_of
from openstream_http.schemas import Event, ProduceRequest, decoder_of
from openstream_runtime.domain.producers import MAX_NUMBER, Stamp
from openstream_runtime.settings import Settings, SettingsError
from support.edge import ADMIN_SECRET, JWT_SECRET, EdgeClient, settings_of
from support.fake_gateway import FakeGateway
from support.wire import EVENTS, READ

pytestmark = pytest.mark.anyio
#: How long an example takes says how busy the machine is, and nothing else.
quietly = settings(deadline=None, suppress_health_check=list(HealthCheck))
slowly = settings(quietly, max_examples=60)

LATIN = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=60)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=9)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


# ---- headers


@quietly
@given(st.dictionaries(st.sampled_from([*PRODUCER_HEADERS, "producer-id", "X"]), LATIN | st.integers().map(str)))
def test_whatever_a_producer_says_of_itself_it_is_a_stamp_or_none_or_a_422(said: dict[str, str]) -> None:
    try:
        stamp = stamp_of(Headers(list(said.items())))
    except Problem as problem:
        found: Any = problem.status
    else:
        found = stamp
    assert found == 422 or found is None or (isinstance(found, Stamp) and max(found.epoch, found.seq) <= MAX_NUMBER)


@quietly
@given(st.from_regex(r"\A[A-Za-z0-9._-]{1,200}\Z"), st.integers(0, MAX_NUMBER), st.integers(0, MAX_NUMBER))
def test_a_stamp_is_what_its_headers_say(producer: str, epoch: int, seq: int) -> None:
    headers = Headers(zip(PRODUCER_HEADERS, (producer, str(epoch), str(seq)), strict=True))
    stamp = stamp_of(headers)
    assert stamp == Stamp(producer, epoch, seq)
    if seq < MAX_NUMBER:
        assert next_stamp(stamp, 1, 0) == Stamp(producer, epoch, seq + 1)


MEDIA = st.sampled_from([JSON, *LINES, CLOUD_EVENTS, "*/*", "application/*", "text/html", "a/b;q", ";", "/"])
ACCEPTS = LATIN | st.lists(st.tuples(MEDIA, st.text("0123456789.q=-;, ", max_size=8)), max_size=6).map(
    lambda pairs: ",".join(f"{media};q={quality}" for media, quality in pairs)
)


@pytest.fixture(scope="module")
def whole_app() -> Quart:
    return create_app(FakeGateway(), settings_of())


@slowly
@given(ACCEPTS)
async def test_whatever_is_accepted_one_of_the_offers_is_chosen_or_it_is_a_406(whole_app: Quart, accept: str) -> None:
    async with whole_app.test_request_context("/", headers={"Accept": accept}):
        try:
            found = wanted(JSON, *LINES, CLOUD_EVENTS)
        except Problem as problem:
            found = str(problem.status)
    assert found in {JSON, *LINES, CLOUD_EVENTS, "406"}


@slowly
@given(st.sampled_from([JSON, *LINES, CLOUD_EVENTS]), st.permutations([JSON, *LINES, CLOUD_EVENTS]))
async def test_the_one_that_is_liked_best_is_chosen_in_whatever_order_it_is_said(
    whole_app: Quart, best: str, order: list[str]
) -> None:
    accept = ", ".join(f"{media};q={'0.9' if media == best else '0.1'};charset=utf-8" for media in order)
    async with whole_app.test_request_context("/", headers={"Accept": accept}):
        assert wanted(JSON, *LINES, CLOUD_EVENTS) == best


# ---- queries and paths

NAMES = [
    "from_id",
    "to_id",
    "from_ms",
    "to_ms",
    "limit",
    "key",
    "event_type",
    "partition",
    "ack",
    "partitions",
    "topic",
]
PATHS = [EVENTS, "/v1/topics/orders/partitions/0/events", "/v1/topics/orders/groups/g/dead-letters"]
ODD = (
    st.text(max_size=12) | st.integers().map(str) | st.sampled_from(["p0@1-1", "1-1", "9" * 25, "-1", "1e5", "\ud800"])
)


@slowly
@given(
    st.sampled_from(PATHS),
    st.lists(st.tuples(st.sampled_from(NAMES) | st.text(max_size=5), ODD), max_size=4),
    st.binary(max_size=8),
)
async def test_whatever_a_query_says_it_is_answered_or_refused(
    whole_app: Quart, path: str, pairs: list[tuple[str, str]], tail: bytes
) -> None:
    client = EdgeClient(whole_app)
    await client.put("/v1/topics/orders", {})
    await client.post("/v1/topics/orders/groups", {"group": "g"})
    query = "&".join(
        f"{quote(name, errors='surrogatepass')}={quote(value, errors='surrogatepass')}" for name, value in pairs
    )
    answer = await client.get(f"{path}?{query}{quote(tail)}")
    assert answer.status in {200, 422}, answer.body
    assert answer.json() is not None


@slowly
@given(st.binary(min_size=1, max_size=40), st.binary(min_size=1, max_size=40))
async def test_whatever_stands_in_a_path_it_is_a_name_or_refused(whole_app: Quart, topic: bytes, group: bytes) -> None:
    path = f"/v1/topics/{quote(topic, safe='')}/groups/{quote(group, safe='')}"
    answer = await EdgeClient(whole_app).get(path)
    assert answer.status in {404, 422}, answer.body
    answer.json()


# ---- bodies

EVENT, REQUEST = decoder_of(Event), decoder_of(ProduceRequest)


@quietly
@given(
    st.binary(max_size=60)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | VALUES.map(lambda value: json.dumps({"event_type": "t", "payload": value}).encode("utf-8", "surrogatepass"))
)
def test_what_is_taken_as_an_event_is_json_for_everybody_else_and_what_is_not_has_a_reason(body: bytes) -> None:
    for decoder in (EVENT, REQUEST):
        try:
            found = decode(decoder, body)
        except Problem as problem:
            found = problem
        if isinstance(found, Problem):
            assert found.status in {400, 422}
            assert found.detail
        else:
            json.loads(body.decode())
    assert diagnose(body).status in {400, 422}


@settings(slowly, max_examples=20)
@given(st.lists(VALUES, min_size=1, max_size=6), st.integers(0, 3), st.booleans())
async def test_a_payload_comes_back_byte_for_byte(values: list[Any], indent: int, ascii_only: bool) -> None:
    """In whatever spelling of JSON, from one end to the other."""
    client = EdgeClient(create_app(FakeGateway(), settings_of()))
    sent = []
    for value in values:
        text = json.dumps(value, ensure_ascii=ascii_only, indent=indent or None)
        if "\\u0000" in text or "\\ud" in text.lower():
            continue  # what PostgreSQL or UTF-8 cannot hold is refused, as other tests say
        sent.append(text.encode())
    if not sent:
        return
    await client.put("/v1/topics/orders", {"partitions": 1})
    await client.post("/v1/topics/orders/groups", {"group": "g", "start_id": "0-0"})
    events = b",".join(b'{"event_type":"t","payload":%b}' % payload for payload in sent)
    answer = await client.post(EVENTS, b'{"events":[%b]}' % events)
    assert answer.status == 200, answer.body
    answer = await client.post(READ, {"consumer": "c", "block_ms": 0})
    got = [bytes(one["payload"]) for one in msgspec.json.decode(answer.body, type=Read).events]
    assert got == sent


class Read(msgspec.Struct):
    """A read, with its events as they stand."""

    events: list[dict[str, msgspec.Raw]]


LINE, LONG_LINE = b'{"event_type":"t","payload":1}', b'{"event_type":"t","payload":"' + b"x" * 50 + b'"}'


@settings(slowly, max_examples=30)
@given(
    st.lists(st.sampled_from([LINE, LONG_LINE, b"", b"  "]), max_size=8),
    st.lists(st.integers(1, 40), max_size=12),
    st.sampled_from([b"\n", b"\r\n"]),
)
async def test_lines_are_the_same_wherever_the_network_cuts_them(
    lines: list[bytes], cuts: list[int], end: bytes
) -> None:
    body = end.join(lines)
    events = [line for line in lines if line.strip()]
    gateway = FakeGateway()
    app = create_app(gateway, settings_of())
    client = EdgeClient(app)
    headers = {"Authorization": f"Bearer {client.token()}", "Content-Type": LINES[0], "Transfer-Encoding": "chunked"}
    async with app.test_client().request(EVENTS, method="POST", headers=headers) as connection:
        at = 0
        for cut in cuts:
            await connection.send(body[at : at + cut])
            at += cut
        await connection.send(body[at:])
        await connection.send_complete()
    answer = await connection.as_response()
    assert answer.status_code == (200 if events else 422)
    payloads = [bytes(msgspec.json.decode(line, type=dict[str, msgspec.Raw])["payload"]) for line in events]
    assert sorted(event.payload for event in gateway.events("orders")) == sorted(payloads)


@quietly
@given(st.integers(0, LAST_MS))
def test_a_time_reads_back_as_the_time(ms: int) -> None:
    text = time_of(ms)
    assert text is not None
    assert ms_of(text) == ms


@quietly
@given(
    st.text(max_size=40) | st.from_regex(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9:.]{1,15}([Zz]|[+-][0-9]{2}:[0-9]{2})\Z")
)
def test_whatever_a_time_says_it_is_milliseconds_or_none(text: str) -> None:
    ms = ms_of(text)
    assert ms is None or ms >= 0


# ---- the environment

VARIABLES = sorted(
    str(one.validation_alias) for one in Settings.model_fields.values() if one.validation_alias != "OTEL_*"
)
SAID = (
    st.text(st.characters(exclude_characters="\0"), max_size=40)
    | st.integers().map(str)
    | st.sampled_from(["1", "yes", "*"])
)


@settings(slowly, max_examples=150)
@given(st.dictionaries(st.sampled_from(VARIABLES), SAID, max_size=8))
def test_whatever_the_environment_says_it_is_a_node_or_sentences_without_secrets(said: dict[str, str]) -> None:
    base = {
        "REDIS_URL": "redis://:hunter22@127.0.0.1:1", "DATABASE_URL": "postgresql://me:hunter22@127.0.0.1:1",
        "AUTH_JWT_SECRET": JWT_SECRET, "AUTH_ADMIN_SECRET": ADMIN_SECRET,
    }  # fmt: skip
    try:
        told = repr(Settings.from_env(base | said))
    except SettingsError as error:
        told = " ".join([str(error), *error.problems])
    for secret in ("hunter22", JWT_SECRET, ADMIN_SECRET):
        assert secret not in told

"""CloudEvents on their way out: what came as one comes back as it was, and whatever is in the log becomes one."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from cloudevents.core.bindings import http as sdk
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openstream_http.cloudevents.times import LAST_MS, ms_of, time_of
from openstream_http.limits import MAX_INTEGER
from support.cloud_events import FULL, MANY, ONE, OURS, binary, cloud_event, kept, send, without_ours
from support.edge import EdgeClient
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio

EVENTS = "/v1/topics/orders/events"
FIRST = "/v1/topics/orders/partitions/0/events"
GROUP = "/v1/topics/orders/groups/g"
BATCH = {"Accept": MANY}
READ = {"consumer": "c1", "block_ms": 0}


_NUMBERS = count()


async def fresh(client: EdgeClient) -> str:
    """A topic of one partition that holds nothing yet."""
    topic = f"t{next(_NUMBERS)}"
    assert (await client.put(f"/v1/topics/{topic}", {"partitions": 1})).status == 201
    return topic


# ----------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("mode", ["binary", "structured", "batched"])
async def test_an_event_comes_back_as_it_was(client: EdgeClient, mode: str) -> None:
    data = b'{ "order_id":"o-1",\n "amount": 12.340 }'
    assert (await send(client, mode, FULL, data)).status == 200
    answer = await client.get(EVENTS, headers=BATCH)
    assert b'"data":' + data + b"}" in answer.body
    (event,) = answer.json()
    assert set(event) - set(FULL) == {"openstreampartition", "openstreamid"}
    assert without_ours(event) == FULL | {"data": json.loads(data)}


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), max_size=20)
NAMES = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(lambda name: name not in {*FULL, *OURS})
VALUES = st.one_of(TEXTS, st.booleans(), st.integers(-(2**31), 2**31 - 1))
TIMES = st.integers(0, LAST_MS).map(time_of) | st.sampled_from(
    [
        "2026-11-24T20:00:00.123456789+05:30",
        "2026-11-24t20:00:00.120z",
        "2016-12-31T23:59:60Z",
        "9999-12-31T23:59:59-01:00",
    ]
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
DATA = st.one_of(
    JSON_VALUES.map(lambda value: {"data": value}),
    st.tuples(st.sampled_from([None, "application/json", "application/x+json; v=1"]), JSON_VALUES).map(
        lambda pair: {"datacontenttype": pair[0], "data": pair[1]}
    ),
    TEXTS.map(lambda text: {"datacontenttype": "text/plain", "data": text}),
    st.sampled_from(["", "AA==", "AAEC"]).map(lambda text: {"datacontenttype": "image/png", "data_base64": text}),
    st.just({}),
    st.just({"datacontenttype": "text/plain"}),
)


@st.composite
def cloud_events(draw: st.DrawFn, values: st.SearchStrategy[Any] = VALUES) -> dict[str, Any]:
    event = {"specversion": "1.0", "id": draw(TEXTS.filter(bool)), "source": "/s", "type": "t", "time": draw(TIMES)}
    for name in ("subject", "partitionkey"):
        if value := draw(TEXTS):
            event[name] = value
    event |= draw(st.dictionaries(NAMES, values, max_size=5))
    event |= {name: value for name, value in draw(DATA).items() if value is not None or name == "data"}
    return event


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(cloud_events(), min_size=1, max_size=4))
async def test_any_batch_comes_back_member_by_member(client: EdgeClient, batch: list[dict[str, Any]]) -> None:
    topic = await fresh(client)
    answer = await client.post(f"/v1/topics/{topic}/events", batch, media=MANY)
    assert answer.status == 200, answer.body
    # As text, so that true is not 1 and a number is not a string.
    found = [json.dumps(without_ours(event), sort_keys=True) for event in await kept(client, topic)]
    assert found == [json.dumps(event, sort_keys=True) for event in batch]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(event=cloud_events(TEXTS), body=st.binary(min_size=1, max_size=50))
async def test_any_bytes_in_binary_mode_come_back(client: EdgeClient, event: dict[str, Any], body: bytes) -> None:
    topic = await fresh(client)
    for name in ("data", "data_base64"):
        event.pop(name, None)
    event["datacontenttype"] = "application/octet-stream"
    answer = await client.post(f"/v1/topics/{topic}/events", body, headers=binary(event), media=None)
    assert answer.status == 200, answer.body
    (found,) = await kept(client, topic)
    assert b64decode(found.pop("data_base64")) == body
    assert without_ours(found) == event


@given(ms=st.integers(0, LAST_MS))
def test_every_millisecond_has_its_text(ms: int) -> None:
    text = time_of(ms)
    assert text is not None
    assert ms_of(text) == ms
    assert datetime.fromisoformat(text) == datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00.0019+01:00", 1),
        ("1969-12-31T23:00:00-01:00", 0),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000),
        ("1970-01-01T00:00:00", None),
        ("1970-01-01T24:00:00Z", None),
        ("1970-13-01T00:00:00Z", None),
        ("0000-01-01T00:00:00Z", None),
        ("1970-01-01T00:00:00Z\n", None),
        ("1970-01-01T00:00:00+0100", None),
        ("١٩٧٠-01-01T00:00:00Z", None),
    ],
)
def test_a_time_is_one_of_rfc_3339_or_none(text: str, ms: int | None) -> None:
    assert ms_of(text) == ms


# ----------------------------------------------------------------------------------- events that did not come as one


async def test_an_event_of_ours_becomes_a_cloud_event(client: EdgeClient, gateway: FakeGateway) -> None:
    payload = b'{ "n" : [-0.0, 1e2] }'
    body = (
        b'{"events":[{"event_type":"t","partition_key":"k","payload":%b,"timestamp_ms":1500,'
        b'"headers":{"tenant":"a","traceparent":"00-x","X-Trace":"1","id":"mine","time":"mine"}}],"partitions":1}'
    )
    assert (await client.post(EVENTS, body % payload)).status == 200
    answer = await client.get(EVENTS, headers=BATCH)
    assert b'"data":' + payload in answer.body
    at = str(gateway.events("orders")[0].position)
    assert answer.json() == [
        {
            "specversion": "1.0",
            "id": f"0-{at}",
            "source": "/v1/topics/orders",
            "type": "t",
            "time": "1970-01-01T00:00:01.500Z",
            "partitionkey": "k",
            "tenant": "a",
            "traceparent": "00-x",
            "openstreampartition": 0,
            "openstreamid": at,
            "datacontenttype": "application/json",
            "data": json.loads(payload),
        }
    ]


async def test_a_year_that_no_cloud_event_can_say_is_left_out(client: EdgeClient) -> None:
    for ms in (LAST_MS, LAST_MS + 1, MAX_INTEGER):
        await client.post(EVENTS, {"events": [{"event_type": "t", "payload": 1, "timestamp_ms": ms}], "partitions": 1})
    found = await kept(client)
    assert [event.get("time") for event in found] == ["9999-12-31T23:59:59.999Z", None, None]


LOOK_ALIKES = (
    "id source time type data datacontenttype dataschema data-encoding not-strings specversion x openstreamid "
    "partitionkey subject data_base64"
)
ODD_NAMES = st.sampled_from(
    [f"ce-{name}" for name in LOOK_ALIKES.split()]
    + ["ce-", "x", "X", "id", "data", "openstreamid", "a" * 21, "traceparent"]
)
ODD_VALUES = st.sampled_from(
    [
        "",
        "x",
        "base64",
        "none",
        "true",
        "1",
        '1,"id":"2"',
        "x,id,data",
        "text/plain",
        "\x1f",
        "/s",
        "a b",
        "1970-01-01T00:00:00Z",
    ]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    headers=st.dictionaries(ODD_NAMES, ODD_VALUES | st.text(st.characters(exclude_categories=["Cs"], min_codepoint=1))),
    payload=st.sampled_from([None, 1, "", "AA==", "x", {"a": 1}]),
)
async def test_whatever_headers_say_a_batch_holds_cloud_events_and_each_of_its_own(
    client: EdgeClient, headers: dict[str, str], payload: Any
) -> None:
    topic, copies = await fresh(client), await fresh(client)
    event = {"event_type": "t", "payload": payload, "headers": headers, "timestamp_ms": 7}
    answer = await client.post(f"/v1/topics/{topic}/events", {"events": [event, event]})
    assert answer.status == 200, answer.body
    batch = (await client.get(f"/v1/topics/{topic}/events", headers=BATCH)).body
    found = json.loads(batch, object_pairs_hook=once)
    assert len(found) == 2
    for one in found:
        assert (one["type"], one["openstreampartition"]) == ("t", 0)
        assert one["id"]
        assert one["source"]
    # They would be taken here, too, and come out the same again.
    again = await client.post(f"/v1/topics/{copies}/events", batch, media=MANY)
    assert again.status == 200, again.body
    assert [without_ours(one) for one in await kept(client, copies)] == [without_ours(one) for one in found]


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object none of whose members is there twice."""
    found = dict(pairs)
    assert len(found) == len(pairs), pairs
    return found


# ------------------------------------------------------------------------------------------------- groups and pages


async def test_a_group_reads_claims_and_acks_by_what_the_events_say(client: EdgeClient) -> None:
    await client.put("/v1/topics/orders", {"partitions": 2})
    await client.post("/v1/topics/orders/groups", {"group": "g", "start_id": "0-0"})
    assert (await client.post(f"{GROUP}/read", READ, headers=BATCH)).json() == []
    await client.post(EVENTS, [cloud_event(id=str(n), partitionkey=f"k{n}") for n in range(10)], media=MANY)
    answer = await client.post(f"{GROUP}/read", READ, headers=BATCH)
    assert (answer.headers["Content-Type"], answer.headers["Vary"]) == (MANY, "Accept, Origin")
    events = answer.json()
    assert sorted(int(event["id"]) for event in events) == list(range(10))
    assert {event["openstreamdeliveries"] for event in events} == {1}
    claimed = await client.post(f"{GROUP}/claim", {"consumer": "c2", "min_idle_ms": 0}, headers=BATCH)
    assert claimed.headers["Content-Type"] == MANY
    assert {event["openstreamdeliveries"] for event in claimed.json()} == {2}
    items = [
        {"partition": event["openstreampartition"], "redis_ids": [event["openstreamid"]]} for event in claimed.json()
    ]
    assert (await client.post(f"{GROUP}/ack", {"items": items})).json()["acked"] == 10


async def test_pages_are_linked(client: EdgeClient) -> None:
    await client.post(
        f"{EVENTS}?partitions=3", [cloud_event(id=str(n), partitionkey=f"k{n}") for n in range(50)], media=MANY
    )
    for path, number in ((EVENTS, 50), (FIRST, len(await kept(client, query="limit=5000")) and None)):
        where: str | None = f"{path}?limit=7&from_ms=1&event_type=order.created"
        seen: list[str] = []
        while where is not None:
            answer = await client.get(where, headers=BATCH)
            assert answer.status == 200, answer.body
            seen += [event["id"] for event in answer.json()]
            link = answer.headers.get("Link")
            where = None if link is None else link.removeprefix("<").removesuffix('>; rel="next"')
        whole = (await client.get(f"{path}?limit=5000")).json()["events"]
        assert seen == [event["headers"]["ce-id"] for event in whole]
        assert number in {None, len(seen)}


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/html, */*;q=0.1", "application/json"),
        ("application/*", "application/json"),
        (MANY, MANY),
        (f"{MANY}; charset=utf-8", MANY),
        (f"application/json;q=0.5, {MANY}", MANY),
        (f"{MANY};q=0.5, application/json", "application/json"),
        ("application/cloudevents+json", None),
        ("text/html", None),
        (f"{MANY};q=0", None),
    ],
)
async def test_who_asks_gets_what_he_likes_best_or_hears_what_there_is(
    client: EdgeClient, gateway: FakeGateway, accept: str, media: str | None
) -> None:
    await client.put("/v1/topics/orders", {"partitions": 1})
    await client.post("/v1/topics/orders/groups", {"group": "g", "start_id": "0-0"})
    await client.post(EVENTS, FULL, media=ONE)
    headers = {"Accept": accept}
    answers = [
        await client.get(EVENTS, headers=headers),
        await client.get(FIRST, headers=headers),
        await client.post(f"{GROUP}/read", READ, headers=headers),
        await client.post(f"{GROUP}/claim", {"consumer": "c2", "min_idle_ms": 0}, headers=headers),
    ]
    for answer in answers:
        assert "Accept" in answer.headers["Vary"]
        if media is None:
            assert MANY in answer.problem(406, "not-acceptable")["accepted"]
        else:
            assert (answer.status, answer.headers["Content-Type"]) == (200, media)
    assert (gateway.arrived + gateway.given_back) == (0 if media is None else 2)


# ------------------------------------------------------------------------------------- with the SDK of CloudEvents


async def test_the_official_sdk_speaks_with_us(client: EdgeClient) -> None:
    attributes = {
        "type": "order.created", "source": "/tills/7", "id": "ü 1", "subject": "7 %", "partitionkey": "k",
        "time": datetime(2026, 11, 24, 20, 0, 0, 123_456, tzinfo=UTC), "traceparent": FULL["traceparent"],
    }  # fmt: skip
    sent = [
        CloudEvent({**attributes, "datacontenttype": "application/json"}, {"order": ["ü", 1.5, None]}),
        CloudEvent({**attributes, "datacontenttype": "text/plain"}, "zwölf"),
        CloudEvent({**attributes, "datacontenttype": "application/octet-stream"}, b"\x00\xff"),
        CloudEvent(attributes, {"a": 1}),
        CloudEvent(attributes),
    ]
    for event in sent:
        message = sdk.to_structured_event(event)
        assert (await client.post(EVENTS, message.body, headers=message.headers, media=None)).status == 200
        message = sdk.to_binary_event(event)
        answer = await client.post(EVENTS, message.body, headers=message.headers, media=None)
        assert answer.status == 200, answer.body
    batch = await kept(client)
    found = [JSONFormat().read(None, json.dumps(one)) for one in batch]
    assert len(found) == 2 * len(sent)
    for number, one in enumerate(found):
        was = sent[number // 2]
        assert one.get_data() == was.get_data()
        assert {name: one.get_attributes().get(name) for name in was.get_attributes()} == was.get_attributes()

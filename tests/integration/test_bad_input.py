"""The issue's list of bad input, over raw HTTP to a real node: each gets its problem, and nothing is appended."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from openstream_ops.servers import EmbeddedServers
from support.client import PROBLEM, Client, Reply
from support.cluster import JWT_SECRET, Cluster
from support.partitions import redis_client

pytestmark = pytest.mark.timeout(120)

EVENTS = "/v1/topics/t/events"
GROUP = "/v1/topics/t/groups/workers"
MAX_BODY = 1 << 20


@pytest.fixture(scope="module")
def bad_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path_factory.mktemp("bad") / "servers", ephemeral=True) as servers:
        yield servers


@pytest.fixture(scope="module")
def client(bad_servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One node with topic `t` of 4 partitions, an event in it, and group `workers`."""
    logs: Path = tmp_path_factory.mktemp("logs")
    environment = {"MAX_BODY_BYTES": str(MAX_BODY), "OPENSTREAM_LOG_LEVEL": "info"}
    with Cluster(bad_servers, logs, nodes=1, environment=environment) as cluster:
        client = Client(cluster.url(0), cluster.token())
        client.put_topic("t", 4)
        client.make_group("t", "workers", "$")
        assert client.produce("t", ["here before"]).status == 200
        yield client
        assert cluster.is_running(0)
        assert "request failed" not in cluster.log(0)  # what a 500 would have left
        assert "actor crashed" not in cluster.log(0)


@pytest.fixture(autouse=True)
def _nothing_is_changed(client: Client, bad_servers: EmbeddedServers) -> Iterator[None]:
    before = look(client, bad_servers)
    yield
    assert look(client, bad_servers) == before
    assert client.get("/readyz").status == 200


def look(client: Client, servers: EmbeddedServers) -> Any:
    """Every stream with its last id, every topic, every group with its positions."""
    with redis_client(servers.redis_url) as valkey:
        names = sorted(valkey.scan_iter("os:stream:*"))
        streams = {name: (valkey.xlen(name), valkey.xinfo_stream(name)["last-generated-id"]) for name in names}
    group = client.get(GROUP).json
    places = [(one["last_delivered_id"], one["pending"], len(one["consumers"])) for one in group["partitions"]]
    return streams, client.get("/v1/topics").json, client.get("/v1/topics/t/groups").json, places


def check(reply: Reply, status: int, slug: str) -> None:
    """The problem, as RFC 9457 has it, and no word of what went on inside."""
    assert (reply.status, reply.slug) == (status, slug), reply
    told = reply.json
    assert told["status"] == status
    assert told["title"]
    assert told["detail"]
    assert reply.headers["content-type"] == PROBLEM
    assert "Traceback" not in reply.body.decode()
    assert ".py" not in reply.body.decode()
    if status == 401:
        assert reply.headers["www-authenticate"].startswith("Bearer")


def body(**changes: Any) -> bytes:
    """A good request to produce, with one of its events' members changed; None takes it out."""
    event = {"event_type": "t", "payload": {"a": 1}, **changes}
    return json.dumps({"events": [{name: value for name, value in event.items() if value is not None}]}).encode()


def around(payload: bytes) -> bytes:
    return b'{"events":[{"event_type":"t","payload":' + payload + b"}]}"


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"not json", b"{", b'{"events":[{"event_type":"t","payload":1}]', b'{"events":[}]', b"\xff\xfe{}",
        b'{"events":[{"event_type":"t","payload":1}]} and more', b"{'events': []}", around(b"NaN"), around(b"01"),
        around(b"Infinity"), around(b'"\x01"'), around(b'"\xff"'), around(b'"\xed\xa0\x80"'), around(b"tru"),
        b"event_type=t&payload=1", around(b"1,"), "{'x': 1}".encode("utf-16"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_a_400(client: Client, sent: bytes) -> None:
    check(client.request("POST", EVENTS, sent), 400, "not-json")


@pytest.mark.parametrize(
    "sent",
    [
        b"null", b"[]", b'"x"', b"1", b"{}", b'{"events":[]}', b'{"events":{}}', b'{"events":null}', b'{"events":[1]}',
        b'{"events":[[]]}', body(event_type=None), body(event_type=""), body(event_type=7), body(event_type="x" * 201),
        body(event_type="a\nb"), b'{"events":[{"event_type":"t"}]}', body(partition_key=7), body(partition_key=""),
        body(partition_key="k" * 1025), body(partition_key=["k"]), body(timestamp_ms=-1), body(timestamp_ms="now"),
        body(timestamp_ms=1.5), body(timestamp_ms=2**63), body(timestamp_ms=10**400), body(headers=[]),
        body(headers={"a": 1}), body(headers={str(number): "v" for number in range(65)}), body(partion_key="k"),
        body()[:-1] + b',"partitions":0}', body()[:-1] + b',"partitions":-1}', body()[:-1] + b',"partitions":1e3}',
        body()[:-1] + b',"partitions":100000}', body()[:-1] + b',"partitions":"4"}', body()[:-1] + b',"ack":"maybe"}',
        body()[:-1] + b',"ack":null}', body(payload="a\0b"), body(partition_key="a\0b"), body(payload={"a\0": 1}),
        around(b'"\\ud800"'), around(b'"\\udc00\\ud800"'), around(b'{"\\ud800":1}'),
        around(b"[" * 100_000 + b"]" * 100_000), body(headers={"a": "\0"}),
        around(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), around(b"1e999"), around(b"9" * 5_000),
    ],
)  # fmt: skip
def test_json_of_the_wrong_shape_or_range_is_a_422(client: Client, sent: bytes) -> None:
    check(client.request("POST", EVENTS, sent), 422, "invalid-request")


def test_more_events_than_a_request_may_hold_are_a_422(client: Client) -> None:
    check(client.produce("t", [0] * 5_001), 422, "invalid-request")


def test_one_bad_event_among_many_good_ones_takes_them_all_along(client: Client) -> None:
    events = [{"event_type": "t", "partition_key": f"k{number}", "payload": number} for number in range(100)]
    events[99]["event_type"] = 3
    reply = client.post(EVENTS, {"events": events})
    check(reply, 422, "invalid-request")
    assert reply.json["errors"][0]["loc"] == ["events", 99, "event_type"]


def test_a_body_that_is_too_large_is_a_413_said_or_chunked(client: Client) -> None:
    large = around(b'"' + b"x" * MAX_BODY + b'"')
    check(client.request("POST", EVENTS, large), 413, "body-too-large")
    pieces = (large[start : start + 50_000] for start in range(0, len(large), 50_000))
    check(client.request("POST", EVENTS, pieces), 413, "body-too-large")
    said = client.raw(client.message(EVENTS, b"", length=1 << 40), timeout=10)
    assert said.startswith(b"HTTP/1.1 413 ")  # before a byte of it was sent


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/xml"}, {"Content-Type": ""}, {"Content-Encoding": "gzip"},
        {"Content-Type": "multipart/form-data; boundary=x"},
    ],
)  # fmt: skip
def test_a_wrong_media_type_is_a_415(client: Client, headers: Mapping[str, str]) -> None:
    check(client.request("POST", EVENTS, body(), headers=headers), 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "name",
    ["a%0a", "%0a", "a\u00e9".encode().hex("%").join(("%", "")), "%7Bx%7D", "a:b", "a%3Ab", "x" * 201, "%00", "%ff",
     "a%20b", "..", "%2e%2e", ".", "*", "a%2Fb"],
)  # fmt: skip
def test_a_name_that_is_none_makes_no_topic_and_no_group(client: Client, name: str) -> None:
    bad = {422: "invalid-request", 404: "not-found"}  # a slash leads to another route, or to none
    for reply in (
        client.request("POST", f"/v1/topics/{name}/events", body()),
        client.request("PUT", f"/v1/topics/{name}", {"partitions": 2}),
        client.post(f"/v1/topics/t/groups/{name}/read", {"consumer": "c"}),
    ):
        assert reply.status in (*bad, 405), reply
        check(reply, reply.status, bad.get(reply.status, "method-not-allowed"))


@pytest.mark.parametrize("name", ["a\n", "", "{x}", "a:b", "x" * 201, "a\0", "\u2028", ".."])
def test_a_group_name_in_a_body_is_held_to_the_same(client: Client, name: str) -> None:
    check(client.post("/v1/topics/t/groups", {"group": name, "start_id": "$"}), 422, "invalid-request")


@pytest.mark.parametrize("consumer", ["", "a\nb", "\0", "x" * 201, "~os:released", 7, None, ["c"], "\u200b\n"])
def test_a_consumer_name_that_is_none_is_a_422(client: Client, consumer: Any) -> None:
    check(client.post(f"{GROUP}/read", {"consumer": consumer}), 422, "invalid-request")
    check(client.post(f"{GROUP}/claim", {"consumer": consumer, "min_idle_ms": 0, "count": 1}), 422, "invalid-request")


@pytest.mark.parametrize("method", ["read", "ack", "claim", "reset"])
def test_an_unknown_topic_or_group_is_a_404(client: Client, method: str) -> None:
    sent = {
        "read": {"consumer": "c", "count": 1, "block_ms": 0},
        "ack": {"items": [{"partition": 0, "redis_ids": ["1-0"]}]},
        "claim": {"consumer": "c", "min_idle_ms": 0, "count": 1},
        "reset": {"start_id": "0-0"},
    }[method]
    check(client.post(f"/v1/topics/t/groups/nobody/{method}", sent), 404, "not-found")
    check(client.post(f"/v1/topics/nowhere/groups/workers/{method}", sent), 404, "not-found")
    check(client.post("/v1/topics/nowhere/groups", {"group": "g", "start_id": "$"}), 404, "not-found")
    check(client.get("/v1/topics/nowhere"), 404, "not-found")


_IDS = ["x", "1", "-", "1-", "-1-0", "1-0-0", "1-x", " 1-0", "1-0 ", "+", "99999999999999999999-0",
        "1-99999999999999999999", "\u0661-0", "0x1-0", "1_0-0", "1-0\n", "$$", ""]  # fmt: skip


@pytest.mark.parametrize("redis_id", [*_IDS, "$", 7, None])
def test_an_id_that_is_none_is_a_422(client: Client, redis_id: Any) -> None:
    check(client.post(f"{GROUP}/ack", {"items": [{"partition": 0, "redis_ids": [redis_id]}]}), 422, "invalid-request")
    if redis_id not in ("$", None):
        check(client.post(f"{GROUP}/reset", {"start_id": redis_id}), 422, "invalid-request")
        check(client.post("/v1/topics/t/groups", {"group": "new", "start_id": redis_id}), 422, "invalid-request")


@pytest.mark.parametrize(
    ("method", "sent"),
    [
        ("read", {"consumer": "c", "count": -1}), ("read", {"consumer": "c", "count": 0}),
        ("read", {"consumer": "c", "count": 5_001}), ("read", {"consumer": "c", "count": "9"}),
        ("read", {"consumer": "c", "count": 1.5}), ("read", {"consumer": "c", "block_ms": -1}),
        ("read", {"consumer": "c", "block_ms": 30_001}), ("read", {"consumer": "c", "partitions": [4]}),
        ("read", {"consumer": "c", "partitions": [-1]}), ("read", {"consumer": "c", "partitions": []}),
        ("read", {"consumer": "c", "block": 1}), ("read", []), ("read", None),
        ("claim", {"consumer": "c", "min_idle_ms": -1, "count": 1}),
        ("claim", {"consumer": "c", "min_idle_ms": 0, "count": -5}),
        ("ack", {"items": [{"partition": 4, "redis_ids": ["1-0"]}]}),
        ("ack", {"items": [{"partition": -1, "redis_ids": ["1-0"]}]}),
        ("ack", {"items": {}}), ("ack", {"items": [{"partition": 0, "redis_ids": "1-0"}]}),
        ("reset", {}), ("reset", {"start_ms": -1}), ("reset", {"start_id": "0-0", "start_ms": 0}),
        ("reset", {"start_id": "0-0", "partitions": [99]}), ("reset", {"start_ms": 2**63}),
    ],
)  # fmt: skip
def test_counts_times_and_partitions_out_of_range_are_a_422(client: Client, method: str, sent: Any) -> None:
    # `null` is a body too, so it is not left to the client to leave it out.
    check(client.request("POST", f"{GROUP}/{method}", json.dumps(sent).encode()), 422, "invalid-request")


def test_another_partition_count_is_a_409(client: Client) -> None:
    check(client.produce("t", ["x"], partitions=5), 409, "conflict")
    check(client.request("PUT", "/v1/topics/t", {"partitions": 3}), 409, "conflict")


def jwt(claims: Mapping[str, Any], secret: str = JWT_SECRET, alg: str = "HS256") -> str:
    """A token made by hand."""

    def part(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    signed = f"{part(json.dumps({'alg': alg, 'typ': 'JWT'}).encode())}.{part(json.dumps(claims).encode())}"
    mac = b"" if alg == "none" else hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{part(mac)}"


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    good = {"iss": "openstream", "aud": "openstream", "sub": "me", "role": "admin", "iat": now, "exp": now + 600}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "token",
    [
        None, "", "x", "a.b.c", jwt(claims(), secret="another-secret-of-good-length-0123456789"),
        jwt(claims(), alg="none"), jwt(claims(exp=int(time.time()) - 3_600)), jwt(claims(exp=None)),
        jwt(claims(iss="somebody")), jwt(claims(aud="others")), jwt(claims(role="root")), jwt(claims(sub=None)),
    ],
)  # fmt: skip
def test_no_or_a_foreign_or_an_expired_token_is_a_401(client: Client, token: str | None) -> None:
    url = f"http://{client.host}:{client.port}"
    assert Client(url, jwt(claims())).get("/v1/topics/t").status == 200  # made by hand as these are, and good
    stranger = Client(url, token)
    check(stranger.request("POST", EVENTS, body()), 401, "unauthenticated")
    check(stranger.request("POST", "/v1/topics/brandnew/events", body()), 401, "unauthenticated")
    check(stranger.get("/v1/topics"), 401, "unauthenticated")


def test_the_wrong_role_or_topic_is_a_403(client: Client) -> None:
    def bearer(**changes: Any) -> Client:
        return Client(f"http://{client.host}:{client.port}", jwt(claims(**changes)))

    check(bearer(role="consumer").request("POST", EVENTS, body()), 403, "forbidden")
    check(bearer(role="producer").post(f"{GROUP}/read", {"consumer": "c"}), 403, "forbidden")
    check(bearer(role="producer").post(f"{GROUP}/reset", {"start_id": "0-0"}), 403, "forbidden")
    check(bearer(role="consumer").request("DELETE", "/v1/topics/t"), 403, "forbidden")
    check(bearer(topics=["other-*"]).request("POST", EVENTS, body()), 403, "forbidden")


def test_messages_that_disagree_with_themselves_are_refused(client: Client) -> None:
    good = client.message(EVENTS, body())
    both = good.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n", 1)
    for message in (
        both,
        good.replace(b"Content-Length: ", b"Content-Length: -", 1),
        good.replace(b"Content-Length: ", b"Content-Length: x", 1),
        good.replace(b"HTTP/1.1", b"HTTP/9.9", 1),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
    ):
        said = client.raw(message, timeout=3)
        assert b" 200 " not in said.partition(b"\r\n")[0], said[:200]
        assert b" 500 " not in said.partition(b"\r\n")[0], said[:200]


def test_a_body_that_breaks_off_appends_nothing(client: Client) -> None:
    whole = body()
    for kept in (0, 1, len(whole) // 2, len(whole) - 1):
        with client.connect() as stream:
            stream.sendall(client.message(EVENTS, whole[:kept], length=len(whole)))
    with client.connect() as stream:  # and one in chunks, without its last one
        head, _, _ = (
            client.message(EVENTS, b"")
            .replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
            .partition(b"\r\n\r\n")
        )
        stream.sendall(head + b"\r\n\r\n%x\r\n%b\r\n" % (len(whole), whole))

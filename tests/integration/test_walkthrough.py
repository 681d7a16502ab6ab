"""SEED.md, sections 2 to 7, word for word, against `openstream dev`: what a stranger types first must simply work."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest

from openstream_ops import ports
from ops.dev_process import Dev, processes_in
from support.client import Client
from support.partitions import count_stored, lengths, stored, wait_for

pytestmark = pytest.mark.timeout(180)

MINT = """curl -sS -X POST http://localhost:8000/v1/auth/token \\
  -H 'Content-Type: application/json' \\
  -d '{"sub":"me","role":"admin","admin_secret":"dev-admin-secret"}'"""
PRODUCE = """curl -sS -X POST "http://localhost:8000/v1/topics/orders/events" \\
  -H "Authorization: Bearer ${TOKEN}" \\
  -H "Content-Type: application/json" \\
  -d '{
    "events": [
      {"event_type":"order.created","partition_key":"user-1","payload":{"order_id":"o-1","amount":12.34}},
      {"event_type":"order.created","partition_key":"user-2","payload":{"order_id":"o-2","amount":98.76}}
    ],
    "partitions": 8
  }'"""
_POST = """curl -sS -X POST "http://localhost:8000/v1/topics/orders/groups%s" \\
  -H "Authorization: Bearer ${TOKEN}" \\
  -H "Content-Type: application/json" \\
  -d '%s'"""
GROUP_FROM_NOW = _POST % ("", '{"group":"orders-workers","start_id":"$"}')
GROUP_FROM_BEGINNING = _POST % ("", '{"group":"orders-replay","start_id":"0-0"}')
READ = _POST % ("/orders-workers/read", '{"consumer":"c1","count":100,"block_ms":1000}')
ACK = _POST % ("/orders-workers/ack", '{"items":[{"partition":0,"redis_ids":["1730000000000-0"]}]}')
CLAIM = _POST % ("/orders-workers/claim", '{"consumer":"c2","min_idle_ms":60000,"count":100}')
RESET = _POST % ("/orders-workers/reset", '{"start_id":"0-0"}')

READY_AGAIN_S = 5.0  # the issue's own figure
STOP_S = 10.0  # and this
PAYLOADS = [b'{"order_id":"o-1","amount":12.34}', b'{"order_id":"o-2","amount":98.76}']


class Shell:
    """Runs the document's commands with curl, or reads them where there is none; only the port is another."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.token = ""

    def __call__(self, command: str) -> Any:
        text = command.replace("localhost:8000", f"localhost:{self.port}")
        if shutil.which("curl"):
            environment = {**os.environ, "TOKEN": self.token, "no_proxy": "*"}
            done = subprocess.run(["sh", "-c", text], env=environment, capture_output=True, timeout=30, check=True)
            assert done.stderr == b""
            return json.loads(done.stdout)
        arguments = shlex.split(text.replace("\\\n", "").replace("${TOKEN}", self.token))
        pairs = list(itertools.pairwise(arguments))
        [address] = [urlsplit(argument) for argument in arguments if argument.startswith("http://")]
        headers = dict(value.split(": ", 1) for flag, value in pairs if flag == "-H")
        [body] = [value for flag, value in pairs if flag == "-d"]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", address.path, body, headers)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


Launch = Callable[..., Dev]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """`openstream dev` with the real node; whatever a failed test leaves is taken down."""
    started: list[Dev] = []

    def start(*arguments: str) -> Dev:
        started.append(Dev(list(arguments), tmp_path / "journal", "", [sys.executable, "-m", "openstream_ops"]))
        return started[-1]

    yield start
    for dev in started:
        if dev.process.poll() is None:
            dev.process.kill()  # its guardian does the rest
        dev.end()


def started(dev: Dev) -> float:
    """Wait for the banner; seconds since the launch."""
    began = time.monotonic()
    dev.wait_for("Ctrl-C stops")
    return time.monotonic() - began


def ended(dev: Dev, data: Path) -> float:
    """Ctrl-C: it exits 0 in time and leaves nothing; how many seconds that took."""
    family = psutil.Process(dev.process.pid).children(recursive=True)
    assert len(family) >= 3  # two servers and a node
    began = time.monotonic()
    dev.ctrl_c()
    assert dev.end() == 0, dev.output
    took = time.monotonic() - began
    wait_for(lambda: not any(one.is_running() for one in family), f"none of {family} is left", 5)
    assert processes_in(data) == []
    assert "Traceback" not in dev.output
    return took


def setting(data: Path, name: str) -> str:
    command = f'. "$1"; printf %s "${name}"'
    return subprocess.check_output(["sh", "-c", command, "sh", str(data / "env")], text=True)


def consecutive_ports(number: int) -> int:
    """The first of so many free ports in a row."""
    for _ in range(100):
        first = ports.pick("127.0.0.1")
        if all(ports.is_free("127.0.0.1", first + offset) for offset in range(number)):
            return first
    raise AssertionError(f"no {number} free ports in a row")


def test_the_walkthrough_works_word_for_word_and_a_restart_keeps_everything(launch: Launch, tmp_path: Path) -> None:
    data, port = tmp_path / "data", ports.pick("127.0.0.1")
    dev = launch("--data-dir", str(data), "--port", str(port))
    first_start = started(dev)
    database, redis_url = setting(data, "DATABASE_URL"), setting(data, "REDIS_URL")
    shell = Shell(port)

    minted = shell(MINT)
    assert minted["token_type"] == "bearer"
    assert minted["expires_in"] > 0
    shell.token = minted["token"]
    client = Client(f"http://127.0.0.1:{port}", shell.token)

    produced = shell(PRODUCE)
    assert (produced["topic"], produced["partitions"]) == ("orders", 8)
    old = [(result["partition"], result["redis_id"]) for result in produced["results"]]
    assert len(old) == 2
    assert old[0][0] != old[1][0]  # two keys that rendezvous hashing parts, today and for ever

    for command, group in ((GROUP_FROM_NOW, "orders-workers"), (GROUP_FROM_BEGINNING, "orders-replay")):
        made = shell(command)
        assert (made["topic"], made["group"], made["partitions"], made["created"]) == ("orders", group, 8, 8)
        assert (made["visibility"], made["dead_letter_topic"]) == ("appended", f"orders.dlq.{group}")

    nothing = shell(READ)
    assert nothing == {"topic": "orders", "group": "orders-workers", "consumer": "c1", "events": []}
    new = [(result["partition"], result["redis_id"]) for result in shell(PRODUCE)["results"]]
    got = shell(READ)["events"]
    assert sorted((event["partition"], event["redis_id"]) for event in got) == sorted(new)
    for event, key in zip(sorted(got, key=lambda one: str(one["partition_key"])), ("user-1", "user-2"), strict=True):
        assert event["event_type"] == "order.created"
        assert event["partition_key"] == key
        assert event["deliveries"] == 1
        assert abs(event["timestamp_ms"] - time.time() * 1000) < 60_000
    assert {json.dumps(event["payload"], separators=(",", ":")).encode() for event in got} == set(PAYLOADS)

    assert shell(ACK) == {"topic": "orders", "group": "orders-workers", "acked": 0}  # the document's id is nobody's
    assert client.ack("orders", "orders-workers", got) == 2
    claimed = shell(CLAIM)
    assert (claimed["consumer"], claimed["claimed"], claimed["events"]) == ("c2", 0, [])

    reset = shell(RESET)
    assert (reset["start_id"], reset["updated_partitions"], reset["discarded_pending"]) == ("0-0", 8, 0)
    everything = sorted(old + new)
    assert sorted((event["partition"], event["redis_id"]) for event in shell(READ)["events"]) == everything
    replayed = client.read("orders", "orders-replay", "r1")
    assert sorted((event["partition"], event["redis_id"]) for event in replayed) == everything
    assert client.ack("orders", "orders-replay", replayed[:3]) == 3

    wait_for(lambda: count_stored(database, "orders") == 4, "every event is in PostgreSQL", 15)
    assert [(partition, at) for partition, at, _ in stored(database, "orders")] == everything
    assert sorted(payload for _, _, payload in stored(database, "orders")) == sorted(PAYLOADS * 2)
    watch(client, everything)
    ask(database)

    # Something that is trimmed, to see that it stays so.
    assert client.request("PUT", "/v1/topics/brief", {"partitions": 1, "retention_ms": 100}).status == 201
    trimmed = client.produce("brief", ["gone from Redis"]).json["results"][0]["redis_id"]
    wait_for(lambda: lengths(redis_url, "brief", 1) == [0], "past its retention it is trimmed", 20)

    stop = ended(dev, data)
    assert stop < STOP_S

    again = launch("--data-dir", str(data), "--port", str(port))
    second_start = started(again)
    print(f"ready after {first_start:.1f} s, stopped in {stop:.1f} s, ready again after {second_start:.1f} s")
    assert second_start < READY_AGAIN_S
    # The old token is good, the servers are where they were, and nothing is new.
    topics = {topic["topic"]: topic["partitions"] for topic in client.get("/v1/topics").json["topics"]}
    assert topics == {"orders": 8, "brief": 1}
    group = client.get("/v1/topics/orders/groups/orders-replay").json
    assert group["pending"] == 1
    assert client.read("orders", "orders-replay", "r2") == []
    [held] = client.post(
        "/v1/topics/orders/groups/orders-replay/claim", {"consumer": "r2", "min_idle_ms": 0, "count": 10}
    ).json["events"]
    assert (held["redis_id"], held["deliveries"]) == (replayed[3]["redis_id"], 2)
    assert shell(READ)["events"] == []  # orders-workers had read to the end
    assert [(partition, at) for partition, at, _ in stored(database, "orders")] == everything
    assert lengths(redis_url, "brief", 1) == [0]
    later = client.produce("brief", ["later"]).json["results"][0]["redis_id"]
    assert tuple(map(int, later.split("-"))) > tuple(map(int, trimmed.split("-")))
    assert [result["partition"] for result in shell(PRODUCE)["results"]] == [partition for partition, _ in old]
    assert ended(again, data) < STOP_S


def ask(database: str) -> None:
    """The README's section on SQL: an administrator makes a login, and every query of it runs under that login."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = text.partition("## SQL over the log")[2].partition("\n## ")[0]
    grant, *queries = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    assert len(queries) == 3
    with psycopg.connect(database, autocommit=True) as administrator:
        administrator.execute(grant.encode())
    with psycopg.connect(database, user="analyst", password="choose-one", autocommit=True) as analyst:
        by_type, of_key, by_field = [analyst.execute(query.encode()).fetchall() for query in queries]
        assert [(event_type, number) for _, event_type, number in by_type] == [("order.created", 4)]
        assert (of_key, by_field) == ([], [])  # nobody's key; nothing was paid
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            analyst.execute("SELECT * FROM openstream.event_log")


def watch(client: Client, everything: list[tuple[int, str]]) -> None:
    """Section 7: the summary with all that API.md lists, and the metrics under the names of the first version."""

    def partitions() -> list[dict[str, Any]]:
        [topic] = [one for one in client.get("/v1/metrics/summary").json["topics"] if one["topic"] == "orders"]
        assert topic["partitions"] == 8
        found: list[dict[str, Any]] = topic["partition_stats"]
        return found

    def caught_up() -> bool:
        found = partitions()
        return sum(one["length"] for one in found) == 4 and all(one["unpersisted"] == 0 for one in found)

    wait_for(caught_up, "the sample shows all four events persisted", 15)
    last = dict(everything)  # in order, so the last one of a partition stays
    [node] = client.get("/v1/metrics/summary").json["nodes"]
    for number, one in enumerate(partitions()):
        assert one["partition"] == number
        assert one["stream"] == f"os:stream:orders:{number}"
        assert one["last_id"] == one["persisted_id"] == last.get(number, "0-0")
        assert one["owner"] == node["id"]
        groups = {group["name"]: group for group in one["groups"]}
        assert set(groups) == {"orders-workers", "orders-replay"}
        for group in groups.values():
            assert set(group) >= {"consumers", "pending", "lag", "last-delivered-id", "entries_read"}
    whole = client.get("/v1/metrics/summary").json
    assert whole["redis"]["used_memory"] > 0
    assert whole["redis"]["used_memory_human"]
    assert whole["postgres"]["ok"] is True
    unauthorised = Client(f"http://{client.host}:{client.port}")
    assert unauthorised.get("/v1/metrics/summary").status == 401
    assert unauthorised.get("/metrics/").status == 200  # as SEED.md has it: no token
    assert unauthorised.get("/metrics").headers["content-type"].startswith("text/plain")
    assert client.metric("openstream_ingest_events_total", topic="orders") == 4
    assert client.metric("openstream_ingest_bytes_total", topic="orders") == 2 * sum(map(len, PAYLOADS))
    assert client.metric("openstream_ingest_requests_total", status="200") == 2
    assert client.metric("openstream_consumer_read_events_total", topic="orders", group="orders-replay") == 4
    assert client.metric("openstream_consumer_ack_total", topic="orders", group="orders-replay") == 3
    route = "/v1/topics/<topic>/events"
    assert client.metric("openstream_http_request_duration_seconds_count", method="POST", path=route) == 2


def test_of_two_nodes_one_serves_what_the_other_took_in(launch: Launch, tmp_path: Path) -> None:
    data, port = tmp_path / "data", consecutive_ports(2)
    dev = launch("--data-dir", str(data), "--port", str(port), "--nodes", "2")
    started(dev)
    one, two = Shell(port), Shell(port + 1)
    one.token = two.token = one(MINT)["token"]
    produced = one(PRODUCE)["results"]
    two(GROUP_FROM_BEGINNING.replace("orders-replay", "orders-workers"))
    got = two(READ)["events"]
    assert sorted((event["partition"], event["redis_id"]) for event in got) == sorted(
        (result["partition"], result["redis_id"]) for result in produced
    )
    assert Client(f"http://127.0.0.1:{port}", one.token).ack("orders", "orders-workers", got) == 2
    assert two(READ)["events"] == []
    nodes = Client(f"http://127.0.0.1:{port}", one.token).get("/v1/cluster").json["nodes"]
    assert len({node["id"] for node in nodes}) == 2
    assert ended(dev, data) < STOP_S

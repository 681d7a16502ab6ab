"""The Python client and the command line against a real node, as their users have them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from openstream_client import Event, Forbidden, NotFound, OpenStream, SyncOpenStream
from openstream_ops import ports
from openstream_ops.servers import EmbeddedServers
from support.cluster import ADMIN_SECRET, Cluster

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def cluster(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(servers, tmp_path_factory.mktemp("nodes"), nodes=2) as cluster:
        yield cluster


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A name of the test's own: the servers are shared."""
    return f"cli.{os.getpid()}.{abs(hash(request.node.nodeid)) % 10**9}"


def environment(cluster: Cluster, token: str | None = None) -> dict[str, str]:
    urls = ",".join(cluster.urls)
    return {**os.environ, "OPENSTREAM_URL": urls, "OPENSTREAM_TOKEN": token or cluster.token(), "COLUMNS": "200"}


def openstream(
    cluster: Cluster, *arguments: str, stdin: str = "", token: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "openstream_ops", *arguments],
        env=environment(cluster, token), input=stdin, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# ---- the client


@pytest.mark.anyio
async def test_what_a_producer_sends_a_consumer_gets_once_and_in_order_for_each_key(
    cluster: Cluster, topic: str
) -> None:
    async with OpenStream(cluster.urls, cluster.token()) as client:
        await client.create_topic(topic, partitions=4)
        await client.create_group(topic, "all", start_id="0-0")
        async with client.producer(topic, lanes=2, batch_events=100) as producer:
            for number in range(1_000):
                await producer.send(Event("test", {"n": number}, f"k{number % 13}", {"h": "v"}))
        seen: dict[str | None, list[int]] = {}
        with anyio.fail_after(30):
            async with client.consume(topic, "all", prefetch=200) as messages:
                for _ in range(1_000):
                    message = await anext(messages)
                    assert message.headers == {"h": "v"}
                    seen.setdefault(message.partition_key, []).append(message.payload["n"])
                    await message.ack()
        assert sorted(number for numbers in seen.values() for number in numbers) == list(range(1_000))
        assert all(numbers == sorted(numbers) for numbers in seen.values())
        found = await client.group(topic, "all")
        assert (found.pending, found.lag) == (0, 0)


@pytest.mark.anyio
async def test_errors_of_a_real_node_are_typed(cluster: Cluster, topic: str) -> None:
    async with OpenStream(cluster.urls, cluster.token("consumer")) as client:
        with pytest.raises(NotFound):
            await client.topic(topic)
        with pytest.raises(Forbidden):
            await client.create_topic(topic)
        made = await client.mint_token("me", "producer", ADMIN_SECRET)
        assert made.token not in repr(made)
        assert "ok" in await client.readiness()
        assert abs(await client.clock() - time.time()) < 30


@pytest.mark.anyio
async def test_a_consumer_whose_node_is_gone_goes_on_at_another(cluster: Cluster, topic: str) -> None:
    async with OpenStream([f"http://127.0.0.1:{ports.pick('127.0.0.1')}", *cluster.urls], cluster.token()) as client:
        await client.produce(topic, Event("test", 1), partitions=1)
        await client.create_group(topic, "all", start_id="0-0")
        with anyio.fail_after(20):
            async with client.consume(topic, "all") as messages:
                assert (await anext(messages)).payload == 1


def test_the_client_without_await(cluster: Cluster, topic: str) -> None:
    with SyncOpenStream(cluster.urls, cluster.token()) as client:
        client.produce(topic, [Event("test", number) for number in range(3)], partitions=1)
        client.create_group(topic, "all", start_id="0-0")
        seen = []
        for message in client.consume(topic, "all"):
            seen.append(message.payload)
            message.ack()
            if len(seen) == 3:
                break
        assert seen == [0, 1, 2]
        assert client.group(topic, "all").pending == 0


@pytest.mark.anyio
async def test_history_in_pages_and_as_a_stream(cluster: Cluster, topic: str) -> None:
    async with OpenStream(cluster.urls, cluster.token()) as client:
        await client.create_topic(topic, partitions=3)
        for first in range(0, 900, 300):
            await client.produce(topic, [Event("test", n, f"k{n % 20}") for n in range(first, first + 300)])
        streamed = [event.payload async for event in client.stream_history(topic)]
        assert sorted(streamed) == list(range(900))
        paged, next_id = [], None
        while True:
            page = await client.history(topic, partition=1, limit=70, from_id=next_id)
            paged += [event.payload for event in page.events]
            next_id = page.next_id
            if next_id is None:
                break
        assert paged == [event.payload async for event in client.stream_history(topic, partition=1)]
        assert [event.payload async for event in client.stream_history(topic, key="k7", event_type="test")] == list(
            range(7, 900, 20)
        )


# ---- the commands


def test_a_topic_from_creation_to_deletion(cluster: Cluster, topic: str) -> None:
    (made,) = rows(openstream(cluster, "topic", "create", topic, "-p", "3", "--retention", "1h"))
    assert (made["partitions"], made["retention_ms"]) == (3, 3_600_000)
    assert openstream(cluster, "topic", "create", topic).returncode == 1
    (changed,) = rows(openstream(cluster, "topic", "alter", topic, "--history", "7d"))
    assert (changed["retention_ms"], changed["history_ms"]) == (3_600_000, 604_800_000)
    (changed,) = rows(openstream(cluster, "topic", "alter", topic, "--retention", "default"))
    assert (changed["retention_ms"], changed["history_ms"]) == (None, 604_800_000)
    assert topic in [row["topic"] for row in rows(openstream(cluster, "topic", "list"))]
    assert openstream(cluster, "topic", "delete", topic).returncode == 2
    assert rows(openstream(cluster, "topic", "delete", topic, "--yes")) == []
    assert openstream(cluster, "topic", "describe", topic).returncode == 1


def test_events_through_pipes_from_one_topic_into_another(cluster: Cluster, topic: str) -> None:
    for number in range(3):
        rows(openstream(cluster, "produce", topic, f'{{"n":  {number}}}', "-k", "same", "-p", "2"))
    taken = openstream(cluster, "consume", topic, "-g", "copier", "--create", "earliest")
    assert [row["payload"]["n"] for row in rows(taken)] == [0, 1, 2]
    assert '{"n":  1}' in taken.stdout  # as it was sent
    assert openstream(cluster, "produce", f"{topic}.copy", stdin=taken.stdout).returncode == 0
    copied = rows(openstream(cluster, "consume", f"{topic}.copy", "-g", "check", "--create", "earliest", "-n", "3"))
    assert [row["payload"]["n"] for row in copied] == [0, 1, 2]
    assert rows(openstream(cluster, "consume", topic, "-g", "copier")) == []


def test_a_reset_is_shown_before_it_is_done(cluster: Cluster, topic: str) -> None:
    rows(openstream(cluster, "produce", topic, "1", "-k", "k", "-p", "1"))
    rows(openstream(cluster, "consume", topic, "-g", "g", "--create", "earliest"))
    (before,) = rows(openstream(cluster, "group", "describe", topic, "g"))
    (shown,) = rows(openstream(cluster, "group", "reset", topic, "g", "--to", "earliest", "--dry-run"))
    assert (shown["from_id"], shown["to_id"]) == (before["partitions"][0]["last_delivered_id"], "0-0")
    assert (
        rows(openstream(cluster, "group", "describe", topic, "g"))[0]["partitions"][0]["last_delivered_id"]
        == (before["partitions"][0]["last_delivered_id"])
    )
    (done,) = rows(openstream(cluster, "group", "reset", topic, "g", "--to", "earliest", "--yes"))
    assert done["updated_partitions"] == 1
    assert len(rows(openstream(cluster, "consume", topic, "-g", "g"))) == 1


def test_ctrl_c_acknowledges_what_was_printed(cluster: Cluster, topic: str) -> None:
    rows(openstream(cluster, "produce", topic, "1", "-k", "k", "-p", "1"))
    with subprocess.Popen(
        [sys.executable, "-m", "openstream_ops", "consume", topic, "-g", "g", "--create", "earliest", "--follow"],
        env=environment(cluster), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["payload"] == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    (found,) = rows(openstream(cluster, "group", "describe", topic, "g"))
    assert (found["pending"], found["lag"]) == (0, 0)


def test_a_reader_that_has_enough_is_no_error(cluster: Cluster, topic: str) -> None:
    lines = "".join(json.dumps({"event_type": "t", "payload": "x" * 500}) + "\n" for _ in range(2_000))
    assert openstream(cluster, "produce", topic, stdin=lines).returncode == 0
    command = f"{sys.executable} -m openstream_ops consume {topic} -g g --create earliest | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=environment(cluster), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["event_type"] == "t"


def test_a_tail_shows_what_comes_and_moves_nobody(cluster: Cluster, topic: str) -> None:
    rows(openstream(cluster, "produce", topic, '"before"', "-k", "k", "-p", "1"))
    with subprocess.Popen(
        [sys.executable, "-m", "openstream_ops", "tail", topic, "-n", "2", "--from", "1h"],
        env=environment(cluster), stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["payload"] == "before"
        rows(openstream(cluster, "produce", topic, '"after"', "-k", "k"))
        assert json.loads(process.stdout.readline())["payload"] == "after"
        assert process.wait(20) == 0
    assert rows(openstream(cluster, "group", "list", topic)) == []


def test_a_replay_from_start_to_end(cluster: Cluster, topic: str) -> None:
    lines = "".join(json.dumps({"event_type": "t", "payload": number}) + "\n" for number in range(200))
    assert openstream(cluster, "produce", topic, "-p", "2", stdin=lines).returncode == 0
    rows(openstream(cluster, "topic", "create", f"{topic}.again", "-p", "2"))
    (started,) = rows(openstream(cluster, "replay", "start", topic, f"{topic}.again"))
    followed = rows(openstream(cluster, "replay", "status", started["replay_id"], "--follow"))
    assert (followed[-1]["state"], followed[-1]["copied"]) == ("done", 200)
    assert started["replay_id"] in [row["replay_id"] for row in rows(openstream(cluster, "replay", "list"))]
    assert openstream(cluster, "replay", "status", "nothing").returncode == 1


def test_the_state_of_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    (status,) = rows(openstream(cluster, "status"))
    assert status["nodes"] == 2
    assert status["redis_ok"]
    (tree,) = rows(openstream(cluster, "tree"))
    assert {"http", "ingestion", "partitions"} <= {child["id"] for child in tree["children"]}
    checks = {one["check"]: one for one in rows(openstream(cluster, "doctor"))}
    assert checks["node"]["state"] == checks["token"]["state"] == checks["postgres"]["state"] == "ok"
    assert "admin" in checks["token"]["detail"]
    wrong = openstream(cluster, "doctor", token="wrong")
    assert wrong.returncode == 4
    assert '"state":"failed"' in wrong.stdout


def test_a_token_from_the_command_is_one_that_works(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(ADMIN_SECRET)
    made = openstream(cluster, "token", "mint", "--role", "consumer", "--secret-file", str(tmp_path / "secret"))
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.split()) == 1
    (tmp_path / "token").write_text(made.stdout)
    assert openstream(cluster, "topic", "list", "--token-file", str(tmp_path / "token")).returncode == 0
    (tmp_path / "secret").write_text("not-the-secret")
    assert openstream(cluster, "token", "mint", "--secret-file", str(tmp_path / "secret")).returncode == 4


def test_the_demo_makes_every_number_move_and_ends_with_ctrl_c(cluster: Cluster) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "openstream_ops", "demo", "--seconds", "60"],
        env=environment(cluster), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            numbers = [int(word.replace(",", "")) for word in line.split() if word.replace(",", "").isdigit()]
            if "orders," in line and all(numbers[:3]):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(20) == 0
    assert "failed" not in rest
    groups = {row["group"] for row in rows(openstream(cluster, "group", "list", "demo.orders"))}
    assert groups == {"billing", "warehouse"}
    rows(openstream(cluster, "topic", "delete", "demo.orders", "--yes"))


def test_the_benchmark_counts_and_cleans_up(cluster: Cluster) -> None:
    (found,) = rows(openstream(cluster, "bench", "-n", "2000", "--lanes", "2", "-p", "2"))
    assert (found["events"], found["lost"], found["doubled"], found["out_of_order"]) == (2_000, 0, 0, 0)
    assert found["request_ms"]["p50"] <= found["request_ms"]["p99"] <= found["request_ms"]["max"]
    assert not [row for row in rows(openstream(cluster, "topic", "list")) if row["topic"].startswith("bench-")]

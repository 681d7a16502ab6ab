"""The Python client and the command on real nodes in trouble: lost answers, killed runs, slow and failing handlers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from typer.testing import CliRunner

from openstream_client import Event, Message, OpenStream
from openstream_client.models import Kept
from openstream_ops.cli import app
from openstream_ops.errors import OpsError
from openstream_ops.servers import EmbeddedServers
from support.cluster import Cluster
from support.tcp_proxy import tcp_proxy

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
    return f"trouble.{os.getpid()}.{abs(hash(request.node.nodeid)) % 10**9}"


def environment(cluster: Cluster) -> dict[str, str]:
    return {"OPENSTREAM_URL": ",".join(cluster.urls), "OPENSTREAM_TOKEN": cluster.token()}


def start(cluster: Cluster, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "openstream_ops", *arguments]
    env = {**os.environ, **environment(cluster)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def openstream(cluster: Cluster, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """A command in this process: exit code, rows, and what was said on standard error."""
    done = CliRunner().invoke(app, list(arguments), env=environment(cluster))
    failure = done.exception
    if failure is not None and not isinstance(failure, SystemExit | OpsError):
        raise failure
    code = failure.exit_code if isinstance(failure, OpsError) else done.exit_code
    return code, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


async def history(client: OpenStream, topic: str) -> list[Any]:
    return [event.payload async for event in client.stream_history(topic)]


# ---- producing


@pytest.mark.anyio
async def test_connections_cut_after_the_append_double_nothing(cluster: Cluster, topic: str) -> None:
    ports = [urlsplit(url).port or 0 for url in cluster.urls]
    async with tcp_proxy("127.0.0.1", ports[0]) as one, tcp_proxy("127.0.0.1", ports[1]) as two:
        urls = [f"http://127.0.0.1:{proxy.port}" for proxy in (one, two)]
        async with OpenStream(urls, cluster.token()) as client:
            await client.create_topic(topic, partitions=4)
            async with client.producer(topic, batch_events=50, lanes=2) as producer:
                receipts = []
                for number in range(1_000):
                    if number % 200 == 0:
                        for proxy in (one, two):
                            proxy.cut_after(b'"ack":"appended"}', delivered=number % 400 == 0)
                    receipts.append(await producer.send(Event("test", number, f"k{number % 7}")))
                    if number % 50 == 0:
                        await producer.flush()
            placed = [await receipt.placed() for receipt in receipts]
            found = await history(client, topic)
    assert one.cuts + two.cuts >= 5
    assert sorted(found) == list(range(1_000))
    assert any(place.duplicate for place in placed)
    for key in range(7):
        mine = [number for number in found if number % 7 == key]
        assert mine == sorted(mine)


def test_a_file_whose_run_is_killed_again_and_again_is_in_once(cluster: Cluster, topic: str, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    with file.open("w") as lines:
        for number in range(16_000):
            lines.write(json.dumps({"event_type": "t", "payload": number, "partition_key": f"k{number % 50}"}) + "\n")
    state = tmp_path / "state"
    produce = ("produce", topic, "-f", str(file), "-p", "4", "--state", str(state))
    for turn in range(3):
        process = start(cluster, *produce)
        deadline = time.monotonic() + 30
        before = state.read_text() if state.exists() else ""
        while (not state.exists() or state.read_text() == before) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT if turn == 1 else signal.SIGKILL)
        process.communicate(timeout=30)
    code, _, said = openstream(cluster, *produce)
    assert code == 0, said
    assert "going on after line" in said
    assert not state.exists()
    seen = Counter(
        row["payload"] for row in openstream(cluster, "consume", topic, "-g", "g", "--create", "earliest")[1]
    )
    assert len(seen) == 16_000
    assert set(seen.values()) == {1}


# ---- consuming


@pytest.mark.anyio
async def test_a_handler_that_is_slower_than_the_group_allows_keeps_its_event(cluster: Cluster, topic: str) -> None:
    async with OpenStream(cluster.urls, cluster.token()) as client:
        await client.produce(topic, [Event("test", number) for number in range(3)], partitions=1)
        await client.create_group(topic, "g", start_id="0-0", claim_idle_ms=900)
        async with (
            client.consume(topic, "g", consumer="slow", prefetch=3) as slow,
            client.consume(topic, "g", consumer="other") as other,
        ):
            async with await anext(slow) as first:
                with anyio.move_on_after(3) as waited:  # more than three times as long as it may be held
                    await anext(other)
                assert waited.cancelled_caught
            assert not first.lost
            assert [first.payload, (await anext(slow)).payload, first.deliveries] == [0, 1, 1]


@pytest.mark.anyio
async def test_what_handlers_fail_at_comes_again_until_it_is_a_dead_letter_and_goes_back(
    cluster: Cluster, topic: str
) -> None:
    seen: Counter[int] = Counter()

    async def work(message: Message) -> None:
        async with message:
            seen[message.payload] += 1
            if message.payload % 2:
                raise ValueError("odd")

    async with OpenStream(cluster.urls, cluster.token()) as client:
        await client.produce(topic, [Event("test", number) for number in range(10)], partitions=2)
        await client.create_group(topic, "g", start_id="0-0", max_deliveries=2)
        with anyio.fail_after(30):
            async with client.consume(topic, "g", nack_delay=0.05) as messages:
                while seen.total() < 15:
                    message = await anext(messages)
                    if message.payload % 2:
                        with pytest.raises(ValueError, match="odd"):
                            await work(message)
                    else:
                        await work(message)
            letters = (await client.dead_letters(topic, "g")).dead_letters
            while len(letters) < 5:  # the owner of the partition writes them
                await anyio.sleep(0.05)
                letters = (await client.dead_letters(topic, "g")).dead_letters
            assert {letter.reason for letter in letters} == {"nacked"}
            done = [one async for one in client.redrive_all(topic, "g")]
            assert sum(one.redriven for one in done) == 5
            async with client.consume(topic, "g", consumer="again") as messages:
                again = sorted([(await anext(messages)).payload for _ in range(5)])
    assert again == [1, 3, 5, 7, 9]
    assert seen == {number: 1 + number % 2 for number in range(10)}


# ---- the commands


def test_dead_letters_are_listed_and_sent_back(cluster: Cluster, topic: str) -> None:
    settings = ("--max-deliveries", "1", "--claim-idle", "30s")
    assert openstream(cluster, "topic", "create", topic, "-p", "1")[0] == 0
    code, (made,), _ = openstream(cluster, "group", "create", topic, "g", "--from", "earliest", *settings)
    assert (code, made["max_deliveries"], made["claim_idle_ms"], made["paused"]) == (0, 1, 30_000, False)

    async def fail() -> None:
        async with OpenStream(cluster.urls, cluster.token()) as client:
            await client.produce(topic, [Event("test", {"n": number}, "k") for number in range(3)])
            events: list[Kept] = []
            while len(events) < 3:
                events += await client.read(topic, "g", "c")
            done = await client.nack(topic, "g", {0: [event.redis_id for event in events]}, consumer="c")
            assert done.dead_lettered == 3
            with anyio.fail_after(20):
                while len((await client.dead_letters(topic, "g")).dead_letters) < 3:  # noqa: ASYNC110
                    await anyio.sleep(0.05)

    anyio.run(fail)
    code, rows, _ = openstream(cluster, "dlq", "list", topic, "g")
    assert (code, [row["payload"]["n"] for row in rows]) == (0, [0, 1, 2])
    assert {row["reason"] for row in rows} == {"nacked"}
    code, some, said = openstream(cluster, "dlq", "list", topic, "g", "-n", "2")
    assert (code, len(some)) == (0, 2)
    assert "there are more" in said
    assert openstream(cluster, "dlq", "redrive", topic, "g")[0] == 2
    code, (done,), said = openstream(cluster, "dlq", "redrive", topic, "g", rows[0]["letter_id"], "p0@1-1")
    assert (code, done["redriven"], done["unknown"]) == (1, 1, ["p0@1-1"])
    assert "no such letter: p0@1-1" in said
    assert openstream(cluster, "dlq", "redrive", topic, "g", "--all")[0] == 2  # nobody is here to confirm it
    code, (done,), _ = openstream(cluster, "dlq", "redrive", topic, "g", "--all", "--yes")
    assert (code, done["redriven"], done["already"]) == (0, 2, 1)
    assert openstream(cluster, "dlq", "list", topic, "g", "--waiting")[1] == []
    assert openstream(cluster, "dlq", "list", topic, "nobody")[0] == 1


def test_a_group_is_paused_altered_and_resumed(cluster: Cluster, topic: str) -> None:
    assert openstream(cluster, "topic", "create", topic, "-p", "1")[0] == 0
    assert openstream(cluster, "group", "create", topic, "g", "--from", "earliest", "--paused")[1][0]["paused"]
    assert openstream(cluster, "group", "alter", topic, "g")[0] == 2
    code, (found,), _ = openstream(cluster, "group", "alter", topic, "g", "--max-deliveries", "5")
    assert (code, found["max_deliveries"], found["paused"]) == (0, 5, True)
    assert (
        openstream(cluster, "group", "alter", topic, "g", "--max-deliveries", "default")[1][0]["max_deliveries"] is None
    )
    assert openstream(cluster, "group", "resume", topic, "g")[1][0]["paused"] is False
    assert openstream(cluster, "group", "pause", topic, "g")[1][0]["paused"] is True
    assert openstream(cluster, "group", "describe", topic, "g")[1][0]["paused"] is True

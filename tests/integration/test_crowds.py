"""Ten thousand who connect and say nothing, two thousand who wait: the others are served, and memory has a bound.

How fast the others are is printed beside what it was before, and decides nothing: that is the machine's.
"""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil  # type: ignore[import-untyped]
import pytest

from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import HOST, Cluster
from support.fire import Memory
from support.nodes import Nodes
from support.partitions import wait_for

pytestmark = [pytest.mark.anyio, pytest.mark.chaos, pytest.mark.timeout(400)]

SILENT, WAITING = 10_000, 2_000
#: Fewer than come, so that the bound is met; more than wait.
MOST_CONNECTIONS = 6_000
#: Of ten thousand silent ones, and of two thousand polls with their connections.
SILENT_MB, WAITING_MB = 400.0, 250.0
EVENT = b'{"events":[{"event_type":"t","payload":1}]}'


async def others(nodes: Nodes, seconds: float) -> list[float]:
    """How long requests of four ordinary clients take, sorted. Every one must be served."""
    took: list[float] = []
    until = time.monotonic() + seconds

    async def ask() -> None:
        while time.monotonic() < until:
            for method, path, body in (("POST", "/v1/topics/others/events", EVENT), ("GET", "/v1/topics/others", b"")):
                began = time.monotonic()
                answer = await nodes.request(method, path, body, timeout=20)
                took.append(time.monotonic() - began)
                assert answer.status == 200, answer

    async with anyio.create_task_group() as clients:
        for _ in range(4):
            clients.start_soon(ask)
    return sorted(took)


def p99(took: Sequence[float]) -> float:
    return took[len(took) * 99 // 100]


def connect(port: int, count: int, lines: list[socket.socket], stack: ExitStack) -> None:
    """So many connections more, most of which the node may end again before the last has come."""
    lines.extend(stack.enter_context(socket.create_connection((HOST, port), timeout=20)) for _ in range(count))


def connected(process: psutil.Process) -> int:
    """The node's connections with clients, those that have ended on one side included."""
    own = [one for one in process.net_connections("tcp") if one.raddr and one.status != psutil.CONN_LISTEN]
    return sum(one.laddr.port == int(process.cmdline()[-1]) for one in own)


async def test_ten_thousand_who_say_nothing_and_two_thousand_who_wait_keep_nobody_out(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    environment = {"OPENSTREAM_MAX_CONNECTIONS": str(MOST_CONNECTIONS), "OPENSTREAM_LOG_LEVEL": "info"}
    with Cluster(own_servers, tmp_path, nodes=1, environment=environment) as cluster:
        token, port = cluster.token(), int(cluster.url(0).rpartition(":")[2])
        client, node = Client(cluster.url(0), token), psutil.Process(cluster.pid(0))
        client.put_topic("others", 2)
        client.put_topic("waiting", 4)
        client.make_group("waiting", "g", "$")
        async with Nodes(cluster.urls, token) as nodes:
            await others(nodes, 2)  # warm
            for number in range(2):  # by turns, so that what else the machine does falls on both
                calm = await others(nodes, 4)
                with Memory(cluster.pid(0)) as memory, ExitStack() as crowd:
                    silent: list[socket.socket] = []
                    async with anyio.create_task_group() as coming:
                        coming.start_soon(anyio.to_thread.run_sync, connect, port, SILENT, silent, crowd)
                        coming_s = p99(await others(nodes, 6))
                    crowded = await others(nodes, 4)
                    assert client.get("/livez").status == 200
                    there = connected(node)
                    print(
                        f"round {number}: p99 {p99(calm) * 1e3:.1f} ms, in the crowd {p99(crowded) * 1e3:.1f} ms "
                        f"({p99(crowded) / p99(calm):.1f} times; while it comes {coming_s * 1e3:.1f} ms), "
                        f"{len(silent)} connected, {there} at once, {memory.grown_mb:.0f} MB more"
                    )
                    assert there <= MOST_CONNECTIONS + 100  # some are just being ended
                    assert memory.grown_mb < SILENT_MB
                    wait_for(partial(all_ended, silent), "whoever says nothing is not kept for long", 60, every_s=0.5)
                wait_for(lambda: connected(node) < 100, "and nothing is left of them", 30, every_s=0.5)
            calm = await others(nodes, 4)
            with Memory(cluster.pid(0)) as memory, ExitStack() as crowd:
                polls: list[socket.socket] = []
                await anyio.to_thread.run_sync(connect, port, WAITING, polls, crowd)
                for number, line in enumerate(polls):
                    body = json.dumps({"consumer": f"c{number}", "count": 1, "block_ms": 30_000}).encode()
                    line.sendall(client.message("/v1/topics/waiting/groups/g/read", body))
                wait_for(lambda: in_flight(client) > WAITING, "all of them are parked", 25)
                crowded = await others(nodes, 4)
                print(
                    f"{WAITING} polls: p99 {p99(calm) * 1e3:.1f} ms, beside them {p99(crowded) * 1e3:.1f} ms "
                    f"({p99(crowded) / p99(calm):.1f} times), {memory.grown_mb:.0f} MB more"
                )
                assert memory.grown_mb < WAITING_MB
                client.produce("waiting", [f"k{number}" for number in range(WAITING)])
                answers = await anyio.to_thread.run_sync(answers_of, polls)
            assert [answer for answer in answers if answer is None] == [], "every one was answered"
            handed = [event["redis_id"] + str(event["partition"]) for answer in answers for event in answer or ()]
            print(f"{len(handed)} of {WAITING} polls were answered with an event, the rest in their time with none")
            assert len(set(handed)) == len(handed), "none was handed out twice"
            assert handed
        assert cluster.is_running(0)


def in_flight(client: Client) -> int:
    """Requests the node serves at the moment, this one included, as its tree tells."""
    found = re.search(rb'"in_flight":\s*(\d+)', client.get("/v1/cluster").body)
    assert found is not None
    return int(found[1])


def all_ended(lines: Sequence[socket.socket]) -> bool:
    """Whether the node has closed every one of them. Nothing was ever sent, so what can be read is the end."""
    poller = select.poll()
    for line in lines:
        poller.register(line, select.POLLIN | select.POLLHUP)
    return len(poller.poll(0)) == len(lines)


def answers_of(lines: Sequence[socket.socket]) -> list[list[dict[str, Any]] | None]:
    """The events of each answer; None for who has got no answer within a minute in all."""
    until = time.monotonic() + 60
    answers: list[list[dict[str, Any]] | None] = []
    for line in lines:
        line.settimeout(max(0.01, until - time.monotonic()))
        answer = http.client.HTTPResponse(line)
        try:
            answer.begin()
            answers.append(json.loads(answer.read())["events"] if answer.status == 200 else None)
        except (OSError, http.client.HTTPException):
            answers.append(None)
    return answers

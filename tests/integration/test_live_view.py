"""The live view on a real node: what comes is seen as it comes, counted, and the streams end when the node does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import msgspec
import pytest

from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import Cluster

pytestmark = pytest.mark.anyio


class Listener:
    """Everything a stream has said, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.ended = anyio.Event()

    async def listen(self, client: Client, path: str) -> None:
        headers = {"Authorization": f"Bearer {client.token}"}
        async with (
            httpx2.AsyncClient(base_url=f"http://{client.host}:{client.port}", timeout=30) as http,
            http.stream("GET", path, headers=headers) as answer,
        ):
            assert answer.status_code == 200
            name = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    self.events.append((name, msgspec.json.decode(line[6:])))
        self.ended.set()

    def of(self, name: str) -> list[Any]:
        return [data for event, data in self.events if event == name]


async def until(claim: Callable[[], object], within_s: float = 20.0) -> None:
    with anyio.move_on_after(within_s):
        while not claim():  # noqa: ASYNC110 - what another process does has no event
            await anyio.sleep(0.02)
    assert claim(), f"not within {within_s} s"


SENT = [f"event {n}" for n in range(300)]


def produce_and_reset(client: Client) -> None:
    """300 events, 100 of them read, and two resets that are only tried."""
    for begin in range(0, 300, 50):
        keys = [f"key-{n}" for n in range(50)]
        assert client.produce("orders", SENT[begin : begin + 50], keys=keys).status == 200
    group = "/v1/topics/orders/groups/g"
    read = {"consumer": "c", "count": 100, "block_ms": 1000}
    assert len(client.post(f"{group}/read", read).json["events"]) == 100
    back = client.post(f"{group}/reset", {"start_id": "0-0", "dry_run": True}).json
    assert (sum(one["replayed"] for one in back["partitions"]), back["discarded_pending"]) == (100, 100)
    on = client.post(f"{group}/reset", {"start_id": "$", "dry_run": True}).json
    assert sum(one["skipped"] for one in on["partitions"]) == 201
    assert client.get(group).json["pending"] == 100, "a dry run changes nothing"


def payloads(tail: Listener) -> list[str]:
    return [event["payload"] for data in tail.of("events") for event in data["events"]]


def latest(live: Listener) -> Any:
    return live.of("snapshot")[-1]


async def test_a_node_watched_live_from_first_event_to_its_end(own_servers: EmbeddedServers, tmp_path: Path) -> None:
    with Cluster(own_servers, tmp_path, nodes=1) as cluster:
        client = Client(cluster.urls[0], cluster.token())
        assert client.produce("orders", ["before"], partitions=2).status == 200
        assert client.post("/v1/topics/orders/groups", {"group": "g", "start_id": "0-0"}).status == 201
        tail, live = Listener(), Listener()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tail.listen, client, "/v1/topics/orders/tail")
            tasks.start_soon(live.listen, client, "/v1/live?topic=orders")
            await until(lambda: tail.of("open"))
            await until(lambda: live.of("snapshot") and sum(latest(live)["detail"]["length"]) == 1)
            await anyio.to_thread.run_sync(produce_and_reset, client)
            await until(lambda: len(payloads(tail)) == 300)
            assert sorted(payloads(tail)) == sorted(SENT), "everything from now on, and nothing from before"
            assert all(data["dropped"] == 0 for data in tail.of("events"))

            await until(lambda: sum(latest(live)["detail"]["length"]) == 301)
            await until(lambda: latest(live)["topics"][0]["groups"][0]["lag"] == 201)
            assert any(one["topics"][0]["in_per_s"] > 0 for one in live.of("snapshot"))
            assert len(latest(live)["nodes"]) == 1

            began = anyio.current_time()
            await anyio.to_thread.run_sync(cluster.stop, 0)
            with anyio.fail_after(5):
                await tail.ended.wait()
                await live.ended.wait()
            assert anyio.current_time() - began < 10
        assert tail.of("bye") == live.of("bye") == [{"reason": "the node is draining"}]

"""An open-loop load: requests leave at their time whether or not earlier ones were answered, as crowds do."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import msgspec
import psutil  # type: ignore[import-untyped]
import psycopg

from support.nodes import Answer, Nodes


@dataclass(slots=True)
class Shot:
    """One request: the keys of its events, each used once in a test, and what came back."""

    keys: Sequence[str]
    answer: Answer
    took_s: float

    @property
    def slug(self) -> str:
        """Which problem it was; `ok`, or why there is none."""
        if self.answer.status == 200:
            return "ok"
        try:
            told = msgspec.json.decode(self.answer.body, type=dict[str, object])
        except msgspec.MsgspecError:
            return str(self.answer)
        return str(told.get("type", "")).removeprefix("/problems/")

    @property
    def is_promised_away(self) -> bool:
        """Whether the answer says, definitely, that nothing of it was kept."""
        if self.answer.status is None:
            return not self.answer.sent
        return self.answer.status not in (200, 503) or b'"outcome":"not_stored"' in self.answer.body


async def fire(
    nodes: Nodes, topic: str, name: str, *, requests: int, every_s: float, events: int, size: int, timeout: float = 25.0
) -> list[Shot]:
    """`requests` of `events` events of `size` bytes, one each `every_s`; back when all are answered or given up."""
    shots: list[Shot] = []
    fill = "x" * size

    async def shoot(number: int) -> None:
        keys = [f"{name}-{number}-{place}" for place in range(events)]
        body = msgspec.json.encode(
            {"events": [{"event_type": "t", "partition_key": key, "payload": fill} for key in keys]}
        )
        began = time.monotonic()
        answer = await nodes.post(f"/v1/topics/{topic}/events", body, timeout=timeout)
        shots.append(Shot(keys, answer, time.monotonic() - began))

    began = time.monotonic()
    async with anyio.create_task_group() as flying:
        for number in range(requests):
            await anyio.sleep(max(0.0, began + number * every_s - time.monotonic()))
            flying.start_soon(shoot, number)
    return shots


def stored_keys(database_url: str, topic: str) -> dict[str, int]:
    """How often each partition key stands in PostgreSQL."""
    query = "select partition_key, count(*) from openstream.events where topic = %s group by partition_key"
    with psycopg.connect(database_url) as connection:
        return {str(key): int(times) for key, times in connection.execute(query, (topic,))}


class Memory:
    """The resident memory of a process while the block runs, looked at often."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self.peak = int(self._process.memory_info().rss)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    @property
    def grown_mb(self) -> float:
        return (self.peak - self.before) / (1 << 20)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            try:
                self.peak = max(self.peak, int(self._process.memory_info().rss))
            except psutil.NoSuchProcess:
                return

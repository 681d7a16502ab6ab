"""What tests of the log share: a log of either kind, new topics, events, and appends that must succeed."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import anyio

from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.positions import ZERO, Cursor, Position, TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.groups import GroupLog
from openstream_runtime.ports.log import AppendBatch, Appended, AppendOutcome, EventLog, Tail
from openstream_runtime.ports.nodes import Leases, Members
from openstream_runtime.ports.producers import Producers

T = TypeVar("T")
PLENTY = 1_000_000
_ids = itertools.count(1)


class Log(Protocol):
    """RedisLog and FakeLog."""

    @property
    def events(self) -> EventLog: ...
    @property
    def producers(self) -> Producers: ...
    @property
    def groups(self) -> GroupLog: ...
    @property
    def leases(self) -> Leases: ...
    @property
    def members(self) -> Members: ...
    @property
    def tail(self) -> Tail: ...


def new_topic(partitions: int = 1) -> Topic:
    """A topic nobody else uses."""
    return Topic(next(_ids), f"t-{secrets.token_hex(8)}", partitions)


def at(topic: Topic, partition: int = 0) -> TopicPartition:
    return TopicPartition(topic.name, partition)


def event(text: str = "x", **fields: object) -> NewEvent:
    values: dict[str, object] = {"partition_key": None, "payload": f'"{text}"'.encode(), "timestamp_ms": 1}
    return NewEvent(event_type="test", **(values | fields))  # type: ignore[arg-type]


def events(count: int, **fields: object) -> list[NewEvent]:
    return [event(str(number), **fields) for number in range(count)]


def batch(topic: Topic, some: Sequence[NewEvent], partition: int = 0, **bounds: int) -> AppendBatch:
    return AppendBatch(
        topic, partition, some, bounds.get("max_stream_len", PLENTY), bounds.get("max_unpersisted", PLENTY)
    )


def cursor(position: Position = ZERO, generation: int = 0) -> Cursor:
    return Cursor(1, generation, position)


async def verified(log: Log, partitions: int = 1) -> Topic:
    """A new topic, every partition fit for appends."""
    topic = new_topic(partitions)
    for partition in range(partitions):
        await log.events.verify(topic, partition, cursor())
    return topic


async def append_one(
    log: Log, topic: Topic, some: Sequence[NewEvent], partition: int = 0, **bounds: int
) -> AppendOutcome:
    [outcome] = await log.events.append([batch(topic, some, partition, **bounds)])
    return outcome


async def appended(log: Log, topic: Topic, some: Sequence[NewEvent], partition: int = 0) -> list[Position]:
    outcome = await append_one(log, topic, some, partition)
    assert isinstance(outcome, Appended), outcome
    return list(outcome.positions)


async def owned(log: Log, topic: Topic, partition: int = 0) -> str:
    """A token that holds the partition's lease."""
    token = f"node:{secrets.token_hex(4)}"
    assert await log.leases.acquire(at(topic, partition), token, 600_000)
    return token


async def eventually(ask: Callable[[], Awaitable[T]], good: Callable[[T], bool], within: float = 10.0) -> T:
    """The first answer that is good."""
    with anyio.fail_after(within):
        while not good(answer := await ask()):  # noqa: ASYNC110  it is a server's state that we wait for
            await anyio.sleep(0.005)
    return answer

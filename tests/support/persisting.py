"""Persisters at work on fakes: what their tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from openstream_runtime.actors.persister import Persister
from openstream_runtime.actors.store_writer import StoreWriter, store_mailbox
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.topics import Topic
from supervisors import Context, Supervisor
from support.actors import Rig, running, supervised, tailer
from support.fake_redis import FakeStream
from support.fake_store import FakeStore

Start = Callable[[], Persister]


@asynccontextmanager
async def persisting(
    rig: Rig, topic: Topic, *, partitions: list[int] | None = None, tail: bool = True
) -> AsyncIterator[Supervisor]:
    """The tailer, the store writer and a persister for each partition, supervised as in a node."""
    writer = store_mailbox()
    specs = [tailer(rig)] if tail else []
    specs.append(StoreWriter.spec(rig.world, writer))
    for number in range(topic.partitions) if partitions is None else partitions:
        at = TopicPartition(topic.name, number)
        spec = Persister.spec(rig.world, topic, at, writer)
        specs.append(type(spec)(id=str(at), actor=spec.actor, grace=spec.grace))
    async with supervised(*specs, events=rig.events) as tree:
        yield tree


@asynccontextmanager
async def one_persister(rig: Rig, topic: Topic) -> AsyncIterator[tuple[Persister, Context]]:
    """One persister with a tailer and a store writer beside it; its context can stop it."""
    writer = store_mailbox()
    persister = Persister(rig.world, topic, TopicPartition(topic.name, 0), writer)
    async with supervised(tailer(rig), StoreWriter.spec(rig.world, writer)), running(persister) as ctx:
        yield persister, ctx


def only_trims_what_is_stored(monkeypatch: pytest.MonkeyPatch, store: FakeStore, topic: Topic) -> list[int]:
    """From now on a trim of anything that is not in PostgreSQL fails at once. What comes back counts the trims."""
    real = FakeStream.trim
    trims: list[int] = []

    def trim(stream: FakeStream, below: Position) -> int:
        stored = {
            (event.position, event.payload)
            for number in range(topic.partitions)
            for _, event in store.rows(topic.id, number)
        } | {
            (one.event.position, one.event.payload)
            for number in range(topic.partitions)
            for one in store.quarantined(topic.id, number)
        }
        for position, event in stream.entries.items():
            assert position >= below or (position, event.payload) in stored, f"{position} is trimmed and not stored"
        trims.append(real(stream, below))
        return trims[-1]

    monkeypatch.setattr(FakeStream, "trim", trim)
    return trims


async def pass_time(seconds: float) -> None:
    """Let virtual time go by."""
    await anyio.sleep(seconds)

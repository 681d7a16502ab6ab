"""Replays at work on fakes: a source with stored events, replayers, and what the target has in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from openstream_runtime.actors.replayer import Replayer
from openstream_runtime.domain.events import NewEvent, StoredEvent
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.replays import Replay, ReplayState, origin_of
from openstream_runtime.domain.topics import Topic
from openstream_runtime.gateway.replaying import Replaying, ReplayWish
from openstream_runtime.gateway.topics import Topics
from openstream_runtime.ports.log import AppendBatch, Appended
from supervisors import Supervisor
from support.actors import Rig, eventually, supervised, tailer
from support.persisting import persisting

KEYS = 7


async def produce(rig: Rig, topic: Topic, count: int, *, start: int = 0) -> None:
    """Numbered events, by turns over the partitions, one in five without a key; not persisted."""
    await rig.verify(topic)
    for number in range(start, start + count):
        key = None if number % 5 == 0 else f"k{number % KEYS}"
        batch = AppendBatch(
            topic, number % topic.partitions, [NewEvent("test", key, str(number).encode(), 1)], 10**9, 10**9
        )
        [outcome] = await rig.world.log.append([batch])
        assert isinstance(outcome, Appended), outcome


async def persist(rig: Rig, topic: Topic) -> None:
    """Have everything that is in Redis now stored."""
    async with persisting(rig, topic):
        await eventually(
            lambda: all(
                rig.store._partitions[topic.id, at.partition].position >= rig.redis.streams[at].last
                for at in topic.all_partitions()
                if at in rig.redis.streams
            )
        )


async def two_topics(rig: Rig, count: int = 60, *, source: int = 2, target: int = 3) -> tuple[Topic, Topic]:
    """`orders` with stored events, and an empty `copy`."""
    orders, copy = await rig.topic("orders", source), await rig.topic("copy", target)
    await produce(rig, orders, count)
    await persist(rig, orders)
    return orders, copy


async def ask(rig: Rig, **wish: Any) -> Replay:
    """A replay of `orders` into `copy`."""
    return await Replaying(rig.world, Topics(rig.world)).create("orders", ReplayWish("copy", **wish))


@asynccontextmanager
async def replaying(*rigs: Rig, target: Topic | None = None) -> AsyncIterator[list[Supervisor]]:
    """A replayer on each node; persisters for the target on the first one."""
    async with nested(list(rigs), target) as trees:
        yield trees


@asynccontextmanager
async def nested(rigs: list[Rig], target: Topic | None) -> AsyncIterator[list[Supervisor]]:
    if not rigs:
        yield []
        return
    rig, *rest = rigs
    async with supervised(tailer(rig), Replayer.spec(rig.world), events=rig.events) as tree:
        if target is None:
            async with nested(rest, None) as others:
                yield [tree, *others]
        else:
            async with persisting(rig, target, tail=False), nested(rest, None) as others:
                yield [tree, *others]


async def ended(rig: Rig, replay: Replay, state: ReplayState = ReplayState.DONE, *, within: float = 600.0) -> Replay:
    """The replay once it has ended and nobody looks after it any more; it must be in that state."""
    rows = rig.store.replays._rows
    await eventually(lambda: rows[replay.id].settled, within=within)
    found = rows[replay.id].replay
    assert found.state is state, found
    return found


def in_target(rig: Rig, copy: Topic) -> dict[int, list[StoredEvent]]:
    """What each partition of the target has, in PostgreSQL or in Redis, in order."""
    found: dict[int, list[StoredEvent]] = {}
    for at in copy.all_partitions():
        events = {event.position: event for _, event in rig.store.rows(copy.id, at.partition)}
        stream = rig.redis.streams.get(TopicPartition(copy.name, at.partition))
        events |= stream.entries if stream else {}
        found[at.partition] = [events[position] for position in sorted(events)]
    return found


def check_once(rig: Rig, copy: Topic, replay: Replay, numbers: Mapping[int, object] | range) -> None:
    """Each of these events once, and one source partition in its order inside each target partition."""
    found = in_target(rig, copy)
    payloads = sorted(int(event.payload) for events in found.values() for event in events)
    assert payloads == sorted(numbers)
    for events in found.values():
        for source in range(64):
            origins = [origin_of(event.headers, "orders", source, replay.id) for event in events]
            places: list[Position] = [origin for origin in origins if origin is not None]
            assert places == sorted(set(places))

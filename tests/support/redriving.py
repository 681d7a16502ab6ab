"""Dead letters at the gateway: a topic, a group that gives up at once, and what became of its events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from openstream_runtime.actors.dead_letters import DeadLetters
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.topics import Topic, TopicSettings
from openstream_runtime.gateway.dead_letters import Letter
from support.actors import Rig
from support.desk import Desk, items

DLQ = "orders.dlq.g"


async def set_to(desk: Desk, group: str = "g", **settings: Any) -> None:
    await desk.gateway.alter_group("orders", group, lambda known: replace(known, **settings))


async def dead_topic(rig: Rig, desk: Desk, *events: int, partitions: int = 1) -> Topic:
    """Topic `orders` whose group `g` gave up on all of these; another group, `h`, has read none."""
    topic, _ = await desk.gateway.put_topic("orders", partitions, TopicSettings())
    for group in ("g", "h"):
        await desk.gateway.create_group("orders", group, start_id="0-0", start_ms=None)
    await set_to(desk, max_deliveries=1)
    for number in range(partitions):
        await rig.append(topic, *events[number::partitions], partition=number)
    await give_up(rig, desk, topic)
    return topic


async def give_up(rig: Rig, desk: Desk, topic: Topic) -> None:
    """`g` gives back all it can read, and the owners do their work."""
    while (held := await desk.read()).deliveries:
        held.arrived()
        await desk.gateway.nack("orders", "g", items(held), consumer=None, delay_ms=0)
    group = await desk.gateway.group("orders", "g")
    for at in topic.all_partitions():
        await DeadLetters(rig.world, topic, at).move(group)


async def listed(desk: Desk, *, limit: int = 100) -> list[Letter]:
    """Every dead letter, page by page."""
    found: list[Letter] = []
    page = await desk.gateway.dead_letters("orders", "g", limit=limit)
    while True:
        found += page.letters
        if page.next is None:
            return found
        page = await desk.gateway.dead_letters("orders", "g", limit=limit, at=page.next)


def standing(rig: Rig, topic: str = "orders") -> list[StoredEvent]:
    streams = [stream for at, stream in sorted(rig.redis.streams.items()) if at.topic == topic]
    return [event for stream in streams for event in stream.entries.values()]

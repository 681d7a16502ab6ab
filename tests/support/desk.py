"""A gateway with its ingestors, readers, confirmer and tailer on fakes: what a test of the gateway begins with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from openstream_runtime.actors.confirmer import Confirmer
from openstream_runtime.actors.group_reader import Message
from openstream_runtime.actors.ingestor import Append
from openstream_runtime.actors.pool import Pool
from openstream_runtime.domain.positions import Position
from openstream_runtime.gateway.gateway import Gateway
from openstream_runtime.gateway.groups import reader_pool
from openstream_runtime.gateway.pressure import Pressure
from openstream_runtime.gateway.produce import ingest_pool
from openstream_runtime.gateway.results import Handout
from openstream_runtime.ports.groups import GroupRead
from openstream_runtime.ports.log import AppendOutcome
from supervisors import Supervisor
from support.actors import Rig, supervised, tailer


@dataclass
class Desk:
    """The gateway, and what is behind it."""

    rig: Rig
    gateway: Gateway
    ingestors: Pool[Append, dict[int, AppendOutcome]]
    readers: Pool[Message, GroupRead | int]
    tree: Supervisor

    @property
    def pressure(self) -> Pressure:
        return self.gateway._producing._pressure

    async def read(self, topic: str = "orders", group: str = "g", consumer: str = "c", **options: object) -> Handout:
        count, block_ms = options.pop("count", 100), options.pop("block_ms", 0)
        partitions = options.pop("partitions", None)
        assert isinstance(count, int)
        assert isinstance(block_ms, int)
        assert partitions is None or isinstance(partitions, list)
        return await self.gateway.read(topic, group, consumer, count=count, block_ms=block_ms, partitions=partitions)


def payloads(handout: Handout) -> list[str]:
    return [delivery.event.payload.decode() for delivery in handout.deliveries]


def items(handout: Handout) -> dict[int, list[Position]]:
    """As a consumer acks it."""
    found: dict[int, list[Position]] = {}
    for delivery in handout.deliveries:
        found.setdefault(delivery.partition, []).append(delivery.event.position)
    return found


def texts(produced: Sequence[tuple[int, Position]], rig: Rig, topic: str) -> list[str]:
    """The payloads that stand where a produce request was told they stand."""
    streams = {at.partition: stream for at, stream in rig.redis.streams.items() if at.topic == topic}
    return [streams[partition].entries[position].payload.decode() for partition, position in produced]


@asynccontextmanager
async def open_desk(rig: Rig) -> AsyncIterator[Desk]:
    """Everything running."""
    ingestors, readers = ingest_pool(rig.world), reader_pool(rig.world)
    desk: Desk
    gateway = Gateway(
        rig.world,
        ingestors,
        readers,
        tree=lambda: desk.tree.snapshot(),
        exposition=lambda accept: (accept or "text/plain", b"# nothing\n"),
    )
    specs = [tailer(rig), ingestors.spec(), Confirmer.spec(rig.world), readers.spec()]
    async with supervised(*specs, events=rig.events) as tree:
        desk = Desk(rig, gateway, ingestors, readers, tree)
        yield desk

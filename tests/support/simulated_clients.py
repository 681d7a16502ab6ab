"""Producers and consumers of a simulation: they call gateways as the edge does, and record what they did and saw."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar

import anyio

from openstream_runtime.domain.errors import (
    Conflict,
    OpenStreamError,
    OutcomeUnknown,
    Overloaded,
    PartlyDone,
    Unavailable,
)
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.producers import Stamp
from openstream_runtime.gateway.gateway import Gateway
from openstream_runtime.gateway.results import Handout, Produced
from support.desk import items as items_of
from support.history import Ack, Delivered, Ev, History, Read, parse_id, payload_of, seen

T = TypeVar("T")
PARTITIONS = 2
KEYS = ("a", "b", "c", "d", "e")
#: Seconds after which a client gives up on an answer.
PATIENCE = 20.0


class NoAnswer(Exception):
    """The node died with the request, or never answered."""


class Nodes(Protocol):
    """Any of the nodes that live."""

    async def call(self, request: Callable[[Gateway], Awaitable[T]], *, patience: float = PATIENCE) -> T:
        """What the request came to; NoAnswer."""


@dataclass(slots=True)
class SimulatedProducer:
    """Sends batches, one after the other. One that `repeats` stamps its requests and asks until it has an answer."""

    history: History
    nodes: Nodes
    chance: Random
    name: str
    events: int
    repeats: bool
    pause: float
    seq: int = 0

    async def run(self) -> None:
        while self.seq < self.events:
            await anyio.sleep(self.chance.random() * self.pause)
            count = min(self.chance.randint(1, 6), self.events - self.seq)
            batch = {(self.name, self.seq + n): self.chance.choice(KEYS) for n in range(count)}
            for ev, key in batch.items():
                self.history.invoke(ev, key, payload_of(ev, key))
            stamp = Stamp(self.name, 0, self.seq) if self.repeats else None
            self.seq += count
            while batch:
                await self._ask(batch, stamp)
                if batch:
                    await anyio.sleep(0.05 + self.chance.random() * 0.3)

    async def _ask(self, batch: dict[Ev, str], stamp: Stamp | None) -> None:
        """One request; what has come to its end is taken out of the batch, and what was refused stays in it."""
        events = [NewEvent("t", key, payload_of(ev, key), 1) for ev, key in batch.items()]

        async def produce(gateway: Gateway) -> Produced:
            return await gateway.produce(self.history.topic, events, partitions=PARTITIONS, stamp=stamp)

        try:
            done = await self.nodes.call(produce)
        except (Overloaded, Unavailable):
            return  # nothing was kept
        except (NoAnswer, OutcomeUnknown):
            if stamp is None:
                self._lose_track(batch)
            return
        except Conflict as error:
            raise AssertionError(f"{self.name}: {error!r} {error.facts}") from error
        except PartlyDone as error:
            if stamp is None:
                self._settle_parts(batch, error.facts["results"])
            return
        for ev, (partition, position) in zip(list(batch), done.results, strict=True):
            self.history.succeed(ev, partition, (position.ms, position.seq))
        batch.clear()

    def _settle_parts(self, batch: dict[Ev, str], results: list[dict[str, Any]]) -> None:
        for ev, result in zip(list(batch), results, strict=True):
            if "redis_id" in result:
                self.history.succeed(ev, result["partition"], parse_id(result["redis_id"]))
                del batch[ev]
            elif result["status"] == "unknown":
                self.history.lose_track(ev)
                del batch[ev]

    def _lose_track(self, batch: dict[Ev, str]) -> None:
        for ev in batch:
            self.history.lose_track(ev)
        batch.clear()


@dataclass(slots=True)
class SimulatedConsumer:
    """Reads, or claims, and acks: not always, not at once, and not always waiting for the answer."""

    history: History
    nodes: Nodes
    chance: Random
    group: str
    name: str
    #: From then on it acks everything and leaves nothing lying.
    tidy: bool = False

    async def run(self) -> None:
        """For ever."""
        while True:
            got = await self._fetch()
            if got is None:
                await anyio.sleep(0.05 + self.chance.random() * 0.2)
                continue
            await anyio.sleep(self.chance.choice((0.0, 0.0, 0.1, 1.0)))
            if got and (self.tidy or self.chance.random() < 0.85):
                await self._ack(got)

    async def _fetch(self) -> dict[int, list[Any]] | None:
        """What is held now, by partition; None when there was no answer."""
        claims = self.chance.random() < 0.15
        count, block_ms = self.chance.randint(1, 12), self.chance.choice((0, 200, 2_000))
        leaves = not self.tidy and self.chance.random() < 0.1
        invoked = anyio.current_time()
        record = Read(self.group, self.name, invoked, invoked, ok=False, is_claim=claims)

        async def fetch(gateway: Gateway) -> Handout:
            if claims:
                return await gateway.claim(self.history.topic, self.group, self.name, min_idle_ms=1_500, count=count)
            return await gateway.read(self.history.topic, self.group, self.name, count=count, block_ms=block_ms)

        try:
            handout = await self.nodes.call(fetch, patience=0.1 if leaves else PATIENCE)
            if leaves:
                handout.give_back()
                return None
            handout.arrived()
            record.items = [
                Delivered(
                    seen(
                        one.partition,
                        (one.event.position.ms, one.event.position.seq),
                        one.event.partition_key,
                        one.event.payload,
                    ),
                    one.deliveries,
                )
                for one in handout.deliveries
            ]
            record.ok = True
            return items_of(handout)
        except (OpenStreamError, NoAnswer):
            return None
        finally:
            record.ended = anyio.current_time()
            self.history.saw(record)

    async def _ack(self, held: dict[int, list[Any]]) -> None:
        places = [(partition, (at.ms, at.seq)) for partition, positions in held.items() for at in positions]
        for _ in range(3):
            invoked = anyio.current_time()
            record = Ack(self.group, self.name, invoked, invoked, ok=False, items=places)
            try:
                record.acked = await self.nodes.call(lambda gateway: gateway.ack(self.history.topic, self.group, held))
                record.ok = True
                return
            except (OpenStreamError, NoAnswer):
                await anyio.sleep(self.chance.random() * 0.2)
            finally:
                record.ended = anyio.current_time()
                self.history.acks.append(record)

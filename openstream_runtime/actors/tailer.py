"""The tailer: one blocking read for the whole node, on behalf of everybody who waits for events.

Who waits says after which positions. A ticket is woken once, by the first event after one of them, and is then done:
so a busy stream costs one wake-up per wait and not one per event.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import anyio
import structlog

from openstream_runtime.actors.board import Changed
from openstream_runtime.actors.pacing import Retry, pause
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.ports.log import Tail
from supervisors import ChildSpec, Context

_log = structlog.get_logger(__name__)

BLOCK = 5.0  # seconds a read blocks at most; shorter than every timeout around it


class Ticket:
    """Somebody's wish to be woken. Use it once; `close` it when it is not needed any more."""

    def __init__(self, watch: Watch, positions: Mapping[TopicPartition, Position], wake: Callable[..., None]) -> None:
        self._watch = watch
        self._wake = wake
        self.positions = dict(positions)
        #: Woken, or closed.
        self.done = False

    def close(self) -> None:
        self.done = True
        self._watch.forget(self)

    def fire(self, moved: list[TopicPartition]) -> None:
        self.close()
        self._wake(moved)


class Watch:
    """Who waits for what. Lives outside the tree; the tailer serves it."""

    def __init__(self) -> None:
        self._tickets: dict[TopicPartition, set[Ticket]] = defaultdict(set)
        self._rang: dict[str, Callable[[list[str]], None]] = {}
        self._heard: dict[str, Changed] = {}
        #: Told when a ticket comes that the running read does not cover.
        self.grown = Changed()
        self._covered: Mapping[TopicPartition, Position] = {}

    def wait_for(
        self, positions: Mapping[TopicPartition, Position], wake: Callable[[list[TopicPartition]], None]
    ) -> Ticket:
        """`wake` is called, once, with the partitions that got an event after the given position. It must not wait."""
        ticket = Ticket(self, positions, wake)
        uncovered = False
        for at, position in positions.items():
            self._tickets[at].add(ticket)
            covered = self._covered.get(at)
            uncovered = uncovered or covered is None or covered > position
        if uncovered:
            self.grown.tell()
        return ticket

    def forget(self, ticket: Ticket) -> None:
        for at in ticket.positions:
            tickets = self._tickets.get(at)
            if tickets is not None:
                tickets.discard(ticket)
                if not tickets:
                    del self._tickets[at]

    def on_bell(self, kind: str, ring: Callable[[list[str]], None]) -> None:
        """`ring` is called with the rest of each bell `kind:rest` that rang. It must not wait."""
        self._rang[kind] = ring

    @contextmanager
    def hearing(self, bell: str) -> Iterator[Changed]:
        """Told whenever exactly this bell rang. For one listener: the last one to come hears it."""
        told = self._heard[bell] = Changed()
        try:
            yield told
        finally:
            if self._heard.get(bell) is told:
                del self._heard[bell]

    def begin(self) -> dict[TopicPartition, Position]:
        """What to read now: for each partition the lowest position anybody waits after."""
        covered = {
            at: min(ticket.positions[at] for ticket in tickets) for at, tickets in self._tickets.items() if tickets
        }
        self._covered = covered
        return covered

    def moved(self, tails: Mapping[TopicPartition, Position]) -> None:
        """Wake everybody who waits for an event at or before these tails."""
        woken: dict[Ticket, list[TopicPartition]] = defaultdict(list)
        for at, tail in tails.items():
            for ticket in self._tickets.get(at, ()):
                if ticket.positions[at] < tail:
                    woken[ticket].append(at)
        for ticket, partitions in woken.items():
            ticket.fire(partitions)

    def rang(self, bells: list[str]) -> None:
        by_kind: dict[str, list[str]] = defaultdict(list)
        for bell in bells:
            kind, _, rest = bell.partition(":")
            by_kind[kind].append(rest)
            if (told := self._heard.get(bell)) is not None:
                told.tell()
        for kind, rests in by_kind.items():
            if (ring := self._rang.get(kind)) is not None:
                ring(rests)

    def wake_all(self) -> None:
        """After trouble nobody knows what was missed: everybody looks for himself."""
        for ticket in {ticket for tickets in self._tickets.values() for ticket in tickets}:
            ticket.fire(list(ticket.positions))

    def __len__(self) -> int:
        return len({ticket for tickets in self._tickets.values() for ticket in tickets})


class Tailer:
    """Runs the blocking read, and breaks into it when somebody new waits."""

    def __init__(self, tail: Tail, watch: Watch) -> None:
        self._tail = tail
        self._watch = watch

    @classmethod
    def spec(cls, tail: Tail, watch: Watch, *, grace: float) -> ChildSpec:
        return ChildSpec(id="tailer", actor=lambda: cls(tail, watch), grace=grace)

    def describe(self) -> dict[str, object]:
        return {"waiting": len(self._watch)}

    async def run(self, ctx: Context) -> None:
        ctx.ready()
        retry = Retry(most=1.0)
        async with anyio.create_task_group() as tasks:
            while not ctx.stopping.is_set():
                grown = self._watch.grown.mark()
                positions = self._watch.begin()
                try:
                    tasks.start_soon(self._interrupt_when, ctx, grown, done := anyio.Event())
                    try:
                        news = await self._tail.wait(positions, BLOCK)
                    finally:
                        done.set()
                except OpenStreamError as error:
                    if retry.failures == 0:
                        _log.warning("the tail broke; readers look for themselves until it is back", error=str(error))
                    self._watch.wake_all()
                    await pause(ctx, retry.delay())
                    continue
                if retry.failures:
                    retry.succeeded()
                    self._watch.wake_all()
                self._watch.moved(news.moved)
                self._watch.rang(list(news.bells))

    async def _interrupt_when(self, ctx: Context, grown: anyio.Event, done: anyio.Event) -> None:
        """Break into the read when it no longer covers who waits, or when the actor is asked to stop."""
        async with anyio.create_task_group() as race:

            async def first(event: anyio.Event) -> None:
                await event.wait()
                race.cancel_scope.cancel()

            race.start_soon(first, done)
            race.start_soon(first, grown)
            race.start_soon(first, ctx.stopping)
        while not done.is_set():
            try:
                await self._tail.interrupt()
            except OpenStreamError:
                return  # the read notices by itself that Redis is away
            with anyio.move_on_after(0.05):
                await done.wait()

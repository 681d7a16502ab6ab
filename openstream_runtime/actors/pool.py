"""A pool: actors made on first use, one for each key, each with a mailbox that outlives it.

The mailboxes live here and not in the supervisor, so a message that waits survives the restart of its actor, and of the
whole pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import anyio
import structlog

from supervisors import Actor, ChildSpec, DuplicateChild, Mailbox, NotRunning, StartFailed, Supervisor, UnknownChild

M = TypeVar("M")
R = TypeVar("R")

_log = structlog.get_logger(__name__)

ABSENCES = 5  # a view of the catalog may be a moment older than what a request has just made


class Pool(Generic[M, R]):
    """Actors by key. `make` builds one for a key and its mailbox."""

    def __init__(
        self,
        name: str,
        make: Callable[[str, Mailbox[M, R]], Actor],
        mailbox: Callable[[], Mailbox[M, R]],
        *,
        grace: float,
    ) -> None:
        self._name = name
        self._make = make
        self._mailbox = mailbox
        self._grace = grace
        self._boxes: dict[str, Mailbox[M, R]] = {}
        self._absences: dict[str, int] = {}
        #: Actors that are being ended; the key is free when the event is set.
        self._leaving: dict[str, anyio.Event] = {}
        self._supervisor = self._build()

    def spec(self) -> ChildSpec:
        """The pool's supervisor; a restarted one begins with every actor that was known."""
        return ChildSpec(id=self._name, actor=self._build, start_timeout=30.0)

    def _build(self) -> Supervisor:
        self._supervisor = Supervisor(
            [self._child(key) for key in self._boxes], max_restarts=3, within=10.0, per_child=True, stop_together=True
        )
        return self._supervisor

    def _child(self, key: str) -> ChildSpec:
        box = self._boxes[key]
        return ChildSpec(id=key, actor=lambda: self._make(key, box), grace=self._grace)

    async def mailbox(self, key: str) -> Mailbox[M, R]:
        """The mailbox of the actor with this key, which is started if it is new.

        Whoever is cancelled in here leaves nothing half done: his actor comes up all the same, with this mailbox.
        """
        while (leaving := self._leaving.get(key)) is not None:
            await leaving.wait()
        box = self._boxes.get(key)
        if box is None:
            box = self._boxes[key] = self._mailbox()
        elif key in self._supervisor.children:
            return box
        try:
            await self._supervisor.add(self._child(key))
        except DuplicateChild:
            pass  # somebody else was faster
        except NotRunning:
            pass  # it is being restarted, and will begin with this one: the message waits for it
        except StartFailed:
            if self._boxes.get(key) is box:
                del self._boxes[key]
            box.close()
            raise
        return box

    def peek(self, key: str) -> Mailbox[M, R] | None:
        """The mailbox of this key if there is one; starts nothing."""
        return self._boxes.get(key)

    def mailboxes(self) -> Iterator[tuple[str, Mailbox[M, R]]]:
        """Every key with its mailbox."""
        return iter(list(self._boxes.items()))

    async def keep_only(self, keys: Iterable[str]) -> None:
        """End every actor whose key was not among these for a few calls; what waits in its mailbox is refused."""
        absent = set(self._boxes) - set(keys)
        self._absences = {key: self._absences.get(key, 0) + 1 for key in absent}
        for key in [key for key, times in self._absences.items() if times >= ABSENCES]:
            del self._absences[key]
            await self._end(key)

    async def _end(self, key: str) -> None:
        """End one actor: first it, within its grace, then its mailbox. Meanwhile nobody finds either."""
        box, left = self._boxes.pop(key), anyio.Event()
        self._leaving[key] = left
        try:
            await self._supervisor.remove(key)
        except (UnknownChild, NotRunning):
            _log.debug("gone already", actor=f"{self._name}/{key}")
        finally:
            box.close()
            del self._leaving[key]
            left.set()

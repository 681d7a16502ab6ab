"""ChildSpec: what a supervisor must know of a child before it has started it.

Frozen, and checked when it is built: a wrong spec fails where it is written, not at the first restart at night.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from supervisors.context import Context
from supervisors.errors import DuplicateChild


class Restart(StrEnum):
    """When a child that has ended on its own is started again."""

    #: Always: it should never end.
    PERMANENT = "permanent"
    #: Only after an error: it may finish its work. Finished, it stays listed, and a wider restart starts it again.
    TRANSIENT = "transient"
    #: Never, and it leaves the tree when it ends, even if it was only stopped for the sake of a sibling.
    TEMPORARY = "temporary"


class Strategy(StrEnum):
    """Who is started again when one child is."""

    #: The child alone.
    ONE_FOR_ONE = "one_for_one"
    #: The child and those that were started after it.
    REST_FOR_ONE = "rest_for_one"
    #: Every child.
    ONE_FOR_ALL = "one_for_all"


class Actor(Protocol):
    """Anything that runs under a supervisor.

    `run` says `ctx.ready()` once, and ends when `ctx.stopping` is set. An actor may also have `describe()`, returning a
    small dict for the snapshot (the depth of its mailbox, for one).
    """

    async def run(self, ctx: Context) -> None:
        """Live one incarnation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """One child: who it is, how it is made, and how it is treated."""

    #: Unique among its siblings.
    id: str
    #: A factory, called for every incarnation, so that each begins in a known good state. For a supervisor that others
    #: add children to it may give the same object each time: `actor=lambda: partitions`.
    actor: Callable[[], Actor]
    restart: Restart = Restart.PERMANENT
    #: Seconds to come to an end after being asked; 0 cancels at once. 0 is right for a supervisor: cancelling it begins
    #: its own ordered stop, which is waited for as long as it takes.
    grace: float = 0.0
    #: Seconds until it must have said `ctx.ready()`; for a supervisor this covers the start of all its children.
    start_timeout: float = 10.0

    def __post_init__(self) -> None:
        if not isinstance(self.id, str):
            raise TypeError(f"the id of a child is a string, not {self.id!r}")
        if not self.id:
            raise ValueError("the id of a child is not empty")
        if not callable(self.actor):
            raise TypeError(f"child {self.id!r}: actor is a factory, not {self.actor!r}")
        if not isinstance(self.restart, Restart):
            raise TypeError(f"child {self.id!r}: restart is a Restart, not {self.restart!r}")
        if math.isnan(self.grace) or self.grace < 0:
            raise ValueError(f"child {self.id!r}: grace is zero seconds or more, not {self.grace!r}")
        if math.isnan(self.start_timeout) or self.start_timeout <= 0:
            raise ValueError(f"child {self.id!r}: start_timeout is more than zero seconds, not {self.start_timeout!r}")


def refuse_duplicates(specs: Iterable[ChildSpec]) -> None:
    """Raise DuplicateChild if two of them have the same id."""
    seen: set[str] = set()
    for spec in specs:
        if spec.id in seen:
            raise DuplicateChild(f"two children are called {spec.id!r}")
        seen.add(spec.id)

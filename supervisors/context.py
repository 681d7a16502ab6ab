"""Context: everything an actor may know of its supervisor, and its only way to talk to it.

It can also be made by hand, which is how an actor is tested alone:
`ctx = Context("ingestor")`, start `actor.run(ctx)`, wait for `ctx.started`, and end it with `ctx.ask_to_stop()`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Protocol

from anyio import CancelScope, Event

from supervisors.events import Observer


class Held(Protocol):
    """Something an actor has taken and must answer for: an envelope."""

    def gone(self) -> object:
        """Tell the other side that no answer will come."""


class Context:
    """One incarnation of one actor, as the actor sees it."""

    def __init__(
        self,
        path: str,
        *,
        name: str | None = None,
        incarnation: int = 1,
        observer: Observer | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        #: The ids from the root down to this actor, joined by `/`.
        self.path = path
        #: The actor's own id.
        self.name = path if name is None else name
        #: How many times the actor has been started in this place, this time included.
        self.incarnation = incarnation
        #: Set once the actor should come to an end; it then has its grace to do so.
        self.stopping = Event()
        #: Set once the actor is ready.
        self.started = Event()
        #: Who listens to the tree; a supervisor hands it on to its children.
        self.observer = observer
        self._on_ready = on_ready
        self._scopes: weakref.WeakSet[CancelScope] = weakref.WeakSet()
        self._held: set[Held] = set()

    def ready(self) -> None:
        """Say that the local state is good. Not that Redis answered: expected trouble is the actor's own business."""
        if not self.started.is_set():
            self.started.set()
            if self._on_ready is not None:
                self._on_ready()

    def interruptible(self) -> CancelScope:
        """The only code that a request to stop may break into; everything else has the whole grace.

        Use it around waiting: `with ctx.interruptible(): batch = await log.read()`. It is a plain cancel scope, so the
        block may be left early, and `scope.cancelled_caught` says whether it was.
        """
        scope = CancelScope()
        if self.stopping.is_set():
            scope.cancel("asked to stop")
        else:
            self._scopes.add(scope)
        return scope

    def ask_to_stop(self) -> None:
        """Ask the actor to come to an end (its supervisor does this; a test may)."""
        if not self.stopping.is_set():
            self.stopping.set()
            for scope in list(self._scopes):
                scope.cancel("asked to stop")
            self._scopes.clear()

    def hold(self, envelope: Held) -> None:
        """Remember an envelope that this actor owes an answer."""
        self._held.add(envelope)

    def let_go(self, envelope: Held) -> None:
        """The envelope is answered."""
        self._held.discard(envelope)

    def release_all(self) -> None:
        """The actor has ended: whoever still waits for its answers learns it at once."""
        while self._held:
            self._held.pop().gone()


#: The context of the actor this task works for. Tasks an actor starts inherit it, so a mailbox knows who took what.
current_context: ContextVar[Context | None] = ContextVar("current_context", default=None)

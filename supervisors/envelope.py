"""Envelope: a message on its way to an actor, and the way back for the answer."""

from __future__ import annotations

from types import TracebackType
from typing import Generic, TypeVar, cast

from anyio import Event

from supervisors.context import Context, current_context
from supervisors.errors import ActorGone, flatten

M = TypeVar("M")
R = TypeVar("R")


class Envelope(Generic[M, R]):
    """A message, its size, and whoever may be waiting for the answer.

    The first of `answer` and `fail` counts. Both return whether anybody heard it and neither ever raises for want of a
    listener: a producer that hangs up must not hurt the actor. `with envelope:` fails the call when the block ends
    without an answer; an actor that ends fails every call it has taken, however it ends.
    """

    __slots__ = ("_done", "_error", "_hung_up", "_owner", "_reply", "_value", "message", "size")

    def __init__(self, message: M, size: int = 0, *, reply: Event | None = None) -> None:
        self.message = message
        self.size = size
        self._reply = reply
        self._owner: Context | None = None
        self._value: R | None = None
        self._error: BaseException | None = None
        self._done = False
        self._hung_up = False

    # -- for the actor

    @property
    def wants_answer(self) -> bool:
        """Somebody waits for the answer: it is a call, not answered yet, and the caller is still there."""
        return self._reply is not None and not self._done and not self._hung_up

    @property
    def abandoned(self) -> bool:
        """The caller hung up (cancelled, or timed out) before it was answered."""
        return self._hung_up

    def answer(self, value: R) -> bool:
        """Answer the call; False, and nothing happens, when nobody waits for an answer (any more)."""
        return self._settle(value, None)

    def fail(self, error: BaseException) -> bool:
        """Let the call raise `error` in the caller; False, and nothing happens, when nobody waits for an answer."""
        return self._settle(None, error)

    def gone(self) -> bool:
        """Whoever has taken the message ended without an answer."""
        return self.fail(ActorGone())

    def __enter__(self) -> Envelope[M, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.wants_answer:
            self.fail(ActorGone(f"{ActorGone.__doc__} ({flatten(error)})" if error is not None else None))

    # -- for the mailbox

    @property
    def done(self) -> bool:
        """There is an answer, or an error in its place."""
        return self._done

    def taken(self) -> None:
        """The message leaves the mailbox; if an actor takes it, it owes the answer from now on."""
        if self.wants_answer and (owner := current_context.get()) is not None:
            self._owner = owner
            owner.hold(self)

    def outcome(self) -> R:
        """Return the answer, or raise the error."""
        if self._error is not None:
            # One error may fail a whole batch of calls: each raises it without the frames of the others.
            raise self._error.with_traceback(None)
        return cast(R, self._value)

    def hang_up(self) -> None:
        """The caller does not wait any more."""
        if not self._done:
            self._hung_up = True
            self._let_go()

    def _settle(self, value: R | None, error: BaseException | None) -> bool:
        reply = self._reply
        if reply is None or self._done or self._hung_up:
            return False
        self._value, self._error, self._done = value, error, True
        self._let_go()
        reply.set()
        return True

    def _let_go(self) -> None:
        if self._owner is not None:
            self._owner.let_go(self)
            self._owner = None

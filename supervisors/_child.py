"""Child: a place in the tree and the life it lives now; Life: one incarnation, inside its guard.

The guard is the one place that turns the end of an actor into plain data, and the one place that may swallow a
cancellation: one that nobody here asked for would end the whole task group without any error, so it becomes a crash.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
from anyio import CancelScope, Event
from anyio.abc import TaskGroup

from supervisors.context import Context, current_context
from supervisors.errors import (
    ReturnedBeforeReady,
    StartFailed,
    StartTimedOut,
    StrayCancellation,
    SupervisorError,
    flatten,
)
from supervisors.events import Exited, Observer, Removed, Started, Stopped, TreeEvent, notify
from supervisors.snapshot import NodeSnapshot, State, children_of, details_of
from supervisors.spec import Actor, ChildSpec, Restart

if TYPE_CHECKING:
    from supervisors._revival import Revival
    from supervisors.envelope import Envelope


class Life:
    """One incarnation.

    Its scope is shielded from the task group of the children: nothing but its own supervisor ends it, in its own order.
    Every limit on it is the deadline of that scope, first for the start and then for the grace, so nobody has to stand
    by to enforce one.
    """

    def __init__(self, spec: ChildSpec, ctx: Context) -> None:
        self.spec = spec
        self.ctx = ctx
        self.scope = CancelScope(shield=True, deadline=anyio.current_time() + spec.start_timeout)
        #: Set when it is ready or has ended, whichever comes first.
        self.settled = Event()
        self.ended = Event()
        self.asked = False
        self.error: BaseException | None = None
        self.actor: Actor | None = None
        #: When it became ready: by the clock of the event loop, and by the wall clock.
        self.ready_at: float | None = None
        self.started_at: float | None = None

    @property
    def was_ready(self) -> bool:
        return self.ready_at is not None

    def became_ready(self) -> None:
        self.ready_at = anyio.current_time()
        self.started_at = time.time()
        self.scope.deadline = math.inf
        self.settled.set()

    def ask_to_stop(self) -> None:
        """Ask; from now on the grace runs, and at its end the scope cancels itself."""
        if self.asked:
            return
        self.asked = True
        self.ctx.ask_to_stop()
        if self.spec.grace > 0 and self.was_ready:
            self.scope.deadline = anyio.current_time() + self.spec.grace
        else:
            self.scope.cancel("stopped by its supervisor")

    async def run(self) -> None:
        """The guard: live, and say how it ended."""
        current_context.set(self.ctx)
        try:
            with self.scope:
                try:
                    self.actor = self.spec.actor()
                    await self.actor.run(self.ctx)
                    self.error = self._early_return()
                except Exception as error:
                    self.error = error
                except BaseExceptionGroup as group:
                    # Errors mixed with cancellations are the child's; a KeyboardInterrupt among them is not.
                    if group.split((Exception, anyio.get_cancelled_exc_class()))[1] is not None:
                        raise
                    self.error = group
        except anyio.get_cancelled_exc_class() as error:
            if not self.asked:
                self.error = StrayCancellation()
                self.error.__cause__ = error
        if self.scope.cancelled_caught and not self.asked:
            self.error = StartTimedOut(f"{StartTimedOut.__doc__} ({self.spec.start_timeout:g} s)")

    def _early_return(self) -> StartFailed | None:
        return None if self.was_ready or self.asked else ReturnedBeforeReady()


class Child:
    """A place in the tree: a spec, its lives one after the other, and what is to become of it."""

    def __init__(self, spec: ChildSpec, parent_path: str, observer: Observer | None) -> None:
        self.spec = spec
        self.path = f"{parent_path}/{spec.id}"
        self.observer = observer
        self.life: Life | None = None
        self.incarnation = 0
        #: Failures in a row, without a good while of running between them: what the backoff grows with.
        self.streak = 0
        self.last_error: str | None = None
        #: Who is about to start it (again); cleared at the moment it is ready.
        self.revival: Revival | None = None
        #: It is being removed: its end, however it comes, is final.
        self.leaving = False
        #: Calls to be answered: the one that added it, once it is ready; those that remove it, once it is gone.
        self.newcomer: Envelope[Any, None] | None = None
        self.removers: list[Envelope[Any, None]] = []

    @property
    def temporary(self) -> bool:
        return self.spec.restart is Restart.TEMPORARY

    @property
    def permanent(self) -> bool:
        return self.spec.restart is Restart.PERMANENT

    @property
    def living(self) -> Life | None:
        """Its life, unless that has ended."""
        return None if self.life is None or self.life.ended.is_set() else self.life

    def begin(self, tasks: TaskGroup, report: Callable[[Child, Life], None]) -> Life:
        """Begin the next life; its end is reported, from inside its task."""
        self.incarnation += 1
        ctx = Context(
            self.path,
            name=self.spec.id,
            incarnation=self.incarnation,
            observer=self.observer,
            on_ready=lambda: self._became_ready(life),
        )
        self.life = life = Life(self.spec, ctx)
        tasks.start_soon(self._live, life, report, name=self.path)
        return life

    async def _live(self, life: Life, report: Callable[[Child, Life], None]) -> None:
        try:
            await life.run()
        finally:
            life.ctx.release_all()
            if life.error is not None:
                self.last_error = flatten(life.error)
            life.ended.set()
            life.settled.set()
            kind = Stopped if life.asked else Exited
            self.tell(kind(path=self.path, incarnation=life.ctx.incarnation, error=life.error))
            report(self, life)

    def _became_ready(self, life: Life) -> None:
        if life.ended.is_set() or life.scope.cancel_called:
            return  # too late: whoever waits for it knows that it ends
        life.became_ready()
        self.revival = None
        self.tell(Started(path=self.path, incarnation=life.ctx.incarnation))
        if self.newcomer is not None:
            self.newcomer.answer(None)
            self.newcomer = None

    async def start(self, tasks: TaskGroup, report: Callable[[Child, Life], None]) -> None:
        """Begin a life and wait until it is ready; StartFailed if it does not get there."""
        life = self.begin(tasks, report)
        await life.settled.wait()
        if not life.was_ready:
            error = life.error
            raise StartFailed(
                f"{self.path} did not start: {flatten(error) if error is not None else 'it was stopped'}"
            ) from error

    def ask_to_stop(self) -> None:
        if life := self.living:
            life.ask_to_stop()

    async def stop(self) -> None:
        """Ask, and wait until it has ended. Its grace over, it is cancelled; nothing can kill a coroutine."""
        if life := self.living:
            life.ask_to_stop()
            await life.ended.wait()

    def insist(self) -> None:
        """Cancel what is left of its grace."""
        if life := self.living:
            life.scope.cancel("its supervisor is gone")

    def refuse(self, error: SupervisorError) -> None:
        """Fail the calls that wait for it."""
        for envelope in (self.newcomer, *self.removers):
            if envelope is not None:
                envelope.fail(error)
        self.newcomer = None
        self.removers.clear()

    def dropped(self) -> None:
        """It is no longer part of the tree."""
        for envelope in self.removers:
            envelope.answer(None)
        self.removers.clear()
        self.refuse(StartFailed(f"{self.path} was removed before it was ready"))
        self.tell(Removed(path=self.path, incarnation=self.incarnation))

    def failed_again(self, healthy_after: float) -> int:
        """Count a failure; a life that was long enough begins the count anew."""
        life = self.life
        if life is not None and life.ready_at is not None and anyio.current_time() - life.ready_at >= healthy_after:
            self.streak = 0
        self.streak += 1
        return self.streak

    def tell(self, event: TreeEvent) -> None:
        notify(self.observer, event)

    # -- introspection

    @property
    def state(self) -> State:
        if life := self.living:
            if life.asked:
                return State.STOPPING
            return State.RUNNING if life.was_ready else State.STARTING
        if self.revival is not None:
            return State.BACKING_OFF
        failed = self.life is not None and not self.life.asked and self.life.error is not None
        return State.FAILED if failed else State.STOPPED

    def snapshot(self) -> NodeSnapshot:
        actor = self.life.actor if self.life is not None else None
        since = life.ready_at if (life := self.living) else None
        return NodeSnapshot(
            id=self.spec.id,
            state=self.state,
            restarts=max(0, self.incarnation - 1),
            last_error=self.last_error,
            started_at=life.started_at if life else None,
            uptime=anyio.current_time() - since if since is not None else None,
            details=details_of(actor),
            children=children_of(actor),
        )


async def stop_in_reverse(children: list[Child], *, together: bool) -> None:
    """Stop the children last to first, one by one; `together`, all at once, so that graces do not add up."""
    async with anyio.create_task_group() as stops:
        for child in reversed(children):
            if together:
                child.ask_to_stop()
                stops.start_soon(child.stop)
            else:
                await child.stop()

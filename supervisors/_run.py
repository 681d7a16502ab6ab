"""Run: one run of a supervisor, and the loop that decides.

Children report their end, and others ask to add or remove children, by messages to the inbox; only the loop starts,
counts and gives up. It never waits for a child: starting, stopping and backing off happen beside it (see Revival), so
a child that is slow to start or to stop does not keep another from being restarted, added or removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import anyio
from anyio import CancelScope

from supervisors._child import Child, Life, stop_in_reverse
from supervisors._revival import Revival
from supervisors.budget import RestartBudget
from supervisors.context import Context
from supervisors.envelope import Envelope
from supervisors.errors import (
    ActorGone,
    DuplicateChild,
    MailboxClosed,
    NotRunning,
    RestartLimitExceeded,
    StartFailed,
    SupervisorError,
    UnknownChild,
    flatten,
)
from supervisors.events import GaveUp, Observer, Restarting, notify
from supervisors.mailbox import Mailbox
from supervisors.snapshot import State
from supervisors.spec import ChildSpec, Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a supervisor treats its children; its constructor explains the fields."""

    strategy: Strategy
    max_restarts: int
    within: float
    per_child: bool
    backoff: Callable[[int], float]
    stop_together: bool


@dataclass(frozen=True, slots=True)
class Ended:
    child: Child
    life: Life


@dataclass(frozen=True, slots=True)
class NotStarted:
    revival: Revival
    child: Child
    error: StartFailed


@dataclass(frozen=True, slots=True)
class Add:
    spec: ChildSpec


@dataclass(frozen=True, slots=True)
class Remove:
    id: str


Message = Ended | NotStarted | Add | Remove


class Run:
    """The children of one run, and what is decided about them."""

    def __init__(self, specs: Iterable[ChildSpec], policy: Policy, ctx: Context, observer: Observer | None) -> None:
        self.state = State.STARTING
        self.failure: SupervisorError | None = None
        self.ctx = ctx
        #: In start order.
        self.children = {spec.id: Child(spec, ctx.path, observer) for spec in specs}
        self._policy = policy
        self._observer = observer
        self._budget = RestartBudget(policy.max_restarts, policy.within, clock=anyio.current_time)
        # Never full: its length is bounded by the number of children and of tasks that ask.
        self._inbox = Mailbox[Message, None](math.inf)

    async def request(self, message: Add | Remove) -> None:
        """Put a wish to the loop and wait until it is fulfilled or refused."""
        try:
            await self._inbox.call(message, timeout=None)
        except (MailboxClosed, ActorGone):
            raise NotRunning from None

    async def live(self) -> None:
        """Run the children until asked to stop, cancelled, or out of budget; all end in the same ordered stop."""
        try:
            async with anyio.create_task_group() as self._tasks:
                try:
                    with self.ctx.interruptible():
                        await self._decide()
                finally:
                    with CancelScope(shield=True):
                        await self._stop_all()
        finally:
            self.state = State.STOPPED if self.failure is None else State.FAILED
        if self.failure is not None:
            # Bare: the errors of children are data here, so this is the only exception there can be.
            raise self.failure

    async def _decide(self) -> None:
        """Start the children, then act on one message after the other."""
        async with anyio.create_task_group() as self._helpers:
            try:
                for child in self.children.values():
                    await child.start(self._tasks, self._report)
                self.state = State.RUNNING
                self.ctx.ready()
                while True:
                    self._act(await self._inbox.receive())
            except (StartFailed, RestartLimitExceeded) as error:
                self.failure = error
            finally:
                self.state = State.STOPPING
                self._helpers.cancel_scope.cancel()

    async def _stop_all(self) -> None:
        self._inbox.close()
        children = list(self.children.values())
        for child in children:
            child.revival = None
            child.refuse(NotRunning())
        try:
            await stop_in_reverse(children, together=self._policy.stop_together)
        finally:
            # Only a native cancellation gets here early. The children are shielded: without this it would never end.
            for child in children:
                child.insist()

    # -- the decisions, one message at a time

    def _act(self, envelope: Envelope[Message, None]) -> None:
        message = envelope.message
        if isinstance(message, Ended):
            self._on_end(message.child, message.life)
        elif isinstance(message, NotStarted):
            self._on_failed_start(message.revival, message.child, message.error)
        elif isinstance(message, Add):
            self._on_add(message.spec, envelope)
        else:
            self._on_remove(message.id, envelope)

    def _on_end(self, child: Child, life: Life) -> None:
        if self.children.get(child.spec.id) is not child or child.life is not life:
            return  # late news: it was removed, or lives again already
        if child.leaving or (child.temporary and life.was_ready):
            self._drop(child)
        elif child.revival is None and life.was_ready and (child.permanent or life.error is not None):
            self._restart(child, life.error)

    def _on_failed_start(self, revival: Revival, child: Child, error: StartFailed) -> None:
        if child.revival is revival:
            if child.newcomer is None:
                return self._restart(child, error.__cause__ or error)
            child.revival = None
            child.refuse(error)
            self._drop(child)
        if remaining := revival.remaining:
            self._revive(remaining, delay=0.0)
        return None

    def _on_add(self, spec: ChildSpec, envelope: Envelope[Message, None]) -> None:
        if spec.id in self.children:
            envelope.fail(DuplicateChild(f"{self.ctx.path} has a child {spec.id!r} already"))
            return
        under_way = (child.revival for child in self.children.values() if child.revival is not None)
        revival = None if self._policy.strategy is Strategy.ONE_FOR_ONE else next(under_way, None)
        child = self.children[spec.id] = Child(spec, self.ctx.path, self._observer)
        child.newcomer = envelope
        if revival is not None:
            revival.join(child)
        else:
            self._revive([child], delay=0.0)

    def _on_remove(self, child_id: str, envelope: Envelope[Message, None]) -> None:
        child = self.children.get(child_id)
        if child is None:
            envelope.fail(UnknownChild(f"{self.ctx.path} has no child {child_id!r}"))
            return
        child.removers.append(envelope)
        child.leaving = True
        if child.revival is not None:
            child.revival.leave(child)
        if child.living:
            child.ask_to_stop()
        else:
            self._drop(child)

    def _drop(self, child: Child) -> None:
        del self.children[child.spec.id]
        child.dropped()

    def _restart(self, child: Child, error: BaseException | None) -> None:
        attempt = child.failed_again(healthy_after=self._policy.within)
        if not self._budget.spend(shares=len(self.children) if self._policy.per_child else 1):
            gave_up = GaveUp(path=self.ctx.path, incarnation=self.ctx.incarnation, child=child.spec.id, error=error)
            notify(self._observer, gave_up)
            why = flatten(error) if error is not None else "it returned"
            raise RestartLimitExceeded(
                f"{child.path} ended once too often"
                f" (more than {self._policy.max_restarts} in {self._policy.within:g} s): {why}"
            ) from error
        delay = self._policy.backoff(attempt)
        child.tell(Restarting(path=child.path, incarnation=child.incarnation, error=error, delay=delay))
        self._revive(self._affected(child), delay)

    def _affected(self, child: Child) -> list[Child]:
        children = list(self.children.values())
        if self._policy.strategy is Strategy.ONE_FOR_ONE:
            return [child]
        if self._policy.strategy is Strategy.REST_FOR_ONE:
            return children[children.index(child) :]
        return children

    def _revive(self, affected: list[Child], delay: float) -> None:
        """Bring the affected up again, and whoever the revivals they were part of had still to start."""
        taken_over = {child.revival for child in affected if child.revival is not None}
        for revival in taken_over:
            revival.scope.cancel("a wider restart takes over")
        concerned = [
            child
            for child in self.children.values()
            if not child.leaving and (child in affected or child.revival in taken_over)
        ]
        revival = Revival(
            [child for child in concerned if not child.temporary or child.newcomer is not None],
            stopping=concerned,
            not_before=anyio.current_time() + delay,
            together=self._policy.stop_together,
        )
        self._helpers.start_soon(revival.run, self._tasks, self._report, self._not_started)

    # -- what the helpers say

    def _report(self, child: Child, life: Life) -> None:
        self._post(Ended(child, life))

    def _not_started(self, revival: Revival, child: Child, error: StartFailed) -> None:
        self._post(NotStarted(revival, child, error))

    def _post(self, message: Message) -> None:
        if not self._inbox.closed:
            self._inbox.offer(message)

"""Supervisor: starts children in order, decides what happens when one ends, and stops them in reverse.

One task group holds the children, and one task decides (see `_run.py`). A supervisor is an actor, so trees nest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from supervisors._run import Add, Policy, Remove, Run
from supervisors.backoff import Backoff
from supervisors.budget import RestartBudget
from supervisors.context import Context
from supervisors.errors import NotRunning, flatten
from supervisors.events import Observer
from supervisors.snapshot import NodeSnapshot, State
from supervisors.spec import ChildSpec, Strategy, refuse_duplicates


class Supervisor:
    """An actor whose work is other actors.

    `children` are there from the start of every run. Children added while it runs belong to that run: when the
    supervisor itself is restarted they are gone, and whoever added them adds them again. The object may be run again
    after a run has ended, so those who add children may hold on to it across restarts.

    More than `max_restarts` restarts `within` seconds (`per_child`: times the number of children) and it gives up: it
    stops its children and raises RestartLimitExceeded, bare, with the last error as its cause. A child that ran for
    `within` seconds begins its backoff anew. `stop_together` stops all children at once, so that the graces of equals
    do not add up. `observer` hears of this supervisor's children and of those below; by default the parent's does.
    """

    def __init__(
        self,
        children: Iterable[ChildSpec] = (),
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        max_restarts: int = 3,
        within: float = 5.0,
        per_child: bool = False,
        backoff: Callable[[int], float] | None = None,
        stop_together: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self._specs = tuple(children)
        refuse_duplicates(self._specs)
        RestartBudget(max_restarts, within, clock=lambda: 0.0)  # refuses wrong numbers here rather than in `run`
        self._policy = Policy(
            strategy=Strategy(strategy),
            max_restarts=max_restarts,
            within=within,
            per_child=per_child,
            backoff=Backoff() if backoff is None else backoff,
            stop_together=stop_together,
        )
        self._observer = observer
        #: The current run, or the last one.
        self._run: Run | None = None
        self._running = False

    async def run(self, ctx: Context) -> None:
        """Run the children until asked to stop, cancelled, or out of budget; all end in the same ordered stop."""
        if self._running:
            raise RuntimeError(f"this supervisor runs already, as {ctx.path}")
        observer = ctx.observer if self._observer is None else self._observer
        self._run = Run(self._specs, self._policy, ctx, observer)
        self._running = True
        try:
            await self._run.live()
        finally:
            self._running = False

    async def add(self, spec: ChildSpec) -> None:
        """Start one more child, last in order; returns when it is ready.

        StartFailed: it is not part of the tree. DuplicateChild: the id is taken (a transient child that has finished
        keeps its id until it is removed). NotRunning: this supervisor is not running, is stopping, or stopped
        meanwhile. Cancelling the caller does not take the child back.
        """
        await self._current().request(Add(spec))

    async def remove(self, child_id: str) -> None:
        """Stop a child within its grace and forget it; returns when it is gone. Raises UnknownChild or NotRunning."""
        await self._current().request(Remove(child_id))

    @property
    def children(self) -> tuple[str, ...]:
        """The ids of the children, in start order."""
        return tuple(self._run.children) if self._run is not None else ()

    def snapshot(self) -> NodeSnapshot:
        """This supervisor and everything below it, at this moment."""
        run = self._run
        return NodeSnapshot(
            id=run.ctx.name if run is not None else "",
            state=run.state if run is not None else State.STOPPED,
            restarts=run.ctx.incarnation - 1 if run is not None else 0,
            last_error=flatten(run.failure) if run is not None and run.failure is not None else None,
            children=self.child_snapshots(),
        )

    def child_snapshots(self) -> tuple[NodeSnapshot, ...]:
        """Everything below it."""
        return tuple(child.snapshot() for child in self._run.children.values()) if self._run is not None else ()

    def _current(self) -> Run:
        if self._run is None or not self._running:
            raise NotRunning
        return self._run

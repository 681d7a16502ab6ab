"""Revival: bringing children up again, in order, while the supervisor's loop stays free to decide about the others.

A revival decides nothing. It stops what still runs in reverse order, waits for the backoff, starts its members in
order, and reports a start that fails. A child is a member exactly as long as `child.revival` points here: a wider
revival takes over, and a removal takes out, by changing that pointer, and a revival looks at it right before it starts
anyone. So a narrow restart that is still backing off can never start a child ahead of a wider one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup

from supervisors._child import stop_in_reverse
from supervisors.errors import StartFailed

if TYPE_CHECKING:
    from supervisors._child import Child, Life


class Revival:
    """One attempt to bring up some children."""

    def __init__(self, members: list[Child], *, stopping: list[Child], not_before: float, together: bool) -> None:
        #: Those to start, in order; it may grow at its end.
        self.members = members
        #: Those to stop first.
        self.stopping = stopping
        self.not_before = not_before
        self.together = together
        self.scope = CancelScope()
        for child in members:
            child.revival = self

    @property
    def remaining(self) -> list[Child]:
        """The members that are still its business."""
        return [child for child in self.members if child.revival is self]

    def join(self, child: Child) -> None:
        """One more to start, after all others."""
        child.revival = self
        self.members.append(child)

    def leave(self, child: Child) -> None:
        """Do not start this one."""
        child.revival = None
        if not self.remaining:
            self.scope.cancel("nobody left to start")

    async def run(
        self,
        tasks: TaskGroup,
        report: Callable[[Child, Life], None],
        failed: Callable[[Revival, Child, StartFailed], None],
    ) -> None:
        with self.scope:
            await stop_in_reverse(self.stopping, together=self.together)
            await anyio.sleep_until(self.not_before)
            for child in self.members:
                if child.revival is not self:
                    continue
                try:
                    await child.start(tasks, report)
                except StartFailed as error:
                    if child.revival is self:
                        failed(self, child, error)
                        return

"""What actors and the gateway see of replay jobs: rows in PostgreSQL, leased by one node at a time.

The lease is for liveness and the epoch for safety: who takes a replay bumps it, and every write of an earlier owner is
refused from then on. Raises as all ports do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from openstream_runtime.domain.replays import NewReplay, Part, Replay, ReplayState


class Replays(Protocol):
    """Replay jobs."""

    async def count(self, topic_id: int, parts: Sequence[Part]) -> int | None:
        """How many stored events these parts hold; None when that cannot be told in about two seconds."""
        ...

    async def create(self, new: NewReplay) -> Replay:
        """Make it, runnable. Only the newest thousand that have ended are kept."""
        ...

    async def find(self, replay_id: str) -> Replay | None: ...

    async def all(self) -> list[Replay]:
        """Newest first, without their parts: all that run and the newest that have ended."""
        ...

    async def cancel(self, replay_id: str) -> tuple[Replay, bool] | None:
        """Cancel one that runs; the replay and whether that was now. None: there is no such replay."""
        ...

    async def take(self, owner: str, lease_ms: int) -> Replay | None:
        """Become the owner of one that needs work and has none: one that runs, or has ended and is not
        settled. The oldest first; None when there is none."""
        ...

    async def progress(
        self, replay_id: str, epoch: int, parts: Sequence[Part], *, rate: float, lease_ms: int
    ) -> ReplayState | None:
        """Write down how far these parts are, and hold the lease; the state now. None: another owner has taken it.

        Positions, copied and marks of a part never go back.
        """
        ...

    async def end(self, replay_id: str, epoch: int, state: ReplayState, *, error: str | None) -> None:
        """One that runs and is ours becomes done or failed. It still needs work: its marks."""
        ...

    async def settle(self, replay_id: str, epoch: int) -> bool:
        """Nothing is left to do for one that has ended: nobody takes it any more. False: it was not ours."""
        ...

    async def release(self, replay_id: str, epoch: int) -> None:
        """Give the lease back, for whoever comes first. Nothing happens when it is not ours any more."""
        ...

"""What actors see of producers that number their events: a home that admits their requests one after the other.

`begin` before the shares of a request are appended, `finish` when all of them are kept. Both may be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.producers import Admission, Turn
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.log import Refused


@dataclass(frozen=True, slots=True)
class Kept:
    """It was finished before: where its events stand, by partition."""

    shares: Mapping[int, Sequence[Position]]


@dataclass(frozen=True, slots=True)
class Finished:
    """A request of which every share is kept."""

    topic: Topic
    turn: Turn
    shares: Mapping[int, Sequence[Position]]


class Producers(Protocol):
    """The homes of producers: Refused(UNVERIFIED) asks to verify the home's partition, as an append does."""

    async def begin(self, turns: Sequence[tuple[Topic, Turn]]) -> list[Admission | Kept | Refused]:
        """Admit each request, or say what is wrong with it. Never raises for a backend."""
        ...

    async def finish(self, done: Sequence[Finished], *, replicas: int | None = None) -> list[bool | None]:
        """Let each producer go on. None: nobody knows, repeat the request; False: it is kept, and not on as many
        replicas as asked. Never raises for a backend."""
        ...

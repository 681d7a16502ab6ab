"""What a partition of the Redis in memory remembers of producers and event ids: lua/remember.lua in Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from openstream_runtime.domain.positions import Position

T = TypeVar("T")


@dataclass
class Generations(Generic[T]):
    """The hash that is written, and the one before it."""

    now: dict[str, T] = field(default_factory=dict)
    before: dict[str, T] = field(default_factory=dict)
    begun: int | None = None

    def get(self, name: str) -> T | None:
        return self.now.get(name, self.before.get(name))

    def turn_over(self, now_ms: int, lasts: int, most: int) -> int | None:
        if self.begun is None:
            self.begun = now_ms
            return None
        # The hash itself holds one field more, when it was begun.
        if now_ms - self.begun < lasts and len(self.now) + 1 <= most:
            return None
        went, since = bool(self.before), self.begun
        self.now, self.before, self.begun = {}, self.now, now_ms
        return since if went else None

    def forget(self, name: str) -> None:
        self.now.pop(name, None)
        self.before.pop(name, None)


@dataclass
class FakeShare:
    """A producer's last share in a partition."""

    epoch: int
    seq: int
    digest: bytes
    positions: list[Position]


@dataclass
class FakeRequest:
    seq: int
    count: int
    digest: bytes
    #: Since when it is known while it is under way; where its events stand once it is finished.
    begun_ms: int = 0
    places: dict[int, list[Position]] = field(default_factory=dict)


@dataclass
class FakeHome:
    epoch: int
    epoch_ms: int
    next: int
    open: FakeRequest | None = None
    past: list[FakeRequest] = field(default_factory=list)


@dataclass
class Remembered:
    producers: Generations[FakeHome | FakeShare] = field(default_factory=Generations)
    event_ids: Generations[Position] = field(default_factory=Generations)
    #: When Redis was last seen to have lost something; since when producers are remembered.
    lost_ms: int = 0
    since_ms: int = 0

    def lose(self, positions: set[Position]) -> None:
        """What was remembered of these events is lost with them."""
        for kept in (self.producers.now, self.producers.before):
            for name, one in list(kept.items()):
                if isinstance(one, FakeShare) and positions & set(one.positions):
                    del kept[name]
        for ids in (self.event_ids.now, self.event_ids.before):
            for name, at in list(ids.items()):
                if at in positions:
                    del ids[name]

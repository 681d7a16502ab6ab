"""What the gateway answers with."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum

from openstream_runtime.domain.events import Delivery, StoredEvent
from openstream_runtime.domain.history import Place
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import Group


class Ack(StrEnum):
    """When a produce request is answered."""

    #: Redis has the events.
    APPENDED = "appended"
    #: So many replicas, and the primary's disk, have them too.
    REPLICATED = "replicated"
    #: PostgreSQL has committed them.
    PERSISTED = "persisted"


@dataclass(frozen=True, slots=True)
class Produced:
    """Where the events of a request stand, in the request's order."""

    topic: str
    partitions: int
    results: Sequence[tuple[int, Position]]
    #: Which of them were there before, by index.
    duplicates: Set[int] = frozenset()


@dataclass(frozen=True, slots=True)
class GroupCreated:
    group: Group
    partitions: int
    #: On how many partitions it is new; 0 when it existed.
    created: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class Handout:
    """Events handed to a consumer. The edge says what became of them: exactly one of the two must be called."""

    deliveries: Sequence[Delivery]
    #: The answer has left for the consumer.
    arrived: Callable[[], None]
    #: The consumer is gone before its answer: the events go to whoever reads next. Never waits.
    give_back: Callable[[], None]


@dataclass(frozen=True, slots=True)
class ResetDone:
    start_id: str
    updated_partitions: int
    discarded_pending: int


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Events with their partitions, in order inside each, and the place to go on at; None: that was all."""

    events: Sequence[tuple[int, StoredEvent]]
    next: Place | None


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of readiness."""

    name: str
    ok: bool
    detail: str = ""

"""The shapes of replays; schemas.py has the rest."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from openstream_http.limits import EventId, Milliseconds, Name, Partitions
from openstream_http.schemas import Answer, Request
from openstream_runtime.domain.replays import MIN_RATE, ReplayState


class ReplayRequest(Request):
    """Both ends are included; by id or by time, not both; without them everything that is kept."""

    target_topic: Name
    from_ms: Milliseconds | None = None
    to_ms: Milliseconds | None = None
    from_id: EventId | None = None
    to_id: EventId | None = None
    partitions: Partitions | None = None
    rate_per_s: (
        Annotated[float, Meta(ge=MIN_RATE, le=1e9, description="events a second; absent: as fast as it goes")] | None
    ) = None


class ReplayPartAnswer(Answer):
    """`position_id`: everything up to it is in the target. `upto_id`: where this partition ends."""

    partition: int
    position_id: str
    upto_id: str
    copied: int


class ReplayAnswer(Answer):
    """A replay. `total` null: too many to be counted in time; it may be off a little until the end."""

    replay_id: str
    state: ReplayState
    topic: str
    target_topic: str
    #: As asked; null: no bound.
    from_id: str | None
    to_id: str | None
    rate_per_s: float | None
    copied: int
    total: int | None
    #: Events a second, smoothed.
    rate: float
    #: Null: cannot be told, or it has ended.
    eta_ms: int | None
    #: Why it failed.
    error: str | None
    #: Who copies; null: nobody at the moment.
    node: str | None
    created_ms: int
    updated_ms: int
    finished_ms: int | None


class ReplayDetail(ReplayAnswer):
    """A replay and how far it is on each source partition."""

    partitions: list[ReplayPartAnswer]


class ReplayList(Answer):
    """Replays the token covers, newest first."""

    replays: list[ReplayAnswer]

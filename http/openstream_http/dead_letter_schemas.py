"""The shapes of dead letters; schemas.py has the rest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from openstream_http.limits import MAX_EVENTS, PlaceId
from openstream_http.schemas import Answer, Request
from openstream_runtime.domain.dead_letters import Redrive

#: Where a letter stands.
LetterId = PlaceId


class DeadLettersQuery(Request, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=MAX_EVENTS)] = 100
    from_id: Annotated[PlaceId, Meta(description="the next_id of an answer")] | None = None


class Origin(Answer):
    """Where the original of a dead letter stands."""

    topic: str
    partition: int
    redis_id: str


class DeadLetterAnswer(Answer):
    """A dead letter. `deliveries`: of the original, in vain. `redriven`: it went back already."""

    letter_id: str
    partition: int
    redis_id: str
    event_type: str
    partition_key: str | None
    payload: Any
    timestamp_ms: int
    headers: dict[str, str]
    origin: Origin
    reason: Literal["nacked", "timed_out"]
    deliveries: int
    consumer: str | None
    died_ms: int
    redriven: bool


class DeadLetterList(Answer):
    """The dead letters of a group, oldest first in each partition. A page may be empty and have a `next_id`."""

    topic: str
    group: str
    dead_letter_topic: str
    dead_letters: list[DeadLetterAnswer]
    next_id: str | None


class RedriveRequest(Request):
    """`ids` or `all`, exactly one. `to`: `group`, only this group sees them again; `topic`: every group does."""

    to: Redrive
    ids: Annotated[list[LetterId], Meta(min_length=1, max_length=1_000)] | None = None
    all: Literal[True] | None = None
    from_id: Annotated[PlaceId, Meta(description="with `all`: the next_id of an answer")] | None = None


class RedriveAnswer(Answer):
    """`already`: went back before, and not again. `next_id` not null: ask again with it, there is more."""

    topic: str
    group: str
    dead_letter_topic: str
    to: Redrive
    redriven: int
    already: int
    unknown: list[str]
    next_id: str | None

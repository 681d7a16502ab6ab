"""Repeating: which produce requests may be sent again, and what a producer that numbers its events did wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openstream_runtime.domain.errors import (
    OpenStreamError,
    OutOfSequence,
    SequenceReused,
    StaleEpoch,
    UnknownProducer,
)
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.producers import Turn
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.log import Refusal, Refused

RETRY_MS = 1_000


def is_repeatable(turn: Turn | None, events: Sequence[NewEvent]) -> bool:
    """Whether everything of a request is known again when it is sent again."""
    return turn is not None or all(event.event_id is not None for event in events)


def advise(error: OpenStreamError, turn: Turn | None, events: Sequence[NewEvent]) -> None:
    """Say in an error when sending the same request again is safe, and when to: it was kept, or was not, or in part."""
    if is_repeatable(turn, events):
        error.facts["repeatable"] = True
        error.facts.setdefault("retry_after_ms", RETRY_MS)
        error.detail += "; repeating the same request is safe"


def refused(topic: Topic, turn: Turn, refusal: Refused) -> OpenStreamError | None:
    """What the producer did wrong; None when it is not his doing."""
    stamp = turn.stamp
    facts: dict[str, Any] = {
        "topic": topic.name,
        "producer": stamp.producer,
        "producer_epoch": stamp.epoch,
        "producer_seq": stamp.seq,
    }
    match refusal.reason:
        case Refusal.STALE_EPOCH if refusal.expected is None:
            return StaleEpoch("this producer has gone on since, in a newer epoch or with a later request", **facts)
        case Refusal.STALE_EPOCH:
            facts["current_epoch"] = refusal.expected
            return StaleEpoch(f"epoch {refusal.expected} of this producer has begun", **facts)
        case Refusal.SEQUENCE:
            expected = refusal.expected or 0
            side = "ahead of" if stamp.seq > expected else "behind"
            detail = f"seq {stamp.seq} is {side} what is expected, {expected}"
            if stamp.seq < expected:
                detail += ": everything below is kept, and of this request no one place is known any more"
            return OutOfSequence(detail, expected_seq=expected, **facts)
        case Refusal.CONTENT:
            detail = f"seq {stamp.seq} was used for other events: repeat those, or begin a newer epoch"
            return SequenceReused(detail, **facts)
        case Refusal.FORGOTTEN:
            detail = (
                "nobody knows what this producer has sent before: it was silent for too long, or Redis has lost it. "
                "Find out what is kept of what you have no answer for, then go on with a newer epoch from seq 0"
            )
            return UnknownProducer(detail, **facts)
        case _:
            return None

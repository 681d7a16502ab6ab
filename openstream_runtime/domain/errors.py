"""What can go wrong, told apart by what the caller can do about it. The edge maps each kind to one HTTP status."""

from __future__ import annotations

from typing import Any


class OpenStreamError(Exception):
    """Something went wrong."""

    def __init__(self, detail: str | None = None, **facts: Any) -> None:
        #: One sentence for a person. Never holds a secret, a stack or a driver's text.
        self.detail = detail or (type(self).__doc__ or "").strip().splitlines()[0]
        #: What a program needs to react: topic, partition, retry_after_ms, errors …
        self.facts = facts
        super().__init__(self.detail)


class InvalidRequest(OpenStreamError):
    """The request is well-formed but asks for something that cannot be."""


class NotFound(OpenStreamError):
    """There is no such thing."""


class Gone(OpenStreamError):
    """What is asked for was there and is not kept any more. Facts: earliest_id, from which everything is."""


class Conflict(OpenStreamError):
    """The request disagrees with what exists."""


class StaleEpoch(OpenStreamError):
    """A newer epoch of this producer has begun; nothing was kept. Facts: producer_epoch, the one that counts."""


class OutOfSequence(Conflict):
    """The request's number is not the next one; nothing was kept. Facts: expected_seq."""


class SequenceReused(Conflict):
    """The number was used for other events; nothing was kept."""


class UnknownProducer(Conflict):
    """Nobody knows what this producer has sent before; nothing was kept."""


class Overloaded(OpenStreamError):
    """There is more work than room for it; nothing was kept. Facts: reason, retry_after_ms."""


class Unavailable(OpenStreamError):
    """A backend is away or the node is draining; nothing was kept. Facts: backend, retry_after_ms."""


class OutcomeUnknown(OpenStreamError):
    """The answer to a write was lost: it may have been kept, or not."""


class PartlyDone(OpenStreamError):
    """A part of the request was kept and a part was not. Facts: results, one per event, each with its status."""


class Fenced(OpenStreamError):
    """Another owner has taken this partition; what this one still held was not written."""


class LeaseLost(OpenStreamError):
    """The lease on a partition is no longer ours."""

"""Numbered requests: what makes a node know a repetition, so that a request may be sent until it is answered.

A producer's events in a topic are numbered from 0. One request is on its way at a time, and its number is that of its
first event. A newer epoch ends what was left open in the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

from openstream_client.errors import ClientError, OutcomeUnknown


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a request says of its producer. `seq` is the number of its first event."""

    producer: str
    epoch: int = 0
    seq: int = 0

    def headers(self) -> dict[str, str]:
        return {"producer-id": self.producer, "producer-epoch": str(self.epoch), "producer-seq": str(self.seq)}


class Numbering:
    """The stamp of the next request, and whether an earlier try of that request may have been kept."""

    def __init__(
        self,
        stamp: Stamp | None = None,
        *,
        own: bool = True,
        unsure: bool = False,
        on_anew: Callable[[Stamp], None] | None = None,
    ) -> None:
        """`own`: a newer epoch may be begun here, because nobody else counts them. `on_anew` hears of it first."""
        self.stamp = stamp or Stamp(uuid4().hex)
        self.own = own
        self.unsure = unsure
        self._on_anew = on_anew

    def kept(self, count: int) -> None:
        self.stamp = replace(self.stamp, seq=self.stamp.seq + count)
        self.unsure = False

    def begin_anew(self) -> None:
        """Whatever was open before cannot be kept any more from now on."""
        stamp = Stamp(self.stamp.producer, self.stamp.epoch + 1)
        if self._on_anew is not None:
            self._on_anew(stamp)
        self.stamp, self.unsure = stamp, False

    def final(self, error: ClientError) -> ClientError:
        """The error a request ends with: unknown, if a try of it may have been kept."""
        if not self.unsure or isinstance(error, OutcomeUnknown):
            return error
        unknown = OutcomeUnknown(
            f"{error.detail}; an earlier try may have been kept",
            status=error.status,
            slug=error.slug,
            facts=error.facts,
        )
        unknown.__cause__ = error
        return unknown

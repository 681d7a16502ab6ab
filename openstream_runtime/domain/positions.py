"""Positions: where an event stands inside its partition, and what PostgreSQL has of it.

A position is a Redis stream id, `<ms>-<seq>`. Clients treat the text as opaque; we order it as two integers, because
as text `9-0` would come after `10-0`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from openstream_runtime.domain.errors import InvalidRequest

_POSITION = re.compile(r"([0-9]{1,20})-([0-9]{1,20})", re.ASCII)
_MAX = 2**63 - 1  # Redis allows 2**64 - 1; PostgreSQL's bigint does not, and no clock reaches either


class TopicPartition(NamedTuple):
    """One ordered log: a partition of a topic, by the topic's name."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Position(NamedTuple):
    """A stream id. Compares in log order."""

    ms: int
    seq: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """`"<ms>-<seq>"` as a position; raises InvalidRequest for anything else, also for what no id can reach."""
        match = _POSITION.fullmatch(text)
        if match is None:
            raise InvalidRequest(f"{text[:64]!r} is no event id: expected <ms>-<seq>")
        position = cls(int(match[1]), int(match[2]))
        if position.ms > _MAX or position.seq > _MAX:
            raise InvalidRequest(f"{text[:64]!r} is beyond every event id")
        return position

    def next(self) -> Position:
        """The smallest position after this one."""
        return Position(self.ms, self.seq + 1) if self.seq < _MAX else Position(self.ms + 1, 0)


ZERO = Position(0, 0)


class Cursor(NamedTuple):
    """What PostgreSQL knows of one partition: the truth that outlives Redis."""

    #: Bumped by every persister that takes the partition; a batch commits only under the epoch it was read with.
    epoch: int
    #: Bumped when Redis handed out positions again that PostgreSQL already holds (a failover that lost its tail).
    generation: int
    #: The last position that is committed, all before it included.
    position: Position

"""Dead letters: events a group gave up on, as they stand in its dead-letter topic, and their way back.

A letter is a copy of the event whose headers say where the original stands and why it is here. A redriven copy says in
its headers which letter it is made of, and, when it is for one group only, for which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

import msgspec

from openstream_runtime.domain.errors import InvalidRequest
from openstream_runtime.domain.events import NewEvent, StoredEvent, with_headers
from openstream_runtime.domain.names import RESERVED_CONSUMER_PREFIX
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import MAX_PARTITIONS, Group

#: `<topic>/<partition>/<ms>-<seq>` of the original, and the rest of the story.
LETTER = "openstream-dead-letter"
GROUP, REASON = "openstream-dead-letter-group", "openstream-dead-letter-reason"
DELIVERIES, CONSUMER = "openstream-dead-letter-deliveries", "openstream-dead-letter-consumer"
#: Of a redriven copy: the place of the letter, and `<topic>/<group>` when it is for that group alone.
REDRIVEN, ONLY = "openstream-redrive-of", "openstream-redrive-for"
_LONGEST_NAME = 200
#: Whoever may produce to a dead-letter topic may write such headers; what does not read like ours is none.
_ORIGIN = re.compile(r"([A-Za-z0-9._-]{1,200})/([0-9]{1,4})/([0-9]{1,20}-[0-9]{1,20})", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,15}", re.ASCII)


class Reason(StrEnum):
    #: Its last consumer gave it back.
    NACKED = "nacked"
    #: Its last consumer kept it for too long.
    TIMED_OUT = "timed_out"


class Redrive(StrEnum):
    """Whom a redriven event is for."""

    GROUP = "group"
    TOPIC = "topic"


@dataclass(frozen=True, slots=True)
class DeadEntry:
    """An entry that waits to be moved to the dead-letter topic."""

    #: Where it waits: unique, also when the same event dies twice.
    queued: Position
    position: Position
    deliveries: int
    #: Who had it last.
    consumer: str
    reason: str
    #: False: somebody acknowledged it meanwhile.
    held: bool
    #: None: it was trimmed, and PostgreSQL has it.
    event: StoredEvent | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event of a dead-letter topic, with what its headers say."""

    partition: int
    event: StoredEvent
    topic: str
    #: Where the original stands.
    origin_partition: int
    origin: Position
    group: str
    reason: Reason
    deliveries: int
    consumer: str | None


def dead_letter_topic(group: Group) -> str:
    """The name of the topic: what is set, or one made of the names, cut where they are too long."""
    if group.settings.dead_letter_topic is not None:
        return group.settings.dead_letter_topic
    name = f"{group.topic}.dlq.{group.name}"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 17]}-{sha256(name.encode()).hexdigest()[:16]}"


def letter_of(event: StoredEvent, group: Group, partition: int, entry: DeadEntry) -> NewEvent:
    """The event to append to the dead-letter topic."""
    said = {
        LETTER: f"{group.topic}/{partition}/{event.position}",
        GROUP: group.name,
        REASON: entry.reason,
        DELIVERIES: str(entry.deliveries),
    }
    if not entry.consumer.startswith(RESERVED_CONSUMER_PREFIX):
        said[CONSUMER] = entry.consumer
    return NewEvent(
        event.event_type, event.partition_key, event.payload, event.timestamp_ms, with_headers(event.headers, said)
    )


def letter_in(partition: int, event: StoredEvent) -> DeadLetter | None:
    """What an event of a dead-letter topic says of itself; None when it is no letter of ours."""
    if event.headers is None or LETTER.encode() not in event.headers:
        return None
    try:
        said = msgspec.json.decode(event.headers, type=dict[str, str])
        place, deliveries = _ORIGIN.fullmatch(said[LETTER]), _COUNT.fullmatch(said[DELIVERIES])
        if place is None or deliveries is None or int(place[2]) >= MAX_PARTITIONS:
            return None
        return DeadLetter(
            partition,
            event,
            place[1],
            int(place[2]),
            Position.parse(place[3]),
            said[GROUP],
            Reason(said[REASON]),
            int(deliveries[0]),
            said.get(CONSUMER),
        )
    except (msgspec.DecodeError, InvalidRequest, KeyError, ValueError):
        return None  # somebody else writes into this topic


def redriven(letter: DeadLetter, dead_letters: str, to: Redrive) -> NewEvent:
    """The event to append to the topic the letter came from."""
    event = letter.event
    said = {REDRIVEN: f"{dead_letters}/{letter.partition}/{event.position}"}
    if to is Redrive.GROUP:
        said[ONLY] = f"{letter.topic}/{letter.group}"
    theirs = {} if event.headers is None else msgspec.json.decode(event.headers, type=dict[str, str])
    ours = {LETTER, GROUP, REASON, DELIVERIES, CONSUMER, REDRIVEN, ONLY}
    kept = {name: value for name, value in theirs.items() if name not in ours}
    return NewEvent(
        event.event_type,
        event.partition_key,
        event.payload,
        event.timestamp_ms,
        msgspec.json.encode({**kept, **said}),
    )


def is_for(headers: bytes | None, topic: str, group: str) -> bool:
    """Whether a group is to see an event: not one that was redriven for another group of the topic."""
    if headers is None or ONLY.encode() not in headers:
        return True
    try:
        only = msgspec.json.decode(headers, type=dict[str, str]).get(ONLY, "")
    except msgspec.DecodeError:
        return True
    theirs, _, name = only.rpartition("/")
    return theirs != topic or name == group

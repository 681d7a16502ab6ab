"""What clients did and saw, recorded as it happened: the ground truth that a run is checked against afterwards.

Each event is known by (producer, seq); its payload repeats both and the key, so every copy of it can be recognised,
in an answer, in Redis or in PostgreSQL. Memory: about 400 bytes an event and 150 a delivery.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import NamedTuple, Protocol

#: Milliseconds and sequence: a stream id.
Id = tuple[int, int]
#: Producer and seq: one event.
Ev = tuple[str, int]


class Outcome(StrEnum):
    """What a producer knows of an event it sent."""

    #: No answer yet, or never one: as good as unknown.
    INVOKED = "invoked"
    OK = "ok"
    #: Told, definitely, that it was not kept; and given up.
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Sent:
    """One event from its producer's side."""

    key: str
    digest: bytes
    invoked: float
    outcome: Outcome = Outcome.INVOKED
    answered: float | None = None
    partition: int | None = None
    id: Id | None = None


class Seen(NamedTuple):
    """A copy of an event: somewhere, at a position."""

    partition: int
    id: Id
    #: None: the payload is none that a producer of ours could have made.
    ev: Ev | None
    key: str | None
    digest: bytes


class Delivered(NamedTuple):
    """A copy of an event in the answer to a read."""

    seen: Seen
    deliveries: int


@dataclass(slots=True)
class Read:
    """One read (or claim) of one consumer of a group."""

    group: str
    consumer: str
    invoked: float
    ended: float
    #: False: no answer came, so events may have been handed out to nobody.
    ok: bool
    items: Sequence[Delivered] = ()
    is_claim: bool = False


@dataclass(slots=True)
class Ack:
    """One acknowledgement."""

    group: str
    consumer: str
    invoked: float
    ended: float
    ok: bool
    items: Sequence[tuple[int, Id]]
    acked: int | None = None


class Recorder(Protocol):
    """Is told everything as it happens: `support.journal`."""

    def sent(self, ev: Ev, sent: Sent) -> None: ...

    def settled(self, ev: Ev, sent: Sent) -> None: ...

    def began(self, what: Read | Ack) -> None: ...

    def ended(self, what: Read | Ack) -> None: ...

    def noted(self, at: float, text: str) -> None: ...


@dataclass(slots=True)
class History:
    """Everything of one run on one topic. Written to by the tasks of one event loop."""

    topic: str
    sent: dict[Ev, Sent] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    #: Faults and unexpected answers, with their time.
    notes: list[tuple[float, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    #: What tells the time: a simulation's is virtual.
    clock: Callable[[], float] = time.monotonic
    #: For each group, what some consumer of it has got; kept up to date by `saw`.
    delivered: dict[str, set[Ev]] = field(default_factory=dict)
    recorder: Recorder | None = None

    # ---- producers

    def invoke(self, ev: Ev, key: str, payload: bytes) -> None:
        sent = self.sent[ev] = Sent(key, digest_of(payload), self.clock())
        if self.recorder is not None:
            self.recorder.sent(ev, sent)

    def succeed(self, ev: Ev, partition: int, at: Id) -> None:
        self.sent[ev].partition, self.sent[ev].id = partition, at
        self._end(ev, Outcome.OK)

    def fail(self, ev: Ev) -> None:
        self._end(ev, Outcome.FAIL)

    def lose_track(self, ev: Ev) -> None:
        """The outcome is unknown, and stays so."""
        self._end(ev, Outcome.UNKNOWN)

    def _end(self, ev: Ev, outcome: Outcome) -> None:
        sent = self.sent[ev]
        sent.outcome, sent.answered = outcome, self.clock()
        if self.recorder is not None:
            self.recorder.settled(ev, sent)

    # ---- consumers

    def asks(self, what: Read | Ack) -> None:
        """A read or an acknowledgement is about to be sent."""
        if self.recorder is not None:
            self.recorder.began(what)

    def saw(self, read: Read) -> None:
        """A read has ended, with an answer or without."""
        self.reads.append(read)
        got = self.delivered.setdefault(read.group, set())
        got.update(item.seen.ev for item in read.items if item.seen.ev is not None)
        if self.recorder is not None:
            self.recorder.ended(read)

    def acknowledged(self, ack: Ack) -> None:
        """An acknowledgement has ended, with an answer or without."""
        self.acks.append(ack)
        if self.recorder is not None:
            self.recorder.ended(ack)

    # ---- anybody

    def note(self, text: str) -> None:
        """Something worth reading beside the violations: a fault that began, an answer nobody expected."""
        at = self.clock()
        self.notes.append((at, text))
        if self.recorder is not None:
            self.recorder.noted(at, text)

    def with_outcome(self, outcome: Outcome) -> Iterable[Ev]:
        return (ev for ev, sent in self.sent.items() if sent.outcome is outcome)

    def delivered_to(self, group: str) -> set[Ev]:
        """Every event some consumer of the group has got."""
        return self.delivered.get(group, set())


# ------------------------------------------------------------------------------------------------------- payloads

_PAYLOAD = re.compile(rb'\{"producer": "([^"\\]*)", "key":"([^"\\]*)", "seq" : ([0-9]+), .*\}', re.DOTALL)


def payload_of(ev: Ev, key: str, fill: int = 0) -> bytes:
    """The payload of an event. Its odd spaces, numbers and escapes do not survive a parser: it must come back as sent.

    Producer names and keys are plain: no quotes, no backslashes.
    """
    producer, seq = ev
    odd = '"n": [-0.0, 1e2, 1.50], "\\u0041": "\\/"'
    return f'{{"producer": "{producer}", "key":"{key}", "seq" : {seq}, {odd},  "fill":"{"x" * fill}"}}'.encode()


def recognise(payload: bytes) -> tuple[Ev | None, str | None]:
    """Which event, and which key, a payload says it is; None for what no producer of ours could have made."""
    match = _PAYLOAD.fullmatch(payload)
    return (None, None) if match is None else ((match[1].decode(), int(match[3])), match[2].decode())


def seen(partition: int, at: Id, key: str | None, payload: bytes) -> Seen:
    """A copy of an event, found at a position with a partition key and a payload."""
    ev, key_inside = recognise(payload)
    return Seen(partition, at, ev if key_inside == key else None, key, digest_of(payload))


def digest_of(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=8).digest()


def parse_id(text: str) -> Id:
    """`<ms>-<seq>`; the producers' own reading of it, on purpose not the runtime's."""
    ms, _, seq = text.partition("-")
    return int(ms), int(seq)


def show_id(at: Id | None) -> str:
    return "nowhere" if at is None else f"{at[0]}-{at[1]}"

"""Defects of the kind that systems like this one had: each is put into a node by one function, in the test's own code.

Every one must turn a scenario red, by the rule that is named beside it; else the suite would not notice it either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha1
from typing import Any
from unittest.mock import patch

import anyio
from redis.asyncio.connection import AbstractConnection

from openstream_runtime.actors import persister
from openstream_runtime.actors.persister import Persister
from openstream_runtime.domain.errors import LeaseLost, Unavailable
from openstream_runtime.domain.positions import Cursor, Position
from openstream_runtime.log import scripts
from openstream_runtime.log.groups import RedisGroups
from openstream_runtime.log.scripts import Script
from openstream_runtime.log.streams import RedisEvents
from openstream_runtime.ports.groups import GroupRead
from openstream_runtime.ports.log import AppendBatch, Appended, AppendOutcome, Refusal, Refused, Unknown
from openstream_runtime.ports.store import PersistBatch
from openstream_runtime.store import fence
from openstream_runtime.store.fence import Key, Move, Verdict
from openstream_runtime.telemetry.metrics import Metrics

SHORT = 100  # entries that a stream is cut to


@dataclass(frozen=True, slots=True)
class Defect:
    put_in: Callable[[], None]
    #: The scenario that turns red, by its name, and at least these rules.
    scenario: str
    rules: frozenset[str]


def _patch(owner: object, name: str, with_what: object) -> None:
    patch.object(owner, name, with_what).start()


def _rewrite(script: Script, old: bytes, new: bytes) -> Script:
    """A script with other words in it; AssertionError when it has no such words any more."""
    assert old in script.source, f"{script.name}.lua has changed"
    source = script.source.replace(old, new)
    return replace(script, source=source, sha=sha1(source, usedforsecurity=False).hexdigest().encode())


# ------------------------------------------------------------------------------------------------------ the defects


def fencing_removed() -> None:
    """An owner that has lost its lease never hears of it, and PostgreSQL does not ask who writes."""

    def judge(batches: Sequence[PersistBatch], _: Mapping[Key, Cursor]) -> Verdict:
        moves: dict[Key, Move] = {}
        for batch in batches:
            move = moves.setdefault((batch.topic_id, batch.partition), Move(batch.after, 0))
            move.upto, move.events = batch.upto, move.events + len(batch.events)
        return Verdict([True] * len(batches), moves)

    async def keep(_: Persister) -> LeaseLost:
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    async def reread(_: Persister, cursor: Cursor) -> Cursor:
        return cursor

    _patch(fence, "judge", judge)
    _patch(Persister, "_keep", keep)
    _patch(Persister, "_reread", reread)
    unlocked = _rewrite(scripts.MARK_PERSISTED, b"if redis.call('GET', KEYS[3]) ~= ARGV[1]", b"if false")
    _patch(scripts, "MARK_PERSISTED", unlocked)


def blind_retry() -> None:
    """An append whose answer was lost is sent again, as clients of Redis do unless they are told not to."""
    once = RedisEvents._append_on

    async def until_answered(
        self: RedisEvents, connection: AbstractConnection, batches: Sequence[AppendBatch]
    ) -> list[AppendOutcome]:
        outcomes = await once(self, connection, batches)
        lost = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Unknown)]
        if lost:
            try:
                async with self._appends.take() as other:
                    again = await once(self, other, [batches[number] for number in lost])
            except Unavailable:
                return outcomes
            for number, outcome in zip(lost, again, strict=True):
                outcomes[number] = outcome
        return outcomes

    _patch(RedisEvents, "_append_on", until_answered)


def unknown_called_refused() -> None:
    """A lost answer is taken for a no, so the producer sends again what may be there already."""
    honest = RedisEvents._append_on

    async def hopeful(
        self: RedisEvents, connection: AbstractConnection, batches: Sequence[AppendBatch]
    ) -> list[AppendOutcome]:
        outcomes = await honest(self, connection, batches)
        return [Refused(Refusal.UNAVAILABLE) if isinstance(one, Unknown) else one for one in outcomes]

    _patch(RedisEvents, "_append_on", hopeful)


def trim_by_length() -> None:
    """Streams are kept short as they are written (XADD MAXLEN), whatever PostgreSQL has of them."""
    capped = _rewrite(scripts.APPEND, b"stream, '*'", b"stream, 'MAXLEN', '=', '%d', '*'" % SHORT)
    _patch(scripts, "APPEND", capped)


def positions_not_lifted() -> None:
    """A Redis that lost its streams gives ids by its clock, wherever PostgreSQL stands."""
    lift = b"redis.call('XSETID', stream, floor)"
    _patch(scripts, "VERIFY", _rewrite(scripts.VERIFY, lift, b""))


def handed_out_and_forgotten() -> None:
    """What is read is pending with nobody (XREADGROUP NOACK), so what is lost on its way is lost: the last of many."""
    forgetful = _rewrite(scripts.GROUP_READ, b"consumer, 'COUNT', wish,", b"consumer, 'COUNT', wish, 'NOACK',")
    _patch(scripts, "GROUP_READ", forgetful)
    whole = RedisGroups._hand_out

    async def hand_out(self: RedisGroups, *arguments: Any) -> GroupRead:
        found = await whole(self, *arguments)
        return replace(found, deliveries=found.deliveries[:-1]) if len(found.deliveries) > 1 else found

    _patch(RedisGroups, "_hand_out", hand_out)


def ack_ignored() -> None:
    """An acknowledgement is answered and not kept."""

    async def ack(_: RedisGroups, topic: str, group: str, items: Mapping[int, Sequence[Position]]) -> int:
        return sum(map(len, items.values()))

    _patch(RedisGroups, "ack", ack)


def parallel_retry() -> None:
    """A batch goes out in two parts side by side, and the first part is late, as if it had been refused once."""
    in_order = RedisEvents.append

    async def append(
        self: RedisEvents, batches: Sequence[AppendBatch], *, replicas: int | None = None
    ) -> list[AppendOutcome]:
        halves: list[list[AppendOutcome]] = [[], []]
        cut = [(len(batch.events) + 1) // 2 for batch in batches]

        async def send(number: int, part: list[AppendBatch]) -> None:
            await anyio.sleep(0.02 * (1 - number))
            halves[number] = await in_order(self, part, replicas=replicas)

        async with anyio.create_task_group() as both:
            both.start_soon(
                send, 0, [replace(one, events=one.events[:at]) for one, at in zip(batches, cut, strict=True)]
            )
            both.start_soon(
                send, 1, [replace(one, events=one.events[at:]) for one, at in zip(batches, cut, strict=True)]
            )
        return [_joined(first, second) for first, second in zip(*halves, strict=True)]

    _patch(RedisEvents, "append", append)


def _joined(first: AppendOutcome, second: AppendOutcome) -> AppendOutcome:
    if isinstance(first, Appended) and isinstance(second, Appended):
        return Appended([*first.positions, *second.positions])
    return Unknown()


def appends_not_counted() -> None:
    """A counter that stands still."""

    def appended(_: Metrics, *__: Any) -> None:
        return None

    _patch(Metrics, "appended", appended)


def gives_up_on_postgresql() -> None:
    """Whoever once failed to persist comes back to it when nobody waits any more."""
    _patch(persister, "pause", lambda *_: anyio.sleep(3_600))


DEFECTS = {
    "fencing removed": Defect(fencing_removed, "node stopped for longer than its lease", frozenset({"C12 fence"})),
    "blind retry": Defect(blind_retry, "links to redis cut", frozenset({"C5 duplicate"})),
    "unknown called refused": Defect(unknown_called_refused, "links to redis cut", frozenset({"C5 duplicate"})),
    "trim by length": Defect(
        trim_by_length, "postgresql away", frozenset({"C1 lost", "C11 hole", "C11 trimmed early"})
    ),
    "positions not lifted": Defect(positions_not_lifted, "redis emptied, an hour behind", frozenset({"C13 liveness"})),
    "handed out and forgotten": Defect(
        handed_out_and_forgotten, "none", frozenset({"C2 group lost", "C9 delivered again"})
    ),
    "ack ignored": Defect(ack_ignored, "none", frozenset({"C10 ack ignored"})),
    "parallel retry": Defect(parallel_retry, "none", frozenset({"C7 order stored"})),
    "appends not counted": Defect(appends_not_counted, "none", frozenset({"C14 metrics"})),
    "gives up on postgresql": Defect(gives_up_on_postgresql, "postgresql away", frozenset({"C13 liveness"})),
}

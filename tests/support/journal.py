"""The history of a client process as it happens: JSON lines, each written out before the client goes on.

A process that is killed leaves a whole file: what it had begun and never ended stands there as begun. `read_back` makes
a history of one or several such files, so a run can be judged again from them, or clients in several processes as one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.history import Ack, Delivered, Ev, History, Outcome, Read, Seen, Sent, parse_id, show_id


class Journal:
    """One file of one process. It implements `support.history.Recorder`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self._open: dict[int, int] = {}
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def _write(self, at: float, **what: object) -> None:
        self._file.write(json.dumps({"t": at, **what}, separators=(",", ":")) + "\n")
        self._file.flush()

    def sent(self, ev: Ev, sent: Sent) -> None:
        self._write(sent.invoked, op="produce", ph="invoke", ev=ev, key=sent.key, h=sent.digest.hex())

    def settled(self, ev: Ev, sent: Sent) -> None:
        place = {} if sent.id is None else {"part": sent.partition, "id": show_id(sent.id)}
        self._write(sent.answered or time.monotonic(), op="produce", ph=sent.outcome, ev=ev, **place)

    def began(self, what: Read | Ack) -> None:
        self._count += 1
        self._open[id(what)] = self._count
        who: dict[str, Any] = {"n": self._count, "group": what.group, "cons": what.consumer}
        if isinstance(what, Ack):
            self._write(what.invoked, op="ack", ph="invoke", **who, items=[(p, show_id(at)) for p, at in what.items])
        else:
            self._write(what.invoked, op="claim" if what.is_claim else "read", ph="invoke", **who)

    def ended(self, what: Read | Ack) -> None:
        number, phase = self._open.pop(id(what)), "ok" if what.ok else "unknown"
        if isinstance(what, Ack):
            self._write(what.ended, op="ack", ph=phase, n=number, acked=what.acked)
            return
        items = [
            (item.seen.partition, show_id(item.seen.id), item.seen.ev, item.seen.key, item.seen.digest.hex(), item[1])
            for item in what.items
        ]
        self._write(what.ended, op="claim" if what.is_claim else "read", ph=phase, n=number, items=items)

    def noted(self, at: float, text: str) -> None:
        self._write(at, op="note", text=text)


def read_back(topic: str, paths: Iterable[Path]) -> History:
    """The history that journals tell. What was begun and never ended: an event is unknown, a read was not answered."""
    history = History(topic, began=math.inf)
    for path in paths:
        _read_one(history, path)
    history.reads.sort(key=lambda read: read.ended)
    return history


def merge(history: History, other: History) -> None:
    """Add what another process did; the two had no producer in common. Its own journal tells it already."""
    history.recorder = None
    history.sent.update(other.sent)
    for read in other.reads:
        history.saw(read)
    history.acks += other.acks
    history.notes += other.notes


def _read_one(history: History, path: Path) -> None:
    opened: dict[int, Read | Ack] = {}
    last = 0.0
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # the process was killed while it wrote this
        told = json.loads(line)
        last = max(last, told["t"])
        history.began = min(history.began, told["t"])
        match told["op"]:
            case "produce":
                _produced(history, told)
            case "note":
                history.notes.append((told["t"], told["text"]))
            case operation if told["ph"] == "invoke":
                opened[told["n"]] = _begun(told, operation)
            case _:
                _ended(history, opened.pop(told["n"]), told)
    for ev in list(history.with_outcome(Outcome.INVOKED)):
        history.lose_track(ev)
    for left in opened.values():
        left.ended = last
        if isinstance(left, Ack):
            history.acks.append(left)
        else:
            history.saw(left)


def _produced(history: History, told: dict[str, Any]) -> None:
    ev: Ev = (told["ev"][0], told["ev"][1])
    if told["ph"] == "invoke":
        history.sent[ev] = Sent(told["key"], bytes.fromhex(told["h"]), told["t"])
        return
    sent = history.sent[ev]
    sent.outcome, sent.answered = Outcome(told["ph"]), told["t"]
    if "id" in told:
        sent.partition, sent.id = told["part"], parse_id(told["id"])


def _begun(told: dict[str, Any], operation: str) -> Read | Ack:
    who = (told["group"], told["cons"], told["t"], told["t"])
    if operation == "ack":
        return Ack(*who, ok=False, items=[(partition, parse_id(at)) for partition, at in told["items"]])
    return Read(*who, ok=False, is_claim=operation == "claim")


def _ended(history: History, what: Read | Ack, told: dict[str, Any]) -> None:
    what.ok, what.ended = told["ph"] == "ok", told["t"]
    if isinstance(what, Ack):
        what.acked = told["acked"]
        history.acks.append(what)
        return
    what.items = [
        Delivered(
            Seen(partition, parse_id(at), None if ev is None else (ev[0], ev[1]), key, bytes.fromhex(digest)), times
        )
        for partition, at, ev, key, digest, times in told["items"]
    ]
    history.saw(what)

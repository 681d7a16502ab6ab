"""How far a stream is trimmed: bounded by what is persisted, asked for by age, length and bytes, and no further."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openstream_runtime.domain.ledger import GRAIN, Ledger
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.retention import trim_below
from openstream_runtime.domain.topics import TopicSettings

NOW = 1_000_000
HOUR = 3_600_000
POSITIONS = st.builds(Position, st.integers(1, NOW + 5_000), st.integers(0, 3))


@dataclass(frozen=True)
class Case:
    settings: TopicSettings
    stream: list[Position]
    #: How many of the stream are persisted, and how many of those an earlier owner has persisted.
    persisted: int
    inherited: int
    target_len: int
    size: int | None
    default_retention_ms: int

    @property
    def cursor(self) -> Position:
        return self.stream[self.persisted - 1] if self.persisted else ZERO

    def ledger(self) -> Ledger:
        ledger = Ledger(self.stream[self.inherited - 1] if self.inherited else ZERO)
        for position in self.stream[self.inherited : self.persisted]:
            ledger.add(position, 1)
        return ledger

    def bound(self, **changed: Any) -> Position | None:
        known: dict[str, Any] = {
            "first": self.stream[0],
            "cursor": self.cursor,
            "ledger": self.ledger(),
            "length": len(self.stream),
            "target_len": self.target_len,
            "size": self.size,
            "now_ms": NOW,
            "default_retention_ms": self.default_retention_ms,
        }
        trim = trim_below(changed.pop("settings", self.settings), **(known | changed))
        return trim and trim.below

    def keep(self) -> int:
        """How many may stay when length and bytes have their way."""
        bound = self.settings.retention_bytes
        if bound is None or self.size is None or self.size <= bound:
            return self.target_len
        return min(self.target_len, len(self.stream) * bound // self.size)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    stream = sorted(draw(st.sets(POSITIONS, min_size=1, max_size=40)))
    persisted = draw(st.integers(0, len(stream)))
    return Case(
        settings=TopicSettings(
            retention_ms=draw(st.none() | st.integers(0, 2 * NOW)),
            retention_bytes=draw(st.none() | st.integers(0, 5_000)),
        ),
        stream=stream,
        persisted=persisted,
        inherited=draw(st.integers(0, persisted)),
        target_len=draw(st.integers(0, 45)),
        size=draw(st.none() | st.integers(0, 10_000)),
        default_retention_ms=draw(st.integers(0, 2 * NOW)),
    )


@given(cases())
def test_what_is_not_persisted_is_never_trimmed(case: Case) -> None:
    bound = case.bound()
    if bound is not None:
        assert bound <= case.cursor.next()
        assert bisect_left(case.stream, bound) <= case.persisted


@given(cases())
def test_unless_length_or_bytes_ask_nothing_younger_than_the_retention_is_trimmed(case: Case) -> None:
    bound = case.bound()
    if bound is None or len(case.stream) > case.keep():
        return
    retention = case.default_retention_ms if case.settings.retention_ms is None else case.settings.retention_ms
    assert bound <= Position(max(0, NOW - retention), 0)


@given(cases())
def test_a_bound_trims_something_and_what_is_old_and_persisted_goes(case: Case) -> None:
    bound = case.bound()
    gone = bisect_left(case.stream, bound) if bound is not None else 0
    assert (bound is not None) == (gone > 0)
    retention = case.default_retention_ms if case.settings.retention_ms is None else case.settings.retention_ms
    overdue = bisect_left(case.stream, Position(max(0, NOW - retention), 0))
    assert gone >= min(overdue, case.persisted)


@given(cases())
def test_length_and_bytes_leave_at_least_what_may_stay_of_what_the_owner_has_counted(case: Case) -> None:
    bound = case.bound(settings=TopicSettings(retention_ms=3 * NOW, retention_bytes=case.settings.retention_bytes))
    counted = case.stream[case.inherited : case.persisted]
    if bound is not None and counted and bound > counted[0]:
        assert len(case.stream) - bisect_left(case.stream, bound) >= case.keep()


@given(cases())
def test_a_stream_that_is_too_long_and_persisted_gets_down_to_about_its_target(case: Case) -> None:
    stream, ledger, total = list(case.stream), case.ledger(), len(case.stream)
    for position in case.stream[case.persisted :]:
        ledger.add(position, 1)
    for _ in range(2 * total):
        trim = trim_below(
            TopicSettings(retention_ms=3 * NOW), first=stream[0], cursor=case.stream[-1], ledger=ledger,
            length=len(stream), target_len=case.target_len, size=None, now_ms=NOW, default_retention_ms=0,
        )  # fmt: skip
        if trim is None:
            break
        del stream[: bisect_left(stream, trim.below)]
        ledger.forget(trim.below)
        if not stream:
            break
    assert len(stream) <= case.target_len + GRAIN


def test_a_burst_and_then_a_trickle_keeps_as_many_as_it_may() -> None:
    burst = [Position(1_000, seq) for seq in range(100_000)]
    trickle = [Position(2_000 + number, 0) for number in range(1_700)]
    stream, ledger = burst + trickle, Ledger(ZERO)
    for start in range(0, len(stream), 2_000):
        batch = stream[start : start + 2_000]
        ledger.add(batch[-1], len(batch))
    trim = trim_below(
        TopicSettings(retention_ms=HOUR), first=stream[0], cursor=stream[-1], ledger=ledger, length=len(stream),
        target_len=100_000, size=None, now_ms=NOW, default_retention_ms=0,
    )  # fmt: skip
    assert trim is None  # a whole batch would be too much
    trim = trim_below(
        TopicSettings(retention_ms=HOUR), first=stream[0], cursor=stream[-1], ledger=ledger, length=len(stream),
        target_len=50_000, size=None, now_ms=NOW, default_retention_ms=0,
    )  # fmt: skip
    assert trim is not None
    assert trim.bound_by == "length"
    assert 50_000 <= len(stream) - bisect_left(stream, trim.below) < 52_000


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, (Position(20, 0), "retention_ms")),
        ({"cursor": Position(9, 0)}, (Position(9, 1), "cursor")),
        ({"target_len": 30}, (Position(69, 1), "length")),
        ({"size": 1000, "target_len": 30}, (Position(89, 1), "retention_bytes")),
        ({"size": 100}, (Position(20, 0), "retention_ms")),
        ({"now_ms": 50}, None),
    ],
)
def test_a_trim_says_what_set_its_bound(known: dict[str, Any], expected: tuple[Position, str] | None) -> None:
    ledger = Ledger(ZERO)
    for ms in range(100):
        ledger.add(Position(ms, 0), 1, grain=1)
    given: dict[str, Any] = {
        "first": ZERO, "cursor": Position(99, 0), "ledger": ledger, "length": 100, "target_len": 100, "size": None,
        "now_ms": 1_020, "default_retention_ms": 1_000,
    }  # fmt: skip
    assert trim_below(TopicSettings(retention_bytes=100), **(given | known)) == expected


@given(cases())
def test_a_later_clock_and_a_smaller_target_never_trim_less(case: Case) -> None:
    def reach(bound: Position | None) -> Position:
        return bound or ZERO

    assert reach(case.bound(target_len=case.target_len // 2)) >= reach(case.bound())
    assert reach(case.bound(now_ms=NOW + HOUR)) >= reach(case.bound())


STREAM = [Position(NOW - 1_000 + 10 * number, 0) for number in range(100)]
CALM = Case(TopicSettings(), STREAM, 100, 0, 100, None, HOUR)


@pytest.mark.parametrize(
    ("what", "changed", "expected"),
    [
        ("nothing asks", {}, None),
        ("age of the node", {"default_retention_ms": 400}, Position(NOW - 400, 0)),
        (
            "age of the topic wins",
            {"settings": TopicSettings(retention_ms=700), "default_retention_ms": 1},
            Position(NOW - 700, 0),
        ),
        ("the topic keeps longer", {"settings": TopicSettings(retention_ms=HOUR), "default_retention_ms": 1}, None),
        ("age before the epoch", {"settings": TopicSettings(retention_ms=2 * NOW)}, None),
        ("size not known", {"settings": TopicSettings(retention_bytes=50), "size": None}, None),
        ("size without a limit", {"size": 10**9}, None),
        ("exactly as long as it may be", {"length": 100, "target_len": 100}, None),
        ("nothing persisted", {"default_retention_ms": 0, "cursor": ZERO, "ledger": Ledger(ZERO)}, None),
        ("the first persisted", {"default_retention_ms": 0, "cursor": STREAM[0]}, STREAM[0].next()),
        ("a clock that went back", {"now_ms": 0, "default_retention_ms": 400}, None),
        ("inherited, spread over time", {"ledger": Ledger(STREAM[-1]), "target_len": 50}, Position(NOW - 505, 0)),
        (
            "inherited, in one millisecond",
            {"ledger": Ledger(Position(STREAM[0].ms, 99)), "target_len": 60},
            Position(STREAM[0].ms, 40),
        ),
    ],
)
def test_the_bound_is_exactly(what: str, changed: dict[str, Any], expected: Position | None) -> None:
    assert CALM.bound(**changed) == expected, what


def test_the_cursor_is_in_the_way_of_everything() -> None:
    bound = CALM.bound(default_retention_ms=0, cursor=STREAM[40], target_len=0)
    assert bound == STREAM[40].next()
    assert bisect_right(STREAM, STREAM[40]) == 41

"""The ledger: counts what was committed, and says behind which position enough of it stands."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openstream_runtime.domain.ledger import GRAIN, LONGEST, Ledger
from openstream_runtime.domain.positions import ZERO, Position

BATCHES = st.lists(st.integers(1, 600), min_size=1, max_size=60)


def filled(batches: list[int]) -> tuple[Ledger, list[Position]]:
    stream: list[Position] = []
    ledger = Ledger(ZERO)
    for batch in batches:
        for _ in range(batch):
            stream.append(Position(1, len(stream)))
        ledger.add(stream[-1], batch)
    return ledger, stream


@given(BATCHES, st.integers(0, 10_000))
def test_it_never_leaves_fewer_than_asked_and_at_most_a_batch_more(batches: list[int], keep: int) -> None:
    ledger, stream = filled(batches)
    bound = ledger.keeping(keep)
    if len(stream) < keep:
        assert bound is None
        return
    assert bound is not None
    left = sum(1 for position in stream if position > bound)
    assert keep <= left < keep + max(*batches, 0) + GRAIN


@given(BATCHES, st.integers(0, 40_000), st.integers(0, 10_000))
def test_forgetting_what_is_trimmed_changes_no_answer_above_it(batches: list[int], below: int, keep: int) -> None:
    ledger, _ = filled(batches)
    before = ledger.keeping(keep)
    ledger.forget(Position(1, below))
    if before is not None and before >= Position(1, below):
        assert ledger.keeping(keep) == before


def test_a_thousand_small_batches_take_little_room_and_a_million_do_not_take_more() -> None:
    ledger = Ledger(ZERO)
    for number in range(LONGEST * 4):
        ledger.add(Position(number + 1, 0), GRAIN)
    assert len(ledger._entries) <= LONGEST
    bound = ledger.keeping(100 * GRAIN)
    assert bound is not None
    assert Position(LONGEST * 4 - 120, 0) <= bound <= Position(LONGEST * 4 - 100, 0)

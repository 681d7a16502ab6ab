"""Positions: their text, their order, their successor."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openstream_runtime.domain.errors import InvalidRequest
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition

NUMBERS = st.integers(0, 2**63 - 1)
POSITIONS = st.builds(Position, NUMBERS, NUMBERS)


@given(POSITIONS)
def test_the_text_of_a_position_reads_back_as_the_position(position: Position) -> None:
    assert Position.parse(str(position)) == position


@given(POSITIONS, POSITIONS)
def test_positions_are_ordered_as_two_numbers(one: Position, other: Position) -> None:
    assert (one < other) == ((one.ms, one.seq) < (other.ms, other.seq))


def test_as_text_the_order_would_be_wrong_and_as_positions_it_is_right() -> None:
    assert str(Position(9, 0)) > str(Position(10, 0))
    assert Position(9, 0) < Position(10, 0)
    assert Position(10, 9) < Position(10, 10)


@given(POSITIONS.filter(lambda position: position.ms < 2**63 - 1), POSITIONS)
def test_nothing_stands_between_a_position_and_the_next(position: Position, any_other: Position) -> None:
    following = position.next()
    assert position < following
    assert not position < any_other < following
    assert Position.parse(str(following)) == following


@pytest.mark.parametrize(
    "text",
    [
        "", "-", "1", "1-", "-1", "1-2-3", "1--2", "-1-2", "+1-2", "1-+2", "1.0-2", "1e3-0", "0x1-0",
        " 1-2", "1-2 ", "1 -2", "1-2\n", "\n1-2", "1-2\0", "a-b", "1-a", "$", ">", "*", "(1-2", "1-*",
        "\uff11-\uff12", "\u0661-\u0662", "1\u22122", "1_000-0", "²-0", "1" * 21 + "-0", "0-" + "1" * 21, "1" * 10_000,
    ],
)  # fmt: skip
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is no event id"):
        Position.parse(text)


@pytest.mark.parametrize("text", [f"{2**63}-0", f"0-{2**63}", f"{2**64 - 1}-{2**64 - 1}", "99999999999999999999-0"])
def test_an_id_that_postgresql_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="beyond every event id"):
        Position.parse(text)


@given(st.text(max_size=30) | st.from_regex(r"\A[0-9]{0,22}-[0-9]{0,22}\Z"))
def test_whatever_the_text_the_answer_is_a_position_or_a_refusal(text: str) -> None:
    try:
        position = Position.parse(text)
    except InvalidRequest:
        return
    assert max(position) < 2**63
    assert re.fullmatch("[0-9]{1,20}-[0-9]{1,20}", text)


def test_a_refusal_does_not_repeat_a_text_of_any_length() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Position.parse("x" * 1_000_000)
    assert len(refusal.value.detail) < 200


def test_zero_stands_before_every_event_and_a_partition_names_itself() -> None:
    assert Position(0, 1) > ZERO
    assert ZERO.next() == Position(0, 1)
    assert str(TopicPartition("orders", 3)) == "orders/3"


def test_the_next_of_a_full_millisecond_is_the_next_millisecond() -> None:
    assert Position(5, 2**63 - 1).next() == Position(6, 0)

"""Whatever the text, the parsers of the domain give a value or say no; what they write they read back the same."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from openstream_runtime.domain.dead_letters import (
    DELIVERIES,
    GROUP,
    LETTER,
    REASON,
    DeadEntry,
    Reason,
    Redrive,
    letter_in,
    letter_of,
    redriven,
)
from openstream_runtime.domain.errors import InvalidRequest
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.history import END, Place, before, first_at, last_at
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.replays import ORIGIN, REPLAY, origin_of
from openstream_runtime.domain.topics import MAX_PARTITIONS, Group, GroupSettings
from openstream_runtime.domain.tracing import carried_by, parse
from openstream_runtime.log.codec import format_position, parse_position

#: How long an example takes says how busy the machine is, and nothing else.
quietly = settings(deadline=None, suppress_health_check=list(HealthCheck))

NUMBERS = st.integers(0, 2**63 - 1)
POSITIONS = st.builds(Position, NUMBERS, NUMBERS)
PLACES = st.builds(Place, st.integers(0, MAX_PARTITIONS - 1), POSITIONS)
TEXTS = st.text(max_size=60) | st.from_regex(r"\Ap?[0-9]{0,5}@?[0-9]{0,21}-?[0-9]{0,21}\Z") | POSITIONS.map(str)


@quietly
@given(PLACES)
def test_the_text_of_a_place_reads_back_as_the_place(place: Place) -> None:
    assert Place.parse(str(place)) == place


@quietly
@given(TEXTS)
def test_whatever_the_text_it_is_a_place_or_it_is_none_or_it_is_refused(text: str) -> None:
    try:
        place = Place.parse(text)
    except InvalidRequest:
        return
    if place is not None:
        assert ZERO <= place.position <= END
        assert Place.parse(str(place)) == place


@quietly
@given(POSITIONS)
def test_redis_is_told_a_position_as_it_tells_us(position: Position) -> None:
    assert parse_position(format_position(position)) == position
    assert format_position(position).decode() == str(position)


@quietly
@given(POSITIONS)
def test_nothing_stands_between_a_position_and_the_one_before(position: Position) -> None:
    earlier = before(position)
    assert earlier == position == ZERO or (earlier < position and earlier.next() == position)
    assert first_at(position.ms) <= position <= last_at(position.ms)


SAID = st.dictionaries(
    st.sampled_from([LETTER, GROUP, REASON, DELIVERIES, ORIGIN, REPLAY, "traceparent"]),
    st.text(max_size=30)
    | st.sampled_from(
        ["orders/0/1-1", "orders/-1/1-1", "orders/1e3/1-1", "orders/9999999/1-1", "nacked", "g", "-1", "0"]
    )
    | st.integers().map(str)
    | st.just("9" * 30)
    | st.just("1" * 5_000),
)


def event(headers: bytes | None) -> StoredEvent:
    return StoredEvent(Position(5, 5), "t", "k", b"1", 7, headers)


def forged(**changes: str) -> dict[str, str]:
    """What a producer may write who can write into a dead-letter topic."""
    return {LETTER: "orders/0/1-1", GROUP: "g", REASON: "nacked", DELIVERIES: "3"} | changes


@quietly
@given(
    SAID.map(msgspec.json.encode) | st.binary(max_size=80) | SAID.map(lambda said: msgspec.json.encode(forged(**said)))
)
@example(msgspec.json.encode(forged(**{DELIVERIES: "9" * 30})))
@example(msgspec.json.encode(forged(**{DELIVERIES: "-1"})))
@example(msgspec.json.encode(forged(**{DELIVERIES: "\u0663"})))
@example(msgspec.json.encode(forged(**{REASON: "because"})))
@example(msgspec.json.encode(forged(**{LETTER: "orders/-1/1-1"})))
@example(msgspec.json.encode(forged(**{LETTER: "orders/1_0/1-1"})))
@example(b'{"openstream-dead-letter":')
@example(b"[" * 5_000 + b'"openstream-dead-letter"' + b"]" * 5_000)
def test_a_letter_that_anybody_may_have_written_is_one_of_ours_in_form_or_none(headers: bytes) -> None:
    letter = letter_in(3, event(headers))
    if letter is not None:
        assert 0 <= letter.origin_partition < MAX_PARTITIONS
        assert 0 <= letter.deliveries < 2**53
        assert letter.reason in set(Reason)
        for to in Redrive:
            assert msgspec.json.decode(redriven(letter, "dead", to).headers or b"", type=dict[str, str])


@quietly
@given(
    st.none() | st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3).map(msgspec.json.encode),
    st.integers(0, MAX_PARTITIONS - 1),
    POSITIONS,
    st.integers(1, 2**40),
    st.text(min_size=1, max_size=200).filter(lambda name: name.isprintable()),
    st.sampled_from(Reason),
)
def test_a_letter_that_we_write_is_read_back_whole(
    headers: bytes | None, partition: int, at: Position, deliveries: int, consumer: str, reason: Reason
) -> None:
    group = Group(1, "a.topic-of_ours", "g", "0-0", 0, settings=GroupSettings())
    original = StoredEvent(at, "t", "k", b" {} ", 7, headers)
    entry = DeadEntry(Position(1, 1), at, deliveries, consumer, reason, True, original)
    made = letter_of(original, group, partition, entry)
    letter = letter_in(9, StoredEvent(Position(5, 5), "t", "k", made.payload, 7, made.headers))
    assert letter is not None
    assert (letter.topic, letter.origin_partition, letter.origin) == (group.topic, partition, at)
    assert (letter.group, letter.reason, letter.deliveries) == ("g", reason, deliveries)
    assert letter.consumer == (None if consumer.startswith("~os:") else consumer)


@quietly
@given(SAID.map(msgspec.json.encode) | st.binary(max_size=80))
def test_whatever_headers_say_of_a_replay_it_is_an_origin_or_none(headers: bytes) -> None:
    found = origin_of(headers, "orders", 0, "rp_1")
    assert found is None or ZERO <= found <= END


HEX = st.text("0123456789abcdefABCDEFg-", max_size=60)


@quietly
@given(HEX | st.text(max_size=80), st.text(max_size=600))
def test_whatever_a_traceparent_says_it_is_a_context_or_none(said: str, state: str) -> None:
    context = parse(said, state)
    if context is not None:
        again = parse(context.header, context.state)
        assert again == context
        assert len(context.state) <= 512


@quietly
@given(st.lists(st.none() | st.binary(max_size=120), max_size=5))
def test_whatever_events_carry_their_contexts_are_found_or_not(headers: list[bytes | None]) -> None:
    assert len(list(carried_by(headers))) <= len(headers)


@pytest.mark.parametrize("wrong", [-1, 2**63, 2**70])
def test_a_time_beyond_every_position_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidRequest):
        last_at(wrong)

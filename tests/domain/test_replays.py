"""Replays, as far as they need nobody: headers that travel along, tokens, rates."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.replays import Bucket, NewReplay, Pace, copy_of, origin_of
from support.fake_replays import as_made

AT = Position(1_730_000_000_000, 7)


def stored(headers: bytes | None) -> StoredEvent:
    return StoredEvent(AT, "t", "k", b' {"a" : 1}', 5, headers)


@given(st.none() | st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4), st.integers(0, 3))
def test_headers_come_along_and_the_origin_is_found_again(said: dict[str, str] | None, space: int) -> None:
    raw = None if said is None else msgspec.json.format(msgspec.json.encode(said), indent=space)
    copy = copy_of(stored(raw), "orders", 3, "rp_1")
    ours = {"openstream-replay-of": f"orders/3/{AT}", "openstream-replay": "rp_1"}
    assert msgspec.json.decode(copy.headers or b"", type=dict[str, str]) == {**(said or {}), **ours}
    assert origin_of(copy.headers, "orders", 3, "rp_1") == AT
    assert (copy.event_type, copy.partition_key, copy.payload, copy.timestamp_ms) == ("t", "k", b' {"a" : 1}', 5)


def test_the_producers_bytes_are_left_as_they_came() -> None:
    raw = b'{ "a" :"\\u00e9" , "b":"x"\n} '
    copied = copy_of(stored(raw), "orders", 3, "rp_1").headers
    assert copied is not None
    assert copied.startswith(b'{ "a" :"\\u00e9" , "b":"x"')


def test_a_copy_of_a_copy_has_the_headers_once() -> None:
    first = copy_of(stored(b'{"a":"1"}'), "orders", 3, "rp_1").headers
    second = copy_of(StoredEvent(Position(9, 9), "t", None, b"1", 5, first), "copy", 0, "rp_2").headers
    assert second is not None
    assert second.count(b"openstream-replay-of") == 1
    assert origin_of(second, "copy", 0, "rp_2") == Position(9, 9)
    assert origin_of(second, "orders", 3, "rp_1") is None


@pytest.mark.parametrize("headers", [None, b"{}", b'{"x":"rp_1"}', b"[rp_1", b'{"openstream-replay":"rp_1"}'])
def test_other_events_have_no_origin(headers: bytes | None) -> None:
    assert origin_of(headers, "orders", 3, "rp_1") is None
    copied = copy_of(stored(None), "orders", 3, "rp_1").headers
    for other in (("orders", 2, "rp_1"), ("others", 3, "rp_1"), ("orders", 3, "rp_2")):
        assert origin_of(copied, *other) is None


@given(
    st.floats(0.1, 50_000),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 500)), min_size=1, max_size=60),
)
def test_a_bucket_never_gives_more_than_its_rate_allows(rate: float, asks: list[tuple[float, int]]) -> None:
    bucket, now, given_ = Bucket(rate, 100.0), 100.0, 0
    for pause, wanted in asks:
        now += pause
        some = bucket.take(wanted, now)
        assert 0 <= some <= wanted
        given_ += some
        assert given_ <= rate * (now - 100.0) + 0.001


@pytest.mark.parametrize("rate", [0.5, 7.0, 1_000.0, 33_333.0])
def test_who_waits_as_told_gets_the_rate(rate: float) -> None:
    bucket, now, given_ = Bucket(rate, 0.0), 0.0, 0
    while now < 10:
        some = bucket.take(500, now)
        given_ += some
        if not some:
            now += bucket.wait(500)
    assert rate * 10 * 0.98 - 1 <= given_ <= rate * 10 * 1.02 + 1


def test_half_a_second_of_pauses_is_made_good_and_no_more() -> None:
    bucket = Bucket(1_000.0, 0.0)
    assert bucket.take(5_000, 60.0) == 500
    assert bucket.take(5_000, 60.0) == 0


def test_a_pace_begins_with_what_it_sees_and_goes_on_smoothly() -> None:
    pace = Pace(100, 10.0)
    pace.observe(100, 10.0)
    assert pace.rate == 0
    pace.observe(300, 11.0)
    assert pace.rate == 200
    pace.observe(300, 12.0)
    assert 0 < pace.rate < 200


@given(st.floats(0, 1e300))
def test_a_replay_that_fades_to_a_standstill_is_still_told_about(rate: float) -> None:
    """Its smoothed rate goes towards zero for as long as it stands, and the time that is left towards infinity."""
    new = NewReplay("rp_1", 1, "orders", 2, "copy", 1, None, None, None, 1_000, [])
    eta_ms = replace(as_made(new, 0), rate=rate).eta_ms
    assert eta_ms is None or 0 <= eta_ms < 2**53

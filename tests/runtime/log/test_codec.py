"""Entries that strangers wrote are read as well as they can be, and stop nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest

from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.log import RedisLog
from openstream_runtime.log.codec import decode_entry, format_position, parse_position, parse_positions
from support.log_harness import appended, at, events, verified

FULL = [b"t", b"a.b", b"p", b"1", b"s", b"5", b"k", b"key", b"h", b'{"a":"b"}']


def test_a_position_is_written_as_it_is_read() -> None:
    for position in (ZERO, Position(1_700_000_000_000, 42), Position(2**63 - 1, 2**63 - 1)):
        assert parse_position(format_position(position)) == position


def test_two_ends_stand_for_all_positions_between() -> None:
    assert parse_positions([b"5-7", b"5-10"], 4) == [Position(5, seq) for seq in (7, 8, 9, 10)]
    assert parse_positions([b"5-7", b"6-0"], 2) == [Position(5, 7), Position(6, 0)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (FULL, ("a.b", "key", b"1", 5, b'{"a":"b"}')),
        (FULL[:6], ("a.b", None, b"1", 5, None)),
        (FULL[:6] + FULL[8:], ("a.b", None, b"1", 5, b'{"a":"b"}')),
        (FULL[2:4] + FULL[:2], ("a.b", None, b"1", 9, None)),  # another order, no timestamp
        ([], ("", None, b"null", 9, None)),
        ([b"x", b"y"], ("", None, b"null", 9, None)),
        ([b"t", b"a", b"p", b"not json", b"s", b"soon"], ("a", None, b'"not json"', 9, None)),
        ([b"t", b"\xff", b"p", b"[1]", b"s", b"5"], ("�", None, b"[1]", 5, None)),
        ([b"p", b"\xff\xfe"], ("", None, '"��"'.encode(), 9, None)),
        ([b"p", b"[" * 100_000], ("", None, b'"' + b"[" * 100_000 + b'"', 9, None)),
        ([b"k", b"\xff", b"h", b"[]"], ("", "�", b"null", 9, None)),
        ([b"h", b'{"a":1}'], ("", None, b"null", 9, None)),
        ([b"h", b'{"a":"1"}'], ("", None, b"null", 9, b'{"a":"1"}')),
        ([b"odd"], ("", None, b"null", 9, None)),
    ],
)
def test_every_entry_makes_an_event(fields: list[bytes], expected: tuple[object, ...]) -> None:
    event = decode_entry([b"9-1", fields])
    assert event.position == Position(9, 1)
    assert (event.event_type, event.partition_key, event.payload, event.timestamp_ms, event.headers) == expected
    msgspec.json.decode(event.payload)


@pytest.mark.anyio
async def test_a_stray_entry_is_read_by_groups_and_persisters_alike(
    log: RedisLog, admin: Callable[..., Awaitable[object]]
) -> None:
    topic = await verified(log)
    [first] = await appended(log, topic, events(1))
    await admin("XADD", f"os:stream:{topic.name}:0", "*", "data", "from elsewhere")
    [last] = await appended(log, topic, events(1))
    found = await log.events.read_after(at(topic), ZERO, count=9)
    assert [one.event_type for one in found] == ["test", "", "test"]
    await log.groups.create(topic.name, "g", {0: "0-0"})
    delivered = (await log.groups.read(topic.name, "g", "c", [0], count=9)).deliveries
    assert [one.event for one in delivered] == found
    assert (found[0].position, found[2].position) == (first, last)

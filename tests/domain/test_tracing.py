"""Trace contexts: which headers tell one, what an event keeps of them, and what is never touched."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openstream_runtime.domain.tracing import Stamp, TraceContext, carried_by, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_a_traceparent_names_a_span_and_whether_it_is_recorded() -> None:
    assert parse(PARENT) == TraceContext(int(TRACE, 16), int(SPAN, 16), True)
    assert parse(f"00-{TRACE}-{SPAN}-00") == TraceContext(int(TRACE, 16), int(SPAN, 16), False)
    assert parse(f"00-{TRACE}-{SPAN}-03", "a=1,b=2") == TraceContext(int(TRACE, 16), int(SPAN, 16), True, "a=1,b=2")


def test_a_context_is_written_as_it_was_read() -> None:
    context = parse(PARENT)
    assert context is not None
    assert context.header == PARENT


def test_versions_to_come_are_read_as_far_as_they_are_known() -> None:
    assert parse(f"01-{TRACE}-{SPAN}-01-what-comes") is not None
    assert parse(f"00-{TRACE}-{SPAN}-01-what-comes") is None


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0",
        f"00-{TRACE}-{SPAN}-01 ",
        f"00-{TRACE}-{SPAN}-01\n",
        f"{PARENT},{PARENT}",
        f"\u0660\u0660{PARENT[2:]}",
    ],
)
def test_anything_else_names_none(bad: str) -> None:
    assert parse(bad) is None
    assert Stamp.of([bad], []) is None


def test_a_bad_tracestate_alone_is_left_out() -> None:
    for bad in ("a=ü", "a=\x00", "x" * 513):
        context = parse(PARENT, bad)
        assert context is not None
        assert context.state == ""
        stamp = Stamp.of([PARENT], [bad])
        assert stamp is not None
        assert json.loads(stamp.on((), None)) == {"traceparent": PARENT}


def test_two_traceparents_are_none() -> None:
    assert Stamp.of([PARENT, PARENT], []) is None
    assert Stamp.of([], ["a=1"]) is None


def _stamp() -> Stamp:
    stamp = Stamp.of([PARENT], ["a=1", "b=2"])
    assert stamp is not None
    return stamp


def test_an_event_without_headers_gets_the_requests() -> None:
    for none in (None, b"{}"):
        assert json.loads(_stamp().on((), none)) == {"traceparent": PARENT, "tracestate": "a=1,b=2"}


@pytest.mark.parametrize("name", ["traceparent", "Traceparent", "TRACESTATE"])
def test_what_a_producer_said_itself_is_never_changed(name: str) -> None:
    own = msgspec.json.encode({name: "mine", "k": "v"})
    assert _stamp().on([name, "k"], own) is own


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), min_size=1, max_size=5))
def test_a_stamped_event_keeps_every_header_it_had(headers: dict[str, str]) -> None:
    if {name.lower() for name in headers} & {"traceparent", "tracestate"}:
        return
    stamped = _stamp().on(headers, msgspec.json.encode(headers))
    assert json.loads(stamped) == headers | {"traceparent": PARENT, "tracestate": "a=1,b=2"}
    assert list(carried_by([stamped])) == [parse(PARENT)]


@given(st.dictionaries(st.text(max_size=60), st.text(max_size=90), max_size=5))
def test_a_context_is_found_in_no_text_that_only_looks_like_one(headers: dict[str, str]) -> None:
    headers.pop("traceparent", None)
    headers[f'x"traceparent":"{PARENT}"'] = f'{{"traceparent":"{PARENT}"}}'
    headers["\\"] = f'\\"traceparent":"{PARENT}"'
    assert list(carried_by([msgspec.json.encode(headers)])) == []


def test_each_context_is_told_once_and_those_nobody_records_not_at_all() -> None:
    def of(trace: int, flags: str = "01") -> bytes:
        return msgspec.json.encode({"traceparent": f"00-{trace:032x}-{SPAN}-{flags}"})

    found = carried_by([None, of(1), of(2, "00"), b"{}", of(1), of(3)])
    assert [one.trace_id for one in found] == [1, 3]


def test_no_more_events_are_looked_at_than_are_needed() -> None:
    events = iter([_stamp().on((), None), None, None])
    assert next(carried_by(events)) == parse(PARENT)
    assert len(list(events)) == 2

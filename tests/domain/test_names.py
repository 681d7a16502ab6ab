"""Names from outside: what passes can stand in a Redis key, a path, a log line and a row; nothing else passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openstream_runtime.domain.errors import InvalidRequest
from openstream_runtime.domain.names import RELEASED, RESERVED_CONSUMER_PREFIX, check_consumer, check_group, check_topic

CHECKS = [check_topic, check_group]
GOOD = ["a", "orders", "Orders-2_x.y", "0", "-", "_", "...", "..a", "a.", "-rf", "a" * 200, "os", "None"]
BAD = [
    "", " ", ".", "..", "a\n", "\na", "a\r", "a\n\n", "a\0", "\0", "a b", "a\t", " a", "a ",
    "é", "e\u0301", "\uff41", "\u0430",
    "ß", "日本", "a\u200b", "a\u2028", "\ud800", "a" * 201, "a" * 100_000, "{x}", "{", "}", "a:b", ":", "a/b", "/",
    "a\\b", "a%0a", "a*", "a?", "[a]", "a,b", "a;b", 'a"b', "a'b", "a@b", "a#b", "$", ">", "~os:x", "a+b", "a=b",
    "a&b", "<a>", "\u0661", "²",
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", GOOD)
def test_a_plain_name_passes_as_it_is(check: Callable[[str], str], name: str) -> None:
    assert check(name) == name


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", BAD, ids=lambda name: ascii(name)[:20])
def test_anything_else_is_refused_in_a_sentence_that_can_be_shown(check: Callable[[str], str], name: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check(name)
    detail = refusal.value.detail
    assert "expected 1 to 200 of" in detail
    assert len(detail) < 500
    assert detail.isprintable()
    detail.encode()


@given(st.text(max_size=210))
def test_a_name_that_passes_is_made_of_the_allowed_characters_only(name: str) -> None:
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    is_good = 1 <= len(name) <= 200 and set(name) <= allowed and name not in {".", ".."}
    for check in CHECKS:
        try:
            assert (check(name) == name) is is_good
        except InvalidRequest:
            assert not is_good


@pytest.mark.parametrize(
    "name", ["c1", "host:1234/worker 7", "é", "日本", "{x}", "a" * 200, "é" * 200, "~", "~osx", "os:"]
)
def test_a_consumer_may_be_called_anything_that_prints(name: str) -> None:
    assert check_consumer(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "a" * 201, "a\n", "a\tb", "\0", "a\x1b[2K", "\u2028", "\u202e", "\u200b", "\ud800", "\x7f", "\x85", RELEASED,
     RESERVED_CONSUMER_PREFIX, f"{RESERVED_CONSUMER_PREFIX}mine"],
    ids=lambda name: ascii(name)[:20],
)  # fmt: skip
def test_a_consumer_that_does_not_print_or_is_one_of_ours_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_consumer(name)


def test_our_own_consumer_is_among_the_reserved_ones() -> None:
    assert RELEASED.startswith(RESERVED_CONSUMER_PREFIX)

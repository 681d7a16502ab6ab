"""Names that come from outside, checked before any key, path or row is made of them."""

from __future__ import annotations

import re

from openstream_runtime.domain.errors import InvalidRequest

# fullmatch, never match with `$`: `$` also matches before a trailing newline, so `orders%0a` would pass.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)
#: Consumer names that begin so are ours: `RELEASED` holds entries that wait for whoever reads next, `DELAYED` those
#: that wait for their time first, `DEAD` those that go to the dead-letter topic.
RESERVED_CONSUMER_PREFIX = "~os:"
RELEASED, DELAYED, DEAD = "~os:released", "~os:delayed", "~os:dead"


def check_topic(name: str) -> str:
    """The name of a topic, or InvalidRequest."""
    return _check("topic", name)


def check_group(name: str) -> str:
    """The name of a consumer group, or InvalidRequest."""
    return _check("group", name)


def check_consumer(name: str) -> str:
    """The name of a consumer: 1 to 200 printable characters, not one of ours; or InvalidRequest."""
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise InvalidRequest("a consumer's name has 1 to 200 printable characters")
    if name.startswith(RESERVED_CONSUMER_PREFIX):
        raise InvalidRequest(f"consumer names that begin with {RESERVED_CONSUMER_PREFIX!r} are reserved")
    return name


def _check(what: str, name: str) -> str:
    if _NAME.fullmatch(name) is None or name in {".", ".."}:
        raise InvalidRequest(f"{name[:64]!r} is no {what} name: expected 1 to 200 of A-Z a-z 0-9 . _ -")
    return name

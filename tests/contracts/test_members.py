"""What all Members do, in memory as on Redis. Servers are shared, so only our own nodes count."""

from __future__ import annotations

import secrets

import pytest

from openstream_runtime.ports.nodes import NodeInfo
from support.log_harness import Log, eventually

pytestmark = pytest.mark.anyio
LONG = 600_000


def new_node(prefix: str) -> NodeInfo:
    return NodeInfo(f"{prefix}-{secrets.token_hex(6)}", "http://127.0.0.1:8000", 1_700_000_000_000, "0.1.0")


async def test_every_node_that_beats_is_seen_by_all_in_order(log: Log) -> None:
    b, a = new_node("b"), new_node("a")
    assert b in await log.members.beat(b, LONG)
    seen = await log.members.beat(a, LONG)
    assert [one for one in seen if one in (a, b)] == [a, b]
    assert [one.id for one in seen] == sorted(one.id for one in seen)
    for node in (a, b):
        await log.members.leave(node.id)


async def test_a_node_that_leaves_is_gone_at_once(log: Log) -> None:
    a, b = new_node("a"), new_node("b")
    await log.members.beat(a, LONG)
    await log.members.leave(a.id)
    await log.members.leave(a.id)
    assert a not in await log.members.beat(b, LONG)
    await log.members.leave(b.id)


async def test_a_node_that_stops_beating_is_gone_after_its_time(log: Log) -> None:
    a, b = new_node("a"), new_node("b")
    await log.members.beat(a, 30)
    await eventually(lambda: log.members.beat(b, LONG), lambda seen: a not in seen and b in seen)
    assert a in await log.members.beat(a, LONG)
    for node in (a, b):
        await log.members.leave(node.id)


async def test_what_a_node_says_of_itself_may_change(log: Log) -> None:
    node = new_node("a")
    await log.members.beat(node, LONG)
    moved = NodeInfo(node.id, "http://[::1]:9 größe", 5, "0.2.0")
    assert [one for one in await log.members.beat(moved, LONG) if one.id == node.id] == [moved]
    await log.members.leave(node.id)

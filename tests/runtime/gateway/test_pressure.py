"""Backpressure: what is taken in, and when to come back."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openstream_runtime.actors.board import Sample
from openstream_runtime.domain.errors import Overloaded
from openstream_runtime.domain.positions import ZERO, TopicPartition
from openstream_runtime.domain.topics import Topic, TopicSettings
from openstream_runtime.gateway.pressure import LONGEST, MAILBOXES, SHORTEST, Pressure
from openstream_runtime.ports.log import Refusal, StreamStats
from support.actors import Rig, make_world, run_virtual

pytestmark = pytest.mark.anyio
AT = TopicPartition("orders", 0)


def sampled(rig: Rig, unpersisted: int, rate: float, *, used_memory: int = 0, maxmemory: int = 0) -> None:
    stats = StreamStats(unpersisted, ZERO, unpersisted, ZERO, None)
    rig.world.board.sample = Sample(
        1.0, {AT: stats}, persist_rate={AT: rate}, used_memory=used_memory, maxmemory=maxmemory
    )


def retry_after(error: Overloaded) -> int:
    value = error.facts["retry_after_ms"]
    assert isinstance(value, int)
    return value


async def test_what_is_taken_in_is_bounded_over_all_topics(rig: Rig) -> None:
    pressure = Pressure(rig.world)
    room = rig.world.limits.mailbox_bytes * MAILBOXES
    pressure.admit(room)
    with pytest.raises(Overloaded) as overloaded:
        pressure.admit(1)
    assert overloaded.value.facts["reason"] == "mailbox"
    pressure.done(room)
    pressure.admit(1)


async def test_when_redis_is_nearly_full_nothing_is_taken_in(rig: Rig) -> None:
    pressure = Pressure(rig.world)
    sampled(rig, 0, 0.0, used_memory=95, maxmemory=100)
    with pytest.raises(Overloaded) as overloaded:
        pressure.admit(1)
    assert overloaded.value.facts["reason"] == "redis_memory"
    sampled(rig, 0, 0.0, used_memory=95, maxmemory=0)  # no limit
    pressure.admit(1)


async def test_what_came_after_the_last_look_at_the_memory_counts(rig: Rig) -> None:
    pressure = Pressure(rig.world)
    sampled(rig, 0, 0.0, used_memory=50, maxmemory=100)
    for _ in range(4):
        pressure.admit(10)
        pressure.appended(10)
        pressure.done(10)
    pressure.admit(10)  # on the way, as far as anybody knows
    with pytest.raises(Overloaded) as overloaded:
        pressure.admit(1)
    assert overloaded.value.facts["reason"] == "redis_memory"
    sampled(rig, 0, 0.0, used_memory=70, maxmemory=100)  # what was written is in this; what is on the way is not
    pressure.admit(10)
    pressure.appended(10)
    pressure.admit(1)
    with pytest.raises(Overloaded):
        pressure.admit(1)


async def test_the_other_nodes_are_taken_to_write_as_much(rig: Rig) -> None:
    pressure = Pressure(rig.world)
    rig.world.board.nodes = [rig.world.board.node] * 3
    sampled(rig, 0, 0.0, used_memory=50, maxmemory=100)
    pressure.admit(14)
    with pytest.raises(Overloaded):
        pressure.admit(1)


async def test_come_back_when_half_of_what_may_wait_is_worked_off() -> None:
    rig = make_world(max_unpersisted=10_000)
    pressure = Pressure(rig.world)
    sampled(rig, 10_000, 1_000.0)
    assert retry_after(pressure.partition_full(AT, Refusal.UNPERSISTED)) == 5_000
    sampled(rig, 10_000, 0.0)  # PostgreSQL is away: nobody knows
    assert retry_after(pressure.partition_full(AT, Refusal.UNPERSISTED)) == LONGEST / 3
    rig.world.board.sample = Sample(0.0)  # nothing is known
    assert retry_after(pressure.partition_full(AT, Refusal.UNPERSISTED)) == 2 * SHORTEST


async def test_a_full_stream_is_measured_by_its_own_bound() -> None:
    rig = make_world(max_unpersisted=1_000_000, max_stream_len=50_000)
    pressure = Pressure(rig.world)
    sampled(rig, 50_000, 5_000.0)
    assert retry_after(pressure.partition_full(AT, Refusal.LENGTH)) == 5_000
    rig.world.board.topics = {"orders": Topic(1, "orders", 1, TopicSettings(max_stream_len=40_000))}
    assert retry_after(pressure.partition_full(AT, Refusal.LENGTH)) == 6_000


@pytest.mark.parametrize("reason", [Refusal.LENGTH, Refusal.UNPERSISTED, Refusal.MEMORY])
async def test_a_refusal_says_where_and_why(rig: Rig, reason: Refusal) -> None:
    error = Pressure(rig.world).partition_full(AT, reason)
    assert (error.facts["topic"], error.facts["partition"], error.facts["reason"]) == ("orders", 0, str(reason))
    assert rig.meter.of("rejected") == [(str(reason),)]


@given(st.integers(0, 10**12), st.floats(0, 10**9), st.sampled_from([Refusal.LENGTH, Refusal.UNPERSISTED]))
def test_every_estimate_is_between_a_second_and_half_a_minute(unpersisted: int, rate: float, reason: Refusal) -> None:
    async def main() -> None:
        rig = make_world()
        sampled(rig, unpersisted, rate)
        assert SHORTEST <= retry_after(Pressure(rig.world).partition_full(AT, reason)) <= LONGEST

    run_virtual(main)


async def test_a_full_mailbox_is_measured_by_the_pace_of_the_last_seconds(rig: Rig) -> None:
    pressure = Pressure(rig.world)
    for _ in range(100):
        pressure.admit(10_000)
        await anyio.sleep(0.1)
        pressure.done(10_000)
    pressure.admit(500_000)
    assert retry_after(pressure.mailbox_full()) == pytest.approx(5_000, rel=0.2)


async def test_after_a_quiet_hour_the_pace_of_that_hour_is_not_believed(rig: Rig) -> None:
    pressure = Pressure(rig.world)
    await anyio.sleep(3_600)
    pressure.admit(1_000)
    pressure.done(1_000)
    pressure.admit(1_000_000)
    assert retry_after(pressure.mailbox_full()) == SHORTEST

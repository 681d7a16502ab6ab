"""Produce requests that are repeated: kept once, told their original ids, whatever was lost on the way."""

from __future__ import annotations

import anyio
import pytest

from openstream_runtime.domain.errors import (
    OpenStreamError,
    OutcomeUnknown,
    OutOfSequence,
    Overloaded,
    PartlyDone,
    SequenceReused,
    StaleEpoch,
    UnknownProducer,
)
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.producers import Stamp, home_of
from openstream_runtime.domain.topics import Topic
from openstream_runtime.gateway.results import Ack, Produced
from openstream_runtime.ports.store import PersistBatch
from support.actors import Rig, make_world
from support.desk import Desk, open_desk, texts
from support.remembered import FakeHome

pytestmark = pytest.mark.anyio
PARTITIONS = 4


def some(count: int, begin: int = 0, keys: int = 7) -> list[NewEvent]:
    return [NewEvent("t", f"k{n % keys}", str(n).encode(), 1) for n in range(begin, begin + count)]


def at(seq: int, epoch: int = 0, producer: str = "p") -> Stamp:
    return Stamp(producer, epoch, seq)


async def send(desk: Desk, stamp: Stamp, events: list[NewEvent], ack: Ack = Ack.APPENDED) -> Produced:
    return await desk.gateway.produce("orders", events, partitions=PARTITIONS, ack=ack, stamp=stamp)


def retained(rig: Rig) -> list[str]:
    return sorted(
        (one.payload.decode() for stream in rig.redis.streams.values() for one in stream.entries.values()), key=int
    )


def all_of(count: int) -> list[str]:
    return [str(n) for n in range(count)]


async def persist(rig: Rig, topic: Topic) -> None:
    """PostgreSQL has all that Redis has."""
    for number in range(PARTITIONS):
        stream = rig.redis.streams.get(TopicPartition(topic.name, number))
        if stream is not None and stream.entries:
            cursor = await rig.store.events.take(topic.id, number, "a")
            assert cursor is not None
            events = list(stream.entries.values())
            await rig.store.events.write([PersistBatch(topic.id, number, *cursor, stream.last, events)])


async def test_a_repetition_is_told_the_original_ids_on_this_node_and_on_another(rig: Rig) -> None:
    other = rig.node("b")
    async with open_desk(rig) as desk, open_desk(other) as far:
        first = await send(desk, at(0), some(20))
        assert not first.duplicates
        for place in (desk, far, desk):
            again = await send(place, at(0), some(20))
            assert again.results == first.results
            assert again.duplicates == set(range(20))
        await send(far, at(20), some(5, 20))
    assert retained(rig) == all_of(25)
    assert texts(first.results, rig, "orders") == all_of(20)
    assert sum(count for _, _, count, _ in rig.meter.of("appended") + other.meter.of("appended")) == 25


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("operation", ["begin", "append", "finish"])
async def test_whatever_answer_is_lost_the_same_request_completes_it(rig: Rig, operation: str, kept: bool) -> None:
    async with open_desk(rig) as desk, open_desk(rig.node("b")) as far:
        await send(desk, at(0), some(10))
        rig.redis.lose_answer(operation, kept=kept)
        with pytest.raises(OpenStreamError) as lost:
            await send(desk, at(10), some(10, 10))
        assert "repeating the same request is safe" in lost.value.detail
        assert lost.value.facts["repeatable"] is True
        if operation != "begin":
            assert isinstance(lost.value, OutcomeUnknown)
        done = await send(far, at(10), some(10, 10))
        assert texts(done.results, rig, "orders") == [str(n) for n in range(10, 20)]
        assert len(done.duplicates) == (10 if operation == "finish" or (operation, kept) == ("append", True) else 0)
    assert retained(rig) == all_of(20)


async def test_a_request_of_which_some_shares_are_kept_is_completed_by_the_same_request(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await send(desk, at(0), some(30))
        meta = rig.redis.meta[TopicPartition("orders", 2)]
        meta.n += 10**6  # one partition takes nothing for now
        with pytest.raises(PartlyDone) as partly:
            await send(desk, at(30), some(30, 30))
        assert partly.value.facts["repeatable"] is True
        assert {one["status"] for one in partly.value.facts["results"]} == {"appended", "not_stored"}
        with pytest.raises(OutOfSequence):
            await send(desk, at(60), some(1, 60))
        meta.n -= 10**6
        done = await send(desk, at(30), some(30, 30))
        assert 0 < len(done.duplicates) < 30
        for one, (partition, place) in zip(partly.value.facts["results"], done.results, strict=True):
            assert one["partition"] == partition
            assert one.get("redis_id", str(place)) == str(place)
        await send(desk, at(60), some(1, 60))
    assert retained(rig) == all_of(61)


async def test_events_without_a_key_find_their_partition_again(rig: Rig) -> None:
    async with open_desk(rig) as desk, open_desk(rig.node("b")) as far:
        seen = set()
        for seq in range(40):
            first = await send(desk, at(seq), [NewEvent("t", None, b"%d" % seq, 1)])
            await desk.gateway.produce("noise", [NewEvent("t", None, b"0", 1)])
            again = await send(far, at(seq), [NewEvent("t", None, b"%d" % seq, 1)])
            assert again.results == first.results
            seen.add(first.results[0][0])
            named = NewEvent("t", None, b"%d" % (1000 + seq), 1, event_id=f"e{seq}")
            one = await desk.gateway.produce("orders", [named])
            two = await far.gateway.produce("orders", [named])
            assert (two.results, two.duplicates) == (one.results, {0})
        assert seen == set(range(PARTITIONS))


async def test_what_a_producer_does_wrong_is_told_and_keeps_nothing(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        with pytest.raises(UnknownProducer, match="from seq 0"):
            await send(desk, at(5), some(1))
        await send(desk, at(0, epoch=1), some(10))
        with pytest.raises(OutOfSequence) as ahead:
            await send(desk, at(11, epoch=1), some(1))
        assert (ahead.value.facts["expected_seq"], ahead.value.facts["producer_seq"]) == (10, 11)
        with pytest.raises(SequenceReused):
            await send(desk, at(0, epoch=1), some(9))
        with pytest.raises(OutOfSequence, match="behind"):
            await send(desk, at(3, epoch=1), some(1))
        with pytest.raises(StaleEpoch) as stale:
            await send(desk, at(10, epoch=0), some(1))
        assert stale.value.facts["current_epoch"] == 1
        for error in (ahead.value, stale.value):
            assert "repeatable" not in error.facts
    assert retained(rig) == all_of(10)


async def test_timestamps_the_node_supplied_do_not_make_it_another_request(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        first = await send(desk, at(0), [NewEvent("t", "k", b"0", 1)])
        assert (await send(desk, at(0), [NewEvent("t", "k", b"0", 2)])).results == first.results


async def test_a_flushed_redis_is_told_to_every_producer_that_had_begun(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await send(desk, at(0), some(10))
        await persist(rig, await desk.gateway.topic("orders"))
        rig.redis.flush()
        with pytest.raises(UnknownProducer):
            await send(desk, at(10), some(10, 10))
        await send(desk, at(0, epoch=1), some(10, 10))
        await send(desk, at(10, epoch=1), some(10, 20))
    assert retained(rig) == [str(n) for n in range(10, 30)]


async def test_a_tail_that_only_postgresql_has_is_never_doubled(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        one = [NewEvent("t", "k", b"0", 1)]
        [(partition, _)] = (await send(desk, at(0), one)).results
        second = (await send(desk, at(1), [NewEvent("t", "k", b"1", 1)])).results
        await persist(rig, await desk.gateway.topic("orders"))
        # A failover to a replica that had seen neither the second request nor what was remembered of it.
        place = TopicPartition("orders", partition)
        rig.redis.lose_tail(place, 1)
        home = rig.redis.remembered(TopicPartition("orders", home_of("p", PARTITIONS))).producers.now["hp"]
        assert isinstance(home, FakeHome)
        home.next, home.past = 1, home.past[:1]
        with pytest.raises(UnknownProducer):
            await send(desk, at(1), [NewEvent("t", "k", b"1", 1)])
        third = (await send(desk, at(2, epoch=1), [NewEvent("t", "k", b"2", 1)])).results
        assert third[0][1] > second[0][1]
    assert retained(rig) == ["2"]


async def test_a_zombie_of_an_older_epoch_is_refused_though_it_was_admitted(rig: Rig) -> None:
    async with open_desk(rig) as desk, open_desk(rig.node("b")) as far, anyio.create_task_group() as tasks:
        await send(desk, at(0), some(8))
        gate, before = rig.redis.stall("append"), rig.redis.calls["append"]

        async def zombie() -> None:
            with pytest.raises(StaleEpoch):
                await send(desk, at(8), some(8, 100))

        tasks.start_soon(zombie)
        while rig.redis.calls["append"] == before:  # noqa: ASYNC110 (virtual time)
            await anyio.sleep(0.01)
        rig.redis._stalls.clear()
        await send(far, at(0, epoch=1), some(8, 8))
        gate.set()
    assert retained(rig) == all_of(16)


async def test_replicas_are_waited_for_by_a_repetition_as_well() -> None:
    rig = make_world(ack_replicas=1)
    async with open_desk(rig) as desk:
        for _ in range(2):
            with pytest.raises(PartlyDone, match="replicas"):
                await send(desk, at(0), some(3), Ack.REPLICATED)
        rig.redis.replicas = 1
        assert (await send(desk, at(0), some(3), Ack.REPLICATED)).duplicates == {0, 1, 2}
    assert retained(rig) == all_of(3)


async def test_on_several_servers_the_replicas_of_every_partition_are_waited_for_also_when_it_was_kept_before() -> None:
    rig = make_world(ack_replicas=1)
    rig.redis.sharded, rig.redis.replicas = True, 1
    async with open_desk(rig) as desk:
        for turn in range(2):
            done = await send(desk, at(0), some(20), Ack.REPLICATED)
            assert len(done.duplicates) == 20 * turn
            asked, rig.redis.asked_of_replicas = {place.partition for place in rig.redis.asked_of_replicas}, []
            assert asked >= {number for number, _ in done.results}
        rig.redis.replicas = 0
        with pytest.raises(PartlyDone, match="replicas"):
            await send(desk, at(0), some(20), Ack.REPLICATED)


async def test_a_refusal_for_want_of_room_says_that_repeating_is_safe(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await send(desk, at(0), some(3))
        rig.redis.out_of_memory = True
        with pytest.raises(Overloaded) as full:
            await send(desk, at(3), some(3, 3))
        assert full.value.facts["repeatable"] is True
        assert len((await send(desk, at(0), some(3))).duplicates) == 3
        rig.redis.out_of_memory = False
        await send(desk, at(3), some(3, 3))
    assert retained(rig) == all_of(6)


async def test_without_stamp_and_ids_nothing_is_promised(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", some(1), partitions=PARTITIONS)
        for events, repeatable in (
            (some(2), None),
            ([NewEvent("t", "k", b"1", 1, event_id="a")], True),
            ([NewEvent("t", "k", b"1", 1, event_id="b"), *some(1)], None),
        ):
            rig.redis.lose_answer("append", kept=True)
            with pytest.raises(OutcomeUnknown) as unknown:
                await desk.gateway.produce("orders", events)
            assert unknown.value.facts.get("repeatable") is repeatable


def test_a_home_is_one_of_the_partitions() -> None:
    assert {home_of(f"p{n}", PARTITIONS) for n in range(100)} == set(range(PARTITIONS))


async def test_another_trace_does_not_make_it_another_request(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        traced = [NewEvent("t", "k", b"0", 1, b'{"a":"1","traceparent":"00-%032d-%016d-01"}' % (n, n)) for n in (1, 2)]
        first = await send(desk, at(0), traced[:1])
        assert (await send(desk, at(0), traced[1:])).results == first.results
        with pytest.raises(SequenceReused):
            await send(desk, at(0), [NewEvent("t", "k", b"0", 1, b'{"a":"2"}')])

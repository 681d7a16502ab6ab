"""Dead letters: what a group gave up on is written to its topic once, whatever dies or is lost in between."""

from __future__ import annotations

from dataclasses import replace

import anyio
import anyio.lowlevel
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openstream_runtime.actors import dead_letters as module
from openstream_runtime.actors.dead_letters import DeadLetters
from openstream_runtime.actors.reaper import Reaper, bell_of
from openstream_runtime.domain.dead_letters import dead_letter_topic, letter_in
from openstream_runtime.domain.errors import NotFound, Unavailable
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.topics import Group, GroupSettings, Topic
from support.actors import Rig, eventually, make_world, run_virtual, running, supervised, tailer
from support.persisting import only_trims_what_is_stored
from support.replaying import persist

pytestmark = pytest.mark.anyio
AT = TopicPartition("orders", 0)
DLQ = "orders.dlq.g"


@pytest.fixture
def rig() -> Rig:
    return make_world(claim_idle_ms=10_000)


async def a_group(rig: Rig, *events: int, most: int = 1, **options: object) -> tuple[Topic, Group, list[Position]]:
    topic = await rig.topic(partitions=2)
    positions = await rig.append(topic, *events)
    set_to = replace(GroupSettings(max_deliveries=most), **options)  # type: ignore[arg-type]
    group, _ = await rig.store.catalog.create_group(topic, "g", "0-0", settings=set_to)
    rig.world.board.add_group(group)
    await rig.world.groups.create(topic.name, "g", {0: "0-0"})
    return topic, group, positions


async def die(rig: Rig, group: Group, positions: list[Position]) -> None:
    """A consumer reads all there is and gives these back."""
    most = group.settings.max_deliveries
    await rig.world.groups.read("orders", "g", "c", [0], count=100, max_deliveries=most)
    await rig.world.groups.nack("orders", "g", {0: positions}, max_deliveries=most)


def letters(rig: Rig, topic: str = DLQ) -> list[str]:
    streams = [stream for at, stream in sorted(rig.redis.streams.items()) if at.topic == topic]
    return [event.payload.decode() for stream in streams for event in stream.entries.values()]


def pending(rig: Rig) -> int:
    group = rig.redis.group(AT, "g")
    assert group is not None
    return len(group.pending)


async def test_the_dead_are_written_with_their_story_and_acked(rig: Rig) -> None:
    topic, group, positions = await a_group(rig, 1, 2, 3)
    await die(rig, group, positions[1:])
    assert await DeadLetters(rig.world, topic, AT).move(group) == 2
    assert letters(rig) == ["2", "3"]
    [event, _] = rig.redis.streams[TopicPartition(DLQ, 0)].entries.values()
    letter = letter_in(0, event)
    assert letter is not None
    assert (letter.topic, letter.origin_partition, letter.origin) == ("orders", 0, positions[1])
    assert (letter.group, letter.reason, letter.deliveries, letter.consumer) == ("g", "nacked", 1, "c")
    assert pending(rig) == 1
    assert rig.meter.of("dead_lettered") == [("orders", "g", 2)]
    made = await rig.store.catalog.topic(DLQ)
    assert made is not None
    assert made.partitions == 2
    assert "topics" in rig.redis.bells
    assert await DeadLetters(rig.world, topic, AT).move(group) == 0


async def test_headers_of_the_producer_stay_as_they_came(rig: Rig) -> None:
    topic, group, positions = await a_group(rig, 1)
    stream = rig.redis.streams[AT]
    stream.entries[positions[0]] = msgspec.structs.replace(stream.entries[positions[0]], headers=b'{"a": "1"}')
    await die(rig, group, positions)
    await DeadLetters(rig.world, topic, AT).move(group)
    [event] = rig.redis.streams[TopicPartition(DLQ, 0)].entries.values()
    assert event.headers is not None
    assert event.headers.startswith(b'{"a": "1","openstream-dead-letter":')


@pytest.mark.parametrize("kept", [True, False])
async def test_a_lost_answer_doubles_nothing_and_loses_nothing(rig: Rig, kept: bool) -> None:
    topic, group, positions = await a_group(rig, 1, 2)
    await die(rig, group, positions)
    rig.redis.lose_answer("append", kept=kept)
    assert await DeadLetters(rig.world, topic, AT).move(group) == 2
    assert letters(rig) == ["1", "2"]
    assert pending(rig) == 0


async def test_an_owner_that_dies_between_append_and_ack_is_followed_without_a_double(rig: Rig) -> None:
    topic, group, positions = await a_group(rig, 1, 2, 3)
    await die(rig, group, positions[:2])
    stalled = rig.redis.stall("bury")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(DeadLetters(rig.world, topic, AT).move, group)
        await eventually(lambda: letters(rig) == ["1", "2"])
        tasks.cancel_scope.cancel()
    stalled.set()
    assert pending(rig) == 3
    await die(rig, group, positions[2:])  # one more in the same queue
    follower = rig.node("b")
    assert await DeadLetters(follower.world, topic, AT).move(group) == 3
    assert letters(rig) == ["1", "2", "3"]
    assert pending(rig) == 0


async def test_an_owner_that_slept_before_its_append_doubles_nothing(rig: Rig) -> None:
    topic, group, positions = await a_group(rig, 1, 2, 3)
    first = DeadLetters(rig.world, topic, AT)
    await die(rig, group, positions[:1])
    await first.move(group)  # it knows the mark
    await die(rig, group, positions[1:2])
    stalled = rig.redis.stall("append")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.move, group)
        await eventually(lambda: rig.redis.calls["append"] == 4)
        # Redis serves the others meanwhile.
        del rig.redis._stalls["append"]
        await die(rig, group, positions[2:])
        assert await DeadLetters(rig.node("b").world, topic, AT).move(group) == 2
        stalled.set()
    assert letters(rig) == ["1", "2", "3"]
    assert pending(rig) == 0


async def test_what_dies_twice_is_written_twice(rig: Rig) -> None:
    topic, group, positions = await a_group(rig, 1)
    mover = DeadLetters(rig.world, topic, AT)
    for _ in range(2):
        await rig.world.groups.set_position("orders", "g", {0: "0-0"})
        await die(rig, group, positions)
        assert await mover.move(group) == 1
    assert letters(rig) == ["1", "1"]


async def test_trimmed_events_come_from_postgresql(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    topic, group, positions = await a_group(rig, 1, 2, 3)
    only_trims_what_is_stored(monkeypatch, rig.store, topic)
    await die(rig, group, positions[:2])
    await persist(rig, topic)
    rig.redis.streams[AT].trim(positions[2])
    assert rig.retained(topic) == ["3"]
    rig.store.trouble.unavailable = True
    with pytest.raises(Unavailable):
        await DeadLetters(rig.world, topic, AT).move(group)
    rig.store.trouble.unavailable = False
    assert await DeadLetters(rig.world, topic, AT).move(group) == 2
    assert letters(rig) == ["1", "2"]


async def test_what_is_acked_in_time_or_kept_nowhere_is_no_letter(rig: Rig) -> None:
    topic, group, positions = await a_group(rig, 1, 2, 3)
    await die(rig, group, positions)
    await rig.world.groups.ack("orders", "g", {0: positions[:1]})
    await persist(rig, topic)
    rig.redis.streams[AT].trim(positions[2])
    del rig.store._rows[topic.id, 0][0, positions[1]]
    await DeadLetters(rig.world, topic, AT).move(group)
    assert letters(rig) == ["3"]
    assert pending(rig) == 0
    assert await rig.world.groups.dead("orders", "g", 0, count=9) == []


async def test_a_full_target_is_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    topic, group, positions = await a_group(rig, 1, 2)
    await die(rig, group, positions)
    full = make_world("full", redis=rig.redis, store=rig.store, max_unpersisted=0)
    assert await DeadLetters(full.world, topic, AT).move(group) == 0
    assert pending(rig) == 2
    monkeypatch.setattr(module, "PAGE", 1)
    assert await DeadLetters(rig.world, topic, AT).move(group) == 2
    assert letters(rig) == ["1", "2"]


async def test_a_topic_of_the_users_choice_is_used_and_need_not_have_as_many_partitions(rig: Rig) -> None:
    topic, group, positions = await a_group(rig, 1, dead_letter_topic="morgue")
    await rig.topic("morgue", 1)
    await die(rig, group, positions)
    await DeadLetters(rig.world, topic, AT).move(group)
    assert letters(rig, "morgue") == ["1"]
    assert await rig.store.catalog.topic(DLQ) is None


async def test_a_dead_letter_topic_that_is_being_deleted_is_waited_for(rig: Rig) -> None:
    topic, group, positions = await a_group(rig, 1)
    await rig.store.catalog.create_topic(DLQ, 1, topic.settings)
    await rig.store.catalog.begin_delete(DLQ)
    await die(rig, group, positions)
    with pytest.raises(NotFound):
        await DeadLetters(rig.world, topic, AT).move(group)
    assert pending(rig) == 1


# ---- the reaper


async def test_the_reaper_moves_what_nobody_acks_although_nobody_reads(rig: Rig) -> None:
    topic, group, _ = await a_group(rig, 1, 2, most=2)
    async with running(Reaper(rig.world, topic, AT)):
        for _ in range(2):
            await rig.world.groups.read("orders", "g", "slow", [0], count=9, max_deliveries=2)
            await anyio.sleep(15)
        await eventually(lambda: letters(rig) == ["1", "2"], within=15)
    assert pending(rig) == 0
    [event, _] = rig.redis.streams[TopicPartition(DLQ, 0)].entries.values()
    assert (letter := letter_in(0, event)) is not None
    assert (letter.reason, letter.deliveries, letter.consumer) == ("timed_out", 2, "slow")
    assert group.settings.max_deliveries == 2


async def test_a_bell_makes_the_reaper_look_at_once(rig: Rig) -> None:
    topic, group, positions = await a_group(rig, 1)
    async with supervised(tailer(rig)), running(Reaper(rig.world, topic, AT)):
        await anyio.sleep(1)
        await die(rig, group, positions)
        began = anyio.current_time()
        await rig.world.tail.ring(bell_of(TopicPartition("orders", 1)))
        await anyio.sleep(0.1)
        assert letters(rig) == []
        await rig.world.tail.ring(bell_of(AT))
        await eventually(lambda: letters(rig) == ["1"], within=1)
        assert anyio.current_time() - began < 1


async def test_the_idle_limit_of_a_group_is_its_own(rig: Rig) -> None:
    topic, _, _ = await a_group(rig, 1, most=9, claim_idle_ms=1_000)
    reaper = Reaper(rig.world, topic, AT)
    assert reaper.period == 0.25
    async with running(reaper):
        await rig.world.groups.read("orders", "g", "slow", [0], count=9)
        await eventually(lambda: rig.meter.of("released") == [("orders", "g", 1)], within=1.5)


async def test_a_group_whose_letters_cannot_be_written_holds_up_no_other(rig: Rig) -> None:
    topic, group, positions = await a_group(rig, 1)
    other, _ = await rig.store.catalog.create_group(topic, "other", "0-0")
    rig.world.board.add_group(other)
    await rig.world.groups.create(topic.name, "other", {0: "0-0"})
    await rig.store.catalog.create_topic(DLQ, 1, topic.settings)
    await rig.store.catalog.begin_delete(DLQ)
    await die(rig, group, positions)
    async with running(Reaper(rig.world, topic, AT)):
        await rig.world.groups.read("orders", "other", "slow", [0], count=9)
        await eventually(lambda: rig.meter.of("released") == [("orders", "other", 1)], within=30)
    assert pending(rig) == 1


# ---- at random


step = st.one_of(
    st.tuples(st.just("die"), st.integers(1, 3)),
    st.tuples(st.just("move"), st.integers(0, 1)),
    st.tuples(st.just("lose"), st.booleans()),
    st.tuples(st.just("break"), st.integers(1, 6)),
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(step, max_size=25))
def test_whoever_moves_and_whatever_breaks_each_letter_is_written_once(steps: list[tuple[str, int]]) -> None:
    run_virtual(_at_random, steps)


async def _at_random(steps: list[tuple[str, int]]) -> None:
    rig = make_world()
    topic, group, positions = await a_group(rig, *range(75))
    movers = [DeadLetters(rig.world, topic, AT), DeadLetters(rig.node("b").world, topic, AT)]
    dead = 0
    for name, number in steps:
        if name == "die":
            await die(rig, group, positions[dead : dead + number])
            dead += number
        elif name == "move":
            await movers[number].move(group)
        elif name == "lose":
            rig.redis.lose_answer("append", kept=bool(number))
        else:  # the owner dies after so many steps
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(movers[0].move, group)
                    for _ in range(number):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            movers[0] = DeadLetters(rig.world, topic, AT)
    await movers[1].move(group)
    assert sorted(map(int, letters(rig))) == list(range(dead))
    assert letters(rig) == sorted(letters(rig), key=int)
    assert dead_letter_topic(group) == DLQ

"""Groups that PostgreSQL serves: through the same read, in order, without gap or double, whatever happens meanwhile."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openstream_runtime.actors.checkpointer import Checkpointer
from openstream_runtime.domain.errors import OpenStreamError, OutcomeUnknown, Unavailable
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.domain.topics import Topic, TopicSettings, Visibility
from openstream_runtime.gateway.results import Handout
from openstream_runtime.ports.store import Committed, PersistBatch
from support.actors import Rig, eventually, make_world, run_virtual
from support.desk import Desk, items, open_desk, payloads
from support.fake_history import outlive

pytestmark = pytest.mark.anyio


async def persist(rig: Rig, topic: Topic, *, keep: int = 0, partition: int = 0) -> None:
    """As the owner does: copy everything to PostgreSQL, and trim all but the last `keep` events."""
    at = TopicPartition(topic.name, partition)
    cursor = await rig.store.events.take(topic.id, partition, "owner")
    assert cursor is not None
    await rig.world.log.verify(topic, partition, cursor)
    await rig.world.leases.acquire(at, "owner:1", 10**9)
    events = await rig.world.log.read_after(at, cursor.position, count=10**6)
    end = events[-1].position if events else cursor.position
    if events:
        batch = PersistBatch(topic.id, partition, cursor.epoch, cursor.generation, cursor.position, end, events)
        assert await rig.world.store.write([batch]) == [Committed()]
    entries = list(rig.redis.streams[at].entries)
    below = entries[-keep] if 0 < keep <= len(entries) else end.next()
    await rig.world.log.mark_persisted(at, "owner:1", end, count=None, trim_below=below)


async def cold_topic(rig: Rig, desk: Desk, number: int, *, keep: int = 0) -> tuple[Topic, list[Position]]:
    """A topic of one partition with so many events, of which Redis has the last `keep`."""
    topic, _ = await desk.gateway.put_topic("orders", 1, TopicSettings())
    positions = await rig.append(topic, *range(number))
    await persist(rig, topic, keep=keep)
    return topic, positions


async def drain(desk: Desk, *, count: int = 7, acking: bool = True) -> list[str]:
    """Read, and ack, until there is nothing more."""
    found: list[str] = []
    while (handout := await desk.read(count=count)).deliveries:
        handout.arrived()
        found += payloads(handout)
        if acking:
            await desk.gateway.ack("orders", "g", items(handout))
    return found


async def test_a_new_group_reads_what_redis_no_longer_has_and_then_what_it_has(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic, positions = await cold_topic(rig, desk, 40, keep=10)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        [described] = await desk.gateway.describe_group("orders", "g")
        assert (described.lag, described.cold_upto, described.last_delivered) == (40, positions[29], ZERO)
        first = await desk.read(count=3)
        assert [(one.event.position, one.deliveries) for one in first.deliveries] == [(at, 1) for at in positions[:3]]
        first.arrived()
        assert await desk.gateway.ack("orders", "g", items(first)) == 3
        assert await drain(desk) == [str(number) for number in range(3, 40)]
        [described] = await desk.gateway.describe_group("orders", "g")
        assert (described.lag, described.cold_upto, described.pending) == (0, None, 0)
        await rig.append(topic, "live")
        assert payloads(await desk.read(block_ms=1000)) == ["live"]
        # The pages hold more than was wanted: they were not read anew for each read.
        assert rig.store.calls["history_page"] <= 4


async def test_a_group_that_falls_behind_the_trim_again_and_again_misses_nothing(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic, _ = await cold_topic(rig, desk, 0)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        found: list[str] = []
        for turn in range(6):
            await rig.append(topic, *range(turn * 10, turn * 10 + 10))
            found += payloads(await desk.read(count=4))
            await persist(rig, topic, keep=turn)  # some of what it has not read goes, some of what it holds too
            found += payloads(await desk.read(count=5))
        found += await drain(desk, acking=False)
        assert found == [str(number) for number in range(60)]
        [described] = await desk.gateway.describe_group("orders", "g")
        assert (described.lag, described.pending) == (0, 60)


async def test_a_start_in_the_middle_of_history_begins_there(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        _, positions = await cold_topic(rig, desk, 30, keep=5)
        await desk.gateway.create_group("orders", "g", start_id=str(positions[11]), start_ms=None)
        assert await drain(desk) == [str(number) for number in range(12, 30)]
        done = await desk.gateway.reset("orders", "g", start_id=str(positions[26]), start_ms=None)
        assert done.updated_partitions == 1
        assert await drain(desk) == ["27", "28", "29"]
        await desk.gateway.reset("orders", "g", start_id=None, start_ms=0)
        assert len(await drain(desk)) == 30


async def test_what_was_trimmed_while_a_consumer_held_it_comes_again_to_another(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic, positions = await cold_topic(rig, desk, 0)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        positions = await rig.append(topic, *range(10))
        assert len((await desk.read(consumer="dies", count=6)).deliveries) == 6
        await persist(rig, topic)
        await anyio.sleep(60)
        claimed = await desk.gateway.claim("orders", "g", "heir", min_idle_ms=60_000, count=4)
        assert [(one.event.position, one.deliveries) for one in claimed.deliveries] == [(at, 2) for at in positions[:4]]
        assert [one.event.payload for one in claimed.deliveries] == [b"0", b"1", b"2", b"3"]
        claimed.give_back()  # the client was gone: the next read has them first
        await eventually(lambda: rig.meter.of("released") != [])
        again = await desk.read(consumer="next", count=100)
        assert payloads(again)[:4] == ["0", "1", "2", "3"]
        assert (await desk.gateway.describe_group("orders", "g"))[0].pending == 6


async def test_a_client_that_leaves_gives_cold_events_back_too(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        _, positions = await cold_topic(rig, desk, 6)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        (await desk.read(count=4)).give_back()
        await eventually(lambda: rig.meter.of("released") != [])
        again = await desk.read(count=10)
        assert [(one.event.position, one.deliveries) for one in again.deliveries] == [(at, 1) for at in positions[:4]]


async def test_with_postgresql_away_what_redis_has_goes_on_and_the_rest_is_told_and_waits(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic, _ = await desk.gateway.put_topic("orders", 2, TopicSettings())
        await rig.append(topic, "cold", partition=0)
        await rig.append(topic, "hot", partition=1)
        await persist(rig, topic, partition=0)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        rig.store.trouble.unavailable = True
        assert [payloads(await desk.read()) for _ in range(1)] == [["hot"]]
        with pytest.raises(Unavailable):
            await desk.read()
        rig.store.trouble.unavailable = False
        assert payloads(await desk.read()) == ["cold"]


async def test_stubs_wait_while_postgresql_is_away(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic, _ = await cold_topic(rig, desk, 0)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        await rig.append(topic, *range(4))
        (await desk.read(count=2)).give_back()
        await eventually(lambda: rig.meter.of("released") != [])
        await persist(rig, topic, keep=2)
        rig.store.trouble.unavailable = True
        assert payloads(await desk.read()) == ["2", "3"]
        with pytest.raises(Unavailable):
            await desk.read()
        rig.store.trouble.unavailable = False
        again = await desk.read()
        assert [(one.event.payload, one.deliveries) for one in again.deliveries] == [(b"0", 1), (b"1", 1)]


async def test_what_history_has_dropped_is_passed_over_and_no_longer_pending(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic, _ = await cold_topic(rig, desk, 0)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        positions = await rig.append(topic, *range(8))
        (await desk.read(count=3)).give_back()
        await eventually(lambda: rig.meter.of("released") != [])
        await persist(rig, topic)
        outlive(rig.store, topic.id, 0, positions[5])
        assert await drain(desk) == ["5", "6", "7"]
        [described] = await desk.gateway.describe_group("orders", "g")
        assert (described.pending, described.lag) == (0, 0)


async def test_a_lost_answer_to_an_advance_leaves_the_events_pending_and_to_be_claimed(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await cold_topic(rig, desk, 5)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        rig.redis.lose_answer("advance", kept=True)
        with pytest.raises(OutcomeUnknown):
            await desk.read(count=3)
        assert payloads(await desk.read()) == ["3", "4"]
        claimed = await desk.gateway.claim("orders", "g", "c", min_idle_ms=0, count=10)
        assert payloads(claimed) == ["0", "1", "2", "3", "4"]


async def test_a_group_is_found_again_after_redis_lost_everything(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic, _ = await cold_topic(rig, desk, 20, keep=20)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        held = await desk.read(count=8)
        await desk.gateway.ack("orders", "g", items(held))
        await desk.read(count=4)
        rig.world.board.held[TopicPartition("orders", 0)] = 1
        await Checkpointer(rig.world).look()
        rig.redis.flush()
        # Neither those that were acked come again nor is one that was only held left out.
        assert await drain(desk) == [str(number) for number in range(8, 20)]
        await rig.append(topic, "after")
        assert payloads(await desk.read()) == ["after"]


async def test_a_group_at_the_end_is_at_the_end_after_redis_lost_everything(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic, _ = await cold_topic(rig, desk, 20, keep=3)
        rig.redis.flush()
        await desk.gateway.create_group("orders", "g", start_id="$", start_ms=None)
        assert payloads(await desk.read()) == []
        await rig.append(topic, "after")
        assert payloads(await desk.read()) == ["after"]


async def test_a_group_that_waits_for_postgresql_is_shown_nothing_earlier(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic, _ = await cold_topic(rig, desk, 2, keep=2)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None, visibility=Visibility.PERSISTED)
        await rig.append(topic, "new")
        assert payloads(await desk.read()) == ["0", "1"]
        assert payloads(await desk.read(block_ms=500)) == []
        async with anyio.create_task_group() as tasks:
            answer: list[Handout] = []

            async def wait() -> None:
                answer.append(await desk.read(block_ms=20_000))

            tasks.start_soon(wait)
            await anyio.sleep(5)
            assert not answer
            await persist(rig, topic, keep=3)
            before = anyio.current_time()
        assert payloads(answer[0]) == ["new"]
        assert anyio.current_time() - before < 0.1


async def test_the_checkpointer_counts_once_what_lies_before_a_group(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic, positions = await cold_topic(rig, desk, 9, keep=2)
        await desk.gateway.create_group("orders", "g", start_id=str(positions[1]), start_ms=None)
        at = TopicPartition("orders", 0)
        rig.world.board.held[at] = 1
        checkpointer = Checkpointer(rig.world)
        for _ in range(3):
            await checkpointer.look()
        assert rig.store.calls["history_count"] == 1
        [stats] = await rig.world.log.stats([at])
        assert [group.lag for group in stats.groups] == [7]
        assert await rig.positions.of(topic.id, "g") == {0: positions[1]}
        assert rig.store.calls["save_positions"] == 4  # one by the creation


OUTCOMES = ["ack", "hold", "give back", "lose read", "lose advance"]
step = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 1), st.integers(1, 12)),
    st.tuples(st.just("persist"), st.integers(0, 1), st.integers(0, 12)),
    st.tuples(
        st.just("read"), st.integers(1, 9), st.sampled_from(["ack", "hold", "give back", "lose read", "lose advance"])
    ),
    st.tuples(st.just("claim"), st.integers(1, 9)),
    st.tuples(st.just("store away"), st.booleans()),
    st.tuples(st.just("checkpoint")),
    st.tuples(st.just("flush")),
    st.tuples(st.just("reset"), st.integers(0, 30)),
)


class Model:
    """What a group must have seen. A flush takes along what was not persisted; resets and faults allow repetitions."""

    def __init__(self, rig: Rig, desk: Desk, topic: Topic) -> None:
        self.rig, self.desk, self.topic = rig, desk, topic
        self.appended: list[list[str]] = [[], []]
        self.persisted = [0, 0]
        self.seen: Counter[str] = Counter()
        self.acked: set[str] = set()
        self.number = 0
        #: Something happened after which an event may come more often than its acks say.
        self.disturbed = False

    async def do(self, name: str, *args: Any) -> None:
        try:
            await getattr(self, name.replace(" ", "_"))(*args)
        except OpenStreamError:
            if not self.rig.store.trouble.unavailable and name != "read":
                raise

    async def append(self, partition: int, count: int) -> None:
        new = [str(self.number + n) for n in range(count)]
        self.number += count
        await self.rig.append(self.topic, *new, partition=partition)
        self.appended[partition] += new

    async def persist(self, partition: int, keep: int) -> None:
        await persist(self.rig, self.topic, keep=keep, partition=partition)
        self.persisted[partition] = len(self.appended[partition])

    async def read(self, count: int, then: str) -> None:
        if then.startswith("lose "):
            self.rig.redis.lose_answer(then.removeprefix("lose "), kept=True)
            self.disturbed = True
        handout = await self.desk.read(count=count)
        assert len(handout.deliveries) <= count
        if then == "give back":
            handout.give_back()
            await anyio.sleep(0.01)
            return
        handout.arrived()
        self.take(handout)
        if then == "ack":
            await self.ack(handout)

    async def ack(self, handout: Handout) -> None:
        if handout.deliveries:
            await self.desk.gateway.ack("orders", "g", items(handout))
            self.acked |= set(payloads(handout))

    async def claim(self, count: int) -> None:
        handout = await self.desk.gateway.claim("orders", "g", "claimer", min_idle_ms=0, count=count)
        handout.arrived()
        for one in handout.deliveries:
            assert self.disturbed or one.event.payload.decode() not in self.acked
        self.take(handout)
        await self.ack(handout)

    def take(self, handout: Handout) -> None:
        by_partition: dict[int, list[Position]] = {}
        for one in handout.deliveries:
            if one.deliveries == 1:
                by_partition.setdefault(one.partition, []).append(one.event.position)
            payload = one.event.payload.decode()
            assert payload in self.appended[one.partition]
            if one.deliveries == 1 and not self.disturbed:
                assert self.seen[payload] == 0, "handed out twice as if for the first time"
            self.seen[payload] += 1
        for positions in by_partition.values():
            assert positions == sorted(positions)

    async def store_away(self, away: bool) -> None:
        self.rig.store.trouble.unavailable = away

    async def checkpoint(self) -> None:
        await Checkpointer(self.rig.world).look()

    async def flush(self) -> None:
        self.rig.redis.flush()
        for partition in (0, 1):
            del self.appended[partition][self.persisted[partition] :]
        self.disturbed = True

    async def reset(self, index: int) -> None:
        at = f"{self.rig.redis.now_ms() - index}-0"
        await self.desk.gateway.reset("orders", "g", start_id="0-0" if index < 25 else at, start_ms=None)
        self.seen.clear()
        self.acked.clear()
        if index >= 25:
            self.seen.update(payload for events in self.appended for payload in events)  # it skips them
        self.disturbed = True

    async def end(self) -> None:
        """Everything heals; then all there is must have come."""
        self.rig.store.trouble.unavailable = False
        self.rig.redis._lost_answers.clear()
        for partition in (0, 1):
            await persist(self.rig, self.topic, partition=partition)
        for _ in range(200):
            handout = await self.desk.read(count=9)
            handout.arrived()
            self.take(handout)
            claimed = await self.desk.gateway.claim("orders", "g", "claimer", min_idle_ms=0, count=100)
            claimed.arrived()
            self.take(claimed)
            if not handout.deliveries and not claimed.deliveries:
                break
            for one in (handout, claimed):
                await self.ack(one)
        missing = {payload for events in self.appended for payload in events} - self.seen.keys()
        assert not missing, f"never came: {sorted(missing, key=int)}"
        for described in await self.desk.gateway.describe_group("orders", "g"):
            assert (described.lag, described.pending) == (0, 0)


async def whole_run(steps: list[tuple[Any, ...]]) -> None:
    rig = make_world()
    async with open_desk(rig) as desk:
        topic, _ = await desk.gateway.put_topic("orders", 2, TopicSettings())
        await rig.verify(topic)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        for number in range(2):
            rig.world.board.held[TopicPartition("orders", number)] = 1
        model = Model(rig, desk, topic)
        for name, *args in steps:
            await model.do(name, *args)
        await model.end()


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(step, min_size=1, max_size=30))
def test_whatever_happens_in_whatever_order_nothing_is_left_out(steps: list[tuple[Any, ...]]) -> None:
    run_virtual(whole_run, steps)

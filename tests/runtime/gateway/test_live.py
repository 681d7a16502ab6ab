"""The live view: what moved between two samples, for whom, and what a reset would do."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import anyio
import pytest

from openstream_runtime.actors.board import Sample
from openstream_runtime.actors.sampler import Sampler
from openstream_runtime.domain.errors import InvalidRequest, NotFound, Unavailable
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.domain.pulse import Pulse
from openstream_runtime.domain.topics import TopicSettings
from openstream_runtime.gateway.flow import behind_ms, flows
from openstream_runtime.gateway.live import POINT, REMEMBERED, Live
from openstream_runtime.gateway.watching import Watching
from openstream_runtime.ports.log import GroupStats, StreamStats, TailNews
from openstream_runtime.ports.nodes import NodeInfo
from openstream_runtime.ports.store import Committed, PersistBatch
from support.actors import Rig, event
from support.desk import Desk, items, open_desk

pytestmark = pytest.mark.anyio
AT = TopicPartition("orders", 0)


def group(*, lag: int | None = 0, read: int | None = None, pending: int = 0, delivered: Position = ZERO) -> GroupStats:
    return GroupStats("g", 1, pending, lag, delivered, read)


def stats(persisted: int, waiting: int = 0, *groups: GroupStats, length: int = 0, last: int = 0) -> StreamStats:
    return StreamStats(length, Position(last, 0), waiting, ZERO, "a", groups, persisted)


def sample(at: float, **streams: StreamStats) -> Sample:
    named = {TopicPartition("orders", int(name[1:])): one for name, one in streams.items()}
    return Sample(taken_at=at, streams=named)


# ------------------------------------------------------------------------------------------------------ the flow


def test_events_in_are_what_was_appended_persisted_or_not() -> None:
    found = flows(sample(10, p0=stats(100, 5), p1=stats(0, 0)), sample(12, p0=stats(110, 15), p1=stats(0, 4)))
    orders = found["orders"]
    assert orders.by_partition == {0: 10.0, 1: 2.0}
    assert (orders.in_per_s, orders.persisted_per_s, orders.unpersisted) == (12.0, 5.0, 19)


def test_the_worst_partition_is_told_for_backpressure() -> None:
    found = flows(sample(1), sample(2, p0=stats(0, 7, length=3), p1=stats(0, 2, length=9)))["orders"]
    assert (found.longest, found.most_unpersisted, found.length) == (9, 7, 12)


def test_counters_that_went_back_moved_nothing() -> None:
    found = flows(sample(10, p0=stats(100, 5)), sample(12, p0=stats(0, 0)))["orders"]
    assert (found.in_per_s, found.persisted_per_s) == (0.0, 0.0)


def test_the_first_sample_has_no_rates_and_a_new_partition_none_either() -> None:
    assert flows(Sample(taken_at=0.0), sample(5, p0=stats(100)))["orders"].in_per_s == 0
    assert flows(sample(3), sample(5, p0=stats(100)))["orders"].in_per_s == 0


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (group(read=10), group(read=30), 10.0),
        (group(read=30), group(read=10), 0.0),  # it was reset
        (group(lag=50), group(lag=40), 15.0),  # twenty came, and the lag fell by ten
        (group(lag=None), group(lag=40), 0.0),
    ],
)
def test_events_out_by_the_groups_counter_or_by_its_lag(before: GroupStats, after: GroupStats, expected: float) -> None:
    found = flows(sample(10, p0=stats(0, 0, before)), sample(12, p0=stats(20, 0, after)))
    assert found["orders"].groups["g"].out_per_s == expected


def test_a_lag_that_nobody_knows_is_told_apart_from_none() -> None:
    found = flows(sample(1), sample(2, p0=stats(0, 0, group(lag=3)), p1=stats(0, 0, group(lag=None))))
    flow = found["orders"].groups["g"]
    assert (flow.lag, flow.lag_unknown) == (3, 1)


def test_a_group_is_behind_by_log_time() -> None:
    one = stats(0, last=5_000)
    assert behind_ms(one, group(lag=2, delivered=Position(3_500, 0))) == 1_500
    assert behind_ms(one, group(lag=0, delivered=Position(3_500, 0))) == 0
    assert behind_ms(one, group(lag=9)) == 0, "it has not begun: nobody can say since when"


# -------------------------------------------------------------------------------------------------- the snapshot


async def looked_around(rig: Rig, desk: Desk) -> None:
    await Sampler(rig.world, desk.gateway.observe).look()


def everything(desk: Desk, topic: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(desk.gateway.live(lambda _: True, topic=topic, everything=True)))
    return found


async def test_a_snapshot_tells_topics_groups_nodes_and_thresholds(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", [event(n) for n in range(3)], partitions=1)
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        rig.world.board.set_nodes([NodeInfo("a", "http://a", 1, "1.0")])
        await looked_around(rig, desk)
        await anyio.sleep(2)
        await desk.gateway.produce("orders", [event(n) for n in range(8)])
        await desk.read(count=1)
        await looked_around(rig, desk)
        found = everything(desk, "orders")
    [topic] = found["topics"]
    assert (topic["topic"], topic["partitions"], topic["length"], topic["unpersisted"]) == ("orders", 1, 11, 11)
    assert topic["in_per_s"] == pytest.approx(4, abs=0.1)
    [one] = topic["groups"]
    assert (one["name"], one["lag"], one["pending"], one["lags"]) == ("g", 10, 1, [3, 10])
    assert one["lag_per_s"] == pytest.approx(3.5, abs=0.1)
    assert [node["id"] for node in found["nodes"]] == ["a"]
    assert found["limits"]["max_unpersisted"] == rig.world.limits.max_unpersisted
    detail = found["detail"]
    assert (detail["length"], detail["unpersisted"], detail["persisted_id"]) == ([11], [11], ["0-0"])
    assert detail["in_per_s"] == [topic["in_per_s"]]


async def test_a_paused_group_is_told_as_paused_at_once(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", [event(1)], partitions=1)
        for name in ("stopped", "going"):
            await desk.gateway.create_group("orders", name, start_id="0-0", start_ms=None)
        await desk.gateway.alter_group("orders", "stopped", lambda settings: replace(settings, paused=True))
        [topic] = everything(desk)["topics"]
        assert {one["name"]: one["paused"] for one in topic["groups"]} == {"going": False, "stopped": True}


async def test_a_token_sees_what_it_covers_and_no_more(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        for name in ("orders", "secret"):
            await desk.gateway.produce(name, [event(1)], partitions=1)
        await looked_around(rig, desk)
        seen = desk.gateway.live(lambda name: name != "secret", topic="secret", everything=False)
        assert [topic["topic"] for topic in seen["topics"]] == ["orders"]
        assert "detail" not in seen
        assert "restarts" not in seen
        assert "secret" not in json.dumps(seen)
        assert "detail" not in everything(desk, "nowhere")


async def test_actors_that_were_started_again_are_named_with_their_error(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> TailNews:
        raise RuntimeError("broken")

    async with open_desk(rig) as desk:
        assert everything(desk)["restarts"] == []
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(rig.log.tail, "wait", broken)
            await anyio.sleep(10)
        await anyio.sleep(10)
        await looked_around(rig, desk)
        [one] = everything(desk)["restarts"]
    assert (one["path"], one["last_error"]) == ("node/tailer", "RuntimeError: broken")
    assert one["restarts"] >= 1


async def test_append_times_and_refusals_are_those_since_the_last_sample(rig: Rig) -> None:
    pulses = iter(
        [
            Pulse([(0.01, 100), (0.1, 100), (float("inf"), 100)], {"mailbox": 5}),
            Pulse([(0.01, 100), (0.1, 200), (float("inf"), 200)], {"mailbox": 5, "memory": 20}),
        ]
    )
    watching = Watching(rig.world, lambda: None)  # type: ignore[arg-type, return-value]
    live = Live(rig.world, watching, lambda: None, lambda: next(pulses))  # type: ignore[arg-type, return-value]
    live.observe(sample(10))
    live.observe(sample(20))
    found = live.snapshot(lambda _: True, topic=None, everything=False)
    assert found["append"] == {"p50_ms": pytest.approx(55), "p99_ms": pytest.approx(99.1)}
    assert (found["rejected_per_s"], found["rejected"]) == (2.0, {"mailbox": 5, "memory": 20})


async def test_the_history_has_a_point_for_each_sample_and_an_end(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        for n in range(REMEMBERED + 10):
            rig.world.board.sample = sample(n + 1)
            desk.gateway.observe(rig.world.board.sample)
        history = desk.gateway.live_history()
    assert history["fields"] == POINT
    assert len(history["points"]) == REMEMBERED
    assert all(len(point) == len(POINT) for point in history["points"])


async def test_a_stream_waits_for_the_next_look_and_for_none_when_the_node_drains(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        began = anyio.current_time()
        assert await desk.gateway.live_news(desk.gateway.live_mark(), 2.0), "nobody looked"
        assert anyio.current_time() - began == pytest.approx(2.0, abs=0.1)
        mark = desk.gateway.live_mark()
        desk.gateway.observe(sample(1))
        assert await desk.gateway.live_news(mark, 60.0), "somebody looked before we waited"
        assert anyio.current_time() - began < 3
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                assert not await desk.gateway.live_news(desk.gateway.live_mark(), 60.0)

            tasks.start_soon(wait)
            await anyio.sleep(1)
            desk.gateway.begin_draining()
        assert not await desk.gateway.live_news(desk.gateway.live_mark(), 60.0)
        assert anyio.current_time() - began < 5


async def test_a_tail_needs_a_topic_a_partition_of_it_and_a_broadcaster(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        with pytest.raises(NotFound):
            await desk.gateway.tail("orders")
        await desk.gateway.put_topic("orders", 2, TopicSettings())
        with pytest.raises(InvalidRequest, match="0 to 1"):
            await desk.gateway.tail("orders", partitions=[2])
        with pytest.raises(Unavailable):  # nobody runs one here: it is not waited for without end
            await desk.gateway.tail("orders")
        assert len(rig.world.audience) == 0


# ------------------------------------------------------------------------------------------------------- a reset


async def prepared(desk: Desk, count: int = 10, read: int = 4) -> list[Position]:
    """A group that has read some of a partition's events; where all of them stand."""
    await desk.gateway.put_topic("orders", 1, TopicSettings())
    done = await desk.gateway.produce("orders", [event(n) for n in range(count)])
    await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
    if read:
        await desk.read(count=read)
    return [position for _, position in done.results]


async def leave_to_postgresql(rig: Rig, upto: Position) -> None:
    """As the persister does: everything up to there is committed, and leaves Redis."""
    topic, stream = rig.world.board.topics["orders"], rig.redis.streams[AT]
    cursor = await rig.store.events.take(topic.id, 0, "a")
    assert cursor is not None
    events = [one for position, one in stream.entries.items() if position <= upto]
    batch = PersistBatch(topic.id, 0, cursor.epoch, cursor.generation, cursor.position, upto, events)
    assert await rig.store.events.write([batch]) == [Committed()]
    stream.leave_to_store(upto)


async def test_a_preview_counts_what_would_come_again_or_be_skipped(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        positions = await prepared(desk)
        for start, replayed, skipped in [
            ("0-0", 4, 0), (str(positions[0]), 3, 0), (str(positions[3]), 0, 0), (str(positions[6]), 0, 3),
            ("$", 0, 6), ("99999999999999-0", 0, 6),
        ]:  # fmt: skip
            seen = await desk.gateway.preview_reset("orders", "g", start_id=start, start_ms=None)
            [one] = seen.partitions
            assert (one.replayed, one.skipped, one.pending, one.old) == (replayed, skipped, 4, positions[3]), start
            assert not one.at_least


async def test_a_preview_changes_nothing(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await prepared(desk)
        before = await desk.gateway.describe_group("orders", "g")
        await desk.gateway.preview_reset("orders", "g", start_id="0-0", start_ms=None)
        after = await desk.gateway.describe_group("orders", "g")
        assert [(one.last_delivered, one.pending) for one in after] == [
            (one.last_delivered, one.pending) for one in before
        ]


async def test_a_preview_counts_what_only_postgresql_still_has(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        positions = await prepared(desk, read=0)
        handout = await desk.read(count=10)
        await desk.gateway.ack("orders", "g", items(handout))
        await leave_to_postgresql(rig, positions[6])
        seen = await desk.gateway.preview_reset("orders", "g", start_id="0-0", start_ms=None)
        assert seen.partitions[0].replayed == 10


async def test_a_preview_agrees_with_the_reset_it_is_of(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await prepared(desk, read=7)
        seen = await desk.gateway.preview_reset("orders", "g", start_id="0-0", start_ms=None)
        done = await desk.gateway.reset("orders", "g", start_id="0-0", start_ms=None)
        assert done.discarded_pending == sum(one.pending for one in seen.partitions)
        again = await desk.read(count=100)
        assert len(again.deliveries) == seen.partitions[0].replayed + 3


async def test_a_preview_of_what_is_not_there_is_refused(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await prepared(desk)
        with pytest.raises(NotFound):
            await desk.gateway.preview_reset("orders", "nope", start_id="$", start_ms=None)
        with pytest.raises(InvalidRequest):
            await desk.gateway.preview_reset("orders", "g", start_id=None, start_ms=None)
        with pytest.raises(InvalidRequest):
            await desk.gateway.preview_reset("orders", "g", start_id="$", start_ms=None, partitions=[1])

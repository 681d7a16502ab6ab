"""Groups through the gateway: creating, reading, acking, claiming, resetting, and clients that leave at any moment."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import anyio
import pytest

from openstream_runtime.domain.errors import InvalidRequest, NotFound, OutcomeUnknown, Overloaded, Unavailable
from openstream_runtime.domain.names import RELEASED
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.topics import TopicSettings
from openstream_runtime.gateway import groups as module
from openstream_runtime.gateway.groups import start_of
from support.actors import Rig, event, eventually, settle
from support.desk import Desk, items, open_desk, payloads

pytestmark = pytest.mark.anyio


async def a_group(desk: Desk, *, partitions: int = 1, start_id: str = "0-0") -> None:
    await desk.gateway.put_topic("orders", partitions, TopicSettings())
    await desk.gateway.create_group("orders", "g", start_id=start_id, start_ms=None)


def pending(rig: Rig, partition: int = 0) -> dict[Position, str]:
    group = rig.redis.group(TopicPartition("orders", partition), "g")
    assert group is not None
    return {position: one.consumer for position, one in group.pending.items()}


@pytest.mark.parametrize(
    ("start_id", "start_ms", "position"),
    [
        ("$", None, "$"),
        ("0-0", None, "0-0"),
        ("17-3", None, "17-3"),
        (None, 0, "0-0"),
        (None, 1000, f"999-{2**63 - 1}"),
    ],
)
def test_where_a_group_may_start(start_id: str | None, start_ms: int | None, position: str) -> None:
    assert start_of(start_id, start_ms) == position


@pytest.mark.parametrize(
    ("start_id", "start_ms"),
    [(None, None), ("$", 5), ("", None), ("x", None), ("-1-0", None), ("1", None), (None, -1), (None, 2**53),
     (f"{2**63}-0", None), ("1-0\n", None)],
)  # fmt: skip
def test_where_it_may_not(start_id: str | None, start_ms: int | None) -> None:
    with pytest.raises(InvalidRequest):
        start_of(start_id, start_ms)


async def test_a_group_is_made_on_every_partition_and_made_again_it_is_the_same(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk, partitions=3)
        again = await desk.gateway.create_group("orders", "g", start_id="$", start_ms=None)
        assert (again.is_new, again.created, again.partitions, again.group.start_id) == (False, 0, 3, "0-0")
        assert await desk.gateway.groups("orders") == ["g"]
        described = await desk.gateway.describe_group("orders", "g")
        assert [one.partition for one in described] == [0, 1, 2]


async def test_half_a_creation_is_completed_where_it_was_begun(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic, _ = await desk.gateway.put_topic("orders", 2, TopicSettings())
        rig.redis.unavailable = True
        with pytest.raises(Unavailable):
            await desk.gateway.create_group("orders", "g", start_id="$", start_ms=None)
        rig.redis.unavailable = False
        await anyio.sleep(1)
        await rig.append(topic, "between")
        made = await desk.gateway.create_group("orders", "g", start_id="$", start_ms=None)
        assert (made.is_new, made.created) == (False, 2)
        assert payloads(await desk.read()) == ["between"]


async def test_a_group_that_was_lost_with_redis_does_not_skip_what_came_since(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk, start_id="$")
        rig.redis.flush()
        await anyio.sleep(1)
        await desk.gateway.produce("orders", [event("between")])
        await desk.gateway.create_group("orders", "g", start_id="$", start_ms=None)  # as every client does at its start
        assert payloads(await desk.read()) == ["between"]


async def test_a_new_group_begins_where_it_is_told_whatever_redis_still_has_of_an_old_one(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk)
        await desk.gateway.produce("orders", [event(1), event(2)])
        await desk.read()
        rig.redis.lose_answer("delete_group", kept=False)  # it is deleted, and Redis never hears of it
        with pytest.raises(OutcomeUnknown):
            await desk.gateway.delete_group("orders", "g")
        made = await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        assert (made.is_new, made.created) == (True, 1)
        assert pending(rig) == {}
        assert payloads(await desk.read()) == ["1", "2"]


async def test_what_is_not_there_is_not_found(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        gateway = desk.gateway
        with pytest.raises(NotFound, match="topic"):
            await gateway.create_group("orders", "g", start_id="$", start_ms=None)
        await gateway.produce("orders", [event()], partitions=1)
        for call in (
            lambda: desk.read(),
            lambda: gateway.ack("orders", "g", {0: [Position(1, 0)]}),
            lambda: gateway.claim("orders", "g", "c", min_idle_ms=0, count=1),
            lambda: gateway.reset("orders", "g", start_id="$", start_ms=None),
            lambda: gateway.describe_group("orders", "g"),
            lambda: gateway.delete_group("orders", "g"),
            lambda: gateway.groups("nowhere"),
            lambda: gateway.topic("nowhere"),
            lambda: gateway.delete_topic("nowhere"),
        ):
            with pytest.raises(NotFound):
                await call()


async def test_names_and_partitions_are_checked(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk, partitions=2)
        gateway = desk.gateway
        for consumer in ("", "x" * 201, "a\n", "~os:released"):
            with pytest.raises(InvalidRequest):
                await desk.read(consumer=consumer)
        for partitions in ([2], [-1], [], [0, 9]):
            with pytest.raises(InvalidRequest):
                await desk.read(partitions=partitions)
        with pytest.raises(InvalidRequest):
            await gateway.ack("orders", "g", {7: [Position(1, 0)]})
        with pytest.raises(InvalidRequest):
            await gateway.create_group("orders", "a/b", start_id="$", start_ms=None)
        with pytest.raises(InvalidRequest):
            await desk.read(group="a b")


async def test_read_and_ack_and_read_again(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk, partitions=2)
        await desk.gateway.produce("orders", [event(n, key=str(n)) for n in range(20)])
        first = await desk.read(count=12)
        first.arrived()
        assert len(first.deliveries) == 12
        assert await desk.gateway.ack("orders", "g", items(first)) == 12
        assert await desk.gateway.ack("orders", "g", items(first)) == 0
        second = await desk.read()
        assert sorted(map(int, payloads(first) + payloads(second))) == list(range(20))
    assert rig.meter.of("acked") == [("orders", "g", 12)]


async def test_a_read_only_of_some_partitions_gets_only_theirs(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk, partitions=4)
        await desk.gateway.produce("orders", [event(n, key=str(n)) for n in range(40)])
        handout = await desk.read(partitions=[1, 3, 1])
        assert {delivery.partition for delivery in handout.deliveries} == {1, 3}


async def test_what_nobody_acked_can_be_claimed(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk)
        await desk.gateway.produce("orders", [event(1)])
        await desk.read(consumer="crashed")
        assert not (await desk.gateway.claim("orders", "g", "c", min_idle_ms=5_000, count=9)).deliveries
        await anyio.sleep(6)
        claimed = await desk.gateway.claim("orders", "g", "c", min_idle_ms=5_000, count=9, partitions=[0])
        assert [delivery.deliveries for delivery in claimed.deliveries] == [2]


async def test_a_handout_given_back_goes_to_the_next_reader_uncounted(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk)
        await desk.gateway.produce("orders", [event(1)])
        handout = await desk.read(consumer="gone")
        handout.give_back()
        handout.give_back()  # harmless
        again = await desk.read(consumer="next", block_ms=1_000)
        assert [delivery.deliveries for delivery in again.deliveries] == [1]
        again.arrived()
        again.give_back()  # too late: it has arrived
        await anyio.sleep(0.1)
        assert set(pending(rig).values()) == {"next"}


async def test_a_handout_cannot_be_given_back_to_a_mailbox_that_is_full_or_closed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk)
        await desk.gateway.produce("orders", [event(1), event(2)])
        one, two = await desk.read(consumer="c", count=1), await desk.read(consumer="c", count=1)
        box = desk.readers.peek("orders/g")
        assert box is not None
        monkeypatch.setattr(box, "max_count", 0)
        one.give_back()
        monkeypatch.setattr(box, "max_count", 100)
        box.close()
        two.give_back()
        assert set(pending(rig).values()) == {"c"}


async def test_too_many_who_wait_are_an_overload(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    async with open_desk(rig) as desk, anyio.create_task_group() as tasks:
        await a_group(desk)
        await desk.read()
        gate = rig.redis.stall("read")
        for _ in range(3):
            tasks.start_soon(desk.read)
            await settle()
        with pytest.raises(Overloaded) as overloaded:
            await desk.read()
        assert overloaded.value.facts == {"reason": "readers", "retry_after_ms": 1000}
        gate.set()


async def test_a_reader_that_crashes_or_cannot_be_built_is_unavailable(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk)
        real = rig.log.groups.read

        async def breaks(*_: Any, **__: Any) -> Any:
            rig.log.groups.read = real  # type: ignore[method-assign]
            raise RuntimeError("a bug")

        rig.log.groups.read = breaks  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            await desk.read()
        await desk.read(block_ms=500)

        def broken(*_: Any) -> None:
            raise RuntimeError("no")

        monkeypatch.setattr(desk.readers, "_make", broken)
        await desk.gateway.create_group("orders", "other", start_id="$", start_ms=None)
        with pytest.raises(Unavailable, match="reader"):
            await desk.read(group="other")


async def test_a_reset_moves_the_group_and_counts_what_it_dropped(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk, partitions=2)
        await desk.gateway.produce("orders", [event(n, key=str(n)) for n in range(20)])
        before = await desk.read(count=15)
        done = await desk.gateway.reset("orders", "g", start_id="0-0", start_ms=None)
        assert (done.updated_partitions, done.discarded_pending, done.start_id) == (2, 15, "0-0")
        assert await desk.gateway.ack("orders", "g", items(before)) == 0
        assert len((await desk.read()).deliveries) == 20
        done = await desk.gateway.reset("orders", "g", start_id=None, start_ms=rig.redis.now_ms() + 1, partitions=[1])
        assert done.updated_partitions == 1


async def test_a_reset_wakes_who_waits_here_and_on_other_nodes(rig: Rig) -> None:
    other = rig.node("b")
    async with open_desk(rig) as desk, open_desk(other) as far, anyio.create_task_group() as tasks:
        await a_group(desk)
        await desk.gateway.produce("orders", [event(1)])
        (await desk.read()).arrived()
        found: list[list[str]] = []

        async def wait(where: Desk) -> None:
            found.append(payloads(await where.read(consumer=where.rig.world.board.node.id, block_ms=60_000)))

        tasks.start_soon(wait, far)
        await anyio.sleep(0.5)
        await desk.gateway.reset("orders", "g", start_id="0-0", start_ms=None)
        await eventually(lambda: found == [["1"]], within=0.2)


async def test_a_deleted_group_is_gone_for_everybody(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk)
        await desk.gateway.produce("orders", [event(1)])
        await desk.read()
        await desk.gateway.delete_group("orders", "g")
        with pytest.raises(NotFound):
            await desk.read()
        assert await desk.gateway.groups("orders") == []
        assert rig.redis.group(TopicPartition("orders", 0), "g") is None


async def test_who_waits_on_a_group_that_is_deleted_hears_of_it(rig: Rig) -> None:
    async with open_desk(rig) as desk, anyio.create_task_group() as tasks:
        await a_group(desk)
        heard: list[Exception] = []

        async def wait() -> None:
            try:
                await desk.read(block_ms=60_000)
            except NotFound as error:
                heard.append(error)

        tasks.start_soon(wait)
        await anyio.sleep(1)
        await desk.gateway.delete_group("orders", "g")
        await eventually(lambda: heard, within=3)
        assert rig.redis.group(TopicPartition("orders", 0), "g") is None


async def test_a_group_of_a_topic_created_again_is_not_the_old_one(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk)
        topic = await desk.gateway.delete_topic("orders")
        while not await rig.store.catalog.purge(topic, max_rows=100):
            pass
        await rig.world.log.delete_topic(topic)
        rig.world.board.topics = {}
        await desk.gateway.produce("orders", [event(1)], partitions=1)
        with pytest.raises(NotFound, match="group"):
            await desk.read()


async def test_draining_answers_who_waits(rig: Rig) -> None:
    async with open_desk(rig) as desk, anyio.create_task_group() as tasks:
        await a_group(desk)
        answered: list[float] = []

        async def wait() -> None:
            await desk.read(block_ms=60_000)
            answered.append(anyio.current_time())

        for _ in range(5):
            tasks.start_soon(wait)
        await anyio.sleep(1)
        began = anyio.current_time()
        desk.gateway.begin_draining()
        await eventually(lambda: len(answered) == 5)
        assert max(answered) - began < 0.1


async def test_bells_nobody_understands_hurt_nobody(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk)
        await desk.read()
        for bell in ("group:", "group:orders", "group:orders:g:x", "group:a:b:c:d", "future:x", "", "group:orders:g:0"):
            await rig.world.tail.ring(bell)
        await anyio.sleep(1)
        assert not [one for one in rig.events if type(one).__name__ == "Exited"]


async def test_the_sweep_ends_actors_of_what_is_gone(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await a_group(desk)
        await desk.gateway.produce("orders", [event(1)])
        await desk.read()
        await desk.gateway.delete_group("orders", "g")
        for _ in range(5):
            await desk.gateway.sweep()
        assert desk.readers.peek("orders/g") is None
        assert desk.ingestors.peek("orders") is not None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("seed", range(3))
async def test_clients_that_leave_at_any_moment_strand_nothing(rig: Rig, anyio_backend: str, seed: int) -> None:
    chance = random.Random(seed)
    other = rig.node("b")
    async with open_desk(rig) as desk, open_desk(other) as far:
        await a_group(desk, partitions=2)
        acked: list[str] = []

        async def consume(where: Desk, name: str) -> None:
            """As the edge does it: what has not left for the client is given back."""
            handout = await where.read(consumer=name, count=chance.randrange(1, 6), block_ms=chance.choice([0, 300]))
            try:
                await asyncio.sleep(chance.choice([0, 0, 0.01]))
            except BaseException:
                handout.give_back()
                raise
            handout.arrived()
            acked.extend(payloads(handout))
            await asyncio.shield(asyncio.ensure_future(where.gateway.ack("orders", "g", items(handout))))

        requests: list[asyncio.Task[None]] = []
        for turn in range(120):
            await desk.gateway.produce("orders", [event(f"{turn}.{n}", key=str(n)) for n in range(3)])
            requests.append(asyncio.ensure_future(consume(chance.choice([desk, far]), f"c{turn % 5}")))
            await settle(chance.randrange(15))
            chance.choice(requests).cancel()
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await anyio.sleep(1)
        held = {consumer for number in range(2) for consumer in pending(rig, number).values()}
        assert held <= {RELEASED}
        while (found := await desk.read(consumer="last")).deliveries:
            assert {delivery.deliveries for delivery in found.deliveries} == {1}
            acked.extend(payloads(found))
            await desk.gateway.ack("orders", "g", items(found))
        assert sorted(acked) == sorted(f"{turn}.{n}" for turn in range(120) for n in range(3))

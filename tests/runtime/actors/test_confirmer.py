"""Events somebody wants in PostgreSQL before he is answered: whoever persists them, and whatever goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from openstream_runtime.actors.confirmer import LOOK_AGAIN, SLOWEST
from openstream_runtime.actors.copier import BATCH
from openstream_runtime.domain.errors import OpenStreamError, PartlyDone, Unavailable
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.gateway import persisting as module
from openstream_runtime.gateway.results import Ack
from openstream_runtime.ports.log import Appended, Refusal, Refused
from openstream_runtime.tree import FRONT
from supervisors import Restarting
from support.actors import Rig, event, eventually, settle
from support.desk import Desk, open_desk, texts
from support.persisting import pass_time, persisting

pytestmark = pytest.mark.anyio
AT = TopicPartition("orders", 0)


class Producer:
    """One request with ack=persisted, on its way; what became of it, and when."""

    def __init__(self, desk: Desk, events: Sequence[NewEvent]) -> None:
        self.desk = desk
        self.events = events
        self.results: Sequence[tuple[int, Position]] | None = None
        self.error: OpenStreamError | None = None
        self.took = 0.0

    @property
    def ended(self) -> bool:
        return self.results is not None or self.error is not None

    @property
    def statuses(self) -> list[str]:
        assert isinstance(self.error, PartlyDone), self.error
        return [one["status"] for one in self.error.facts["results"]]

    async def run(self) -> None:
        began = anyio.current_time()
        try:
            self.results = (await self.desk.gateway.produce("orders", self.events, ack=Ack.PERSISTED)).results
        except OpenStreamError as error:
            self.error = error
        self.took = anyio.current_time() - began


@asynccontextmanager
async def producing(desk: Desk, *requests: Sequence[NewEvent]) -> AsyncIterator[list[Producer]]:
    """Requests that are appended; they end within the block, or shortly after it."""
    producers = [Producer(desk, events) for events in requests]
    waiting = len(desk.rig.world.receipts)
    async with anyio.create_task_group() as tasks:
        for producer in producers:
            tasks.start_soon(producer.run)
        await eventually(
            lambda: len(desk.rig.world.receipts) >= waiting + len(producers) or all(one.ended for one in producers)
        )
        yield producers


def somewhere(rig: Rig, topic: Topic, where: str) -> Any:
    """The persisters of that topic: on the node that is asked, or on another one."""
    return persisting(rig, topic, tail=False) if where == "here" else persisting(rig.node("b", lease_ms=2000), topic)


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_every_answered_event_is_in_postgresql_at_the_moment_of_its_answer(rig: Rig, where: str) -> None:
    topic = await rig.topic(partitions=4)
    async with open_desk(rig) as desk, somewhere(rig, topic, where), anyio.create_task_group() as tasks:
        answered: list[int] = []

        async def produce(client: int) -> None:
            for turn in range(10):
                events = [event(f"{client}.{turn}.{n}", key=f"{n}") for n in range(5)]
                produced = await desk.gateway.produce("orders", events, ack=Ack.PERSISTED)
                for (partition, _), one in zip(produced.results, events, strict=True):
                    assert one.payload.decode() in rig.stored(topic, partition)
                answered.append(client)
                await anyio.sleep(0.013 * client)

        for client in range(20):
            tasks.start_soon(produce, client)
    assert len(answered) == 200
    assert desk.pressure._in_flight == 0
    assert len(rig.meter.of("produce_persisted")) == 200
    assert rig.world.receipts.lines == {}


async def test_on_the_owners_node_nothing_is_asked_of_anybody(rig: Rig) -> None:
    topic = await rig.topic()
    async with open_desk(rig) as desk, somewhere(rig, topic, "here"):
        await eventually(lambda: rig.world.board.held)
        for number in range(50):
            before = anyio.current_time()
            await desk.gateway.produce("orders", [event(number)], ack=Ack.PERSISTED)
            assert anyio.current_time() - before < 0.02
        assert rig.redis.calls["persisted"] == 0
        assert rig.store.calls["holds"] <= 2  # a commit may be faster than its own producer


async def test_an_owner_elsewhere_costs_milliseconds_more(rig: Rig) -> None:
    topic = await rig.topic()
    async with open_desk(rig) as desk, somewhere(rig, topic, "elsewhere"):
        await eventually(lambda: rig.redis.holder(AT))
        await pass_time(1)
        for number in range(50):
            before = anyio.current_time()
            await desk.gateway.produce("orders", [event(number)], ack=Ack.PERSISTED)
            assert anyio.current_time() - before < 0.03
        assert rig.store.calls["holds"] <= 60  # one proof each, and now and then one for nothing


async def test_when_nobody_waits_nothing_is_asked(rig: Rig) -> None:
    topic = await rig.topic()
    async with open_desk(rig) as desk, somewhere(rig, topic, "elsewhere"):
        await desk.gateway.produce("orders", [event()], ack=Ack.PERSISTED)
        before = rig.redis.calls["persisted"] + rig.store.calls["holds"]
        await pass_time(100)
        assert rig.redis.calls["persisted"] + rig.store.calls["holds"] == before


async def test_many_who_wait_are_proved_together(rig: Rig) -> None:
    topic = await rig.topic()
    async with open_desk(rig) as desk:
        async with producing(desk, *([event(number)] for number in range(300))) as producers:
            before = rig.store.calls["holds"]
            async with somewhere(rig, topic, "elsewhere"):
                await eventually(lambda: all(one.ended for one in producers))
        assert all(one.error is None for one in producers)
        assert rig.store.calls["holds"] - before <= 4


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_while_postgresql_is_away_they_wait_politely_and_are_answered_when_it_is_back(
    rig: Rig, where: str
) -> None:
    topic = await rig.topic()
    async with open_desk(rig) as desk, somewhere(rig, topic, where):
        await desk.gateway.produce("orders", [event("before")], ack=Ack.PERSISTED)
        rig.store.trouble.unavailable = True
        async with producing(desk, *([event(number)] for number in range(20))) as producers:
            asked = rig.redis.calls["persisted"] + rig.store.calls["holds"]
            await pass_time(20)
            assert not any(one.ended for one in producers)
            assert rig.redis.calls["persisted"] + rig.store.calls["holds"] - asked < 20 / SLOWEST + 60
            rig.store.trouble.unavailable = False
            await eventually(lambda: all(one.ended for one in producers), within=5)
        assert all(one.results for one in producers)


async def test_while_redis_is_away_they_wait_and_are_answered_when_it_is_back(rig: Rig) -> None:
    topic = await rig.topic()
    async with open_desk(rig) as desk, producing(desk, [event(1)], [event(2)]) as producers:
        rig.redis.unavailable = True
        await pass_time(10)
        rig.redis.unavailable = False
        async with somewhere(rig, topic, "elsewhere"):
            await eventually(lambda: all(one.ended for one in producers), within=8)
        assert all(one.results for one in producers)


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_tail_that_redis_lost_is_told_as_not_stored_although_the_cursor_has_passed_it(
    rig: Rig, where: str
) -> None:
    topic = await rig.topic()
    async with open_desk(rig) as desk, producing(desk, [event("lost")], [event("lost too")]) as producers:
        rig.redis.flush()
        async with somewhere(rig, topic, where):
            await rig.append(topic, "after")
            await eventually(lambda: rig.stored(topic) == ["after"])
            await eventually(lambda: all(one.ended for one in producers), within=3)
        for one in producers:
            assert type(one.error) is Unavailable
            assert one.error.facts["backend"] == "redis"
    assert rig.stored(topic) == ["after"]


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_request_of_which_a_part_was_lost_says_which(rig: Rig, where: str) -> None:
    topic, many = await rig.topic(), BATCH + 500
    async with open_desk(rig) as desk, producing(desk, [event(number) for number in range(many)]) as [producer]:
        commits = rig.store.trouble.hold_writes()
        async with somewhere(rig, topic, where):
            await pass_time(3)  # the first batch was read and is on its way to PostgreSQL
            rig.redis.lose_tail(AT, many)
            commits.set()
            await eventually(lambda: len(rig.stored(topic)) == BATCH)
            await rig.append(topic, "after")
            await eventually(lambda: producer.ended, within=8)
        assert producer.statuses == ["persisted"] * BATCH + ["not_stored"] * 500
        assert isinstance(producer.error, PartlyDone)
        facts = producer.error.facts
        assert facts["reason"] == "lost"
        assert {one.get("reason") for one in facts["results"][BATCH:]} == {"lost"}
        assert [one["redis_id"] for one in facts["results"][:2]] == [
            str(one.position) for _, one in rig.store.rows(topic.id, 0)
        ][:2]
        assert not any("redis_id" in one for one in facts["results"][BATCH:])


async def test_a_share_of_several_batches_is_answered_after_the_last_one(rig: Rig) -> None:
    topic, many = await rig.topic(), 2 * BATCH + 500
    async with open_desk(rig) as desk, somewhere(rig, topic, "here"):
        produced = await desk.gateway.produce("orders", [event(n) for n in range(many)], ack=Ack.PERSISTED)
        assert len(produced.results) == len(rig.stored(topic)) == many
        assert texts(produced.results, rig, "orders") == rig.stored(topic)


async def test_a_quarantined_event_is_in_postgresql_too(rig: Rig) -> None:
    topic = await rig.topic()
    rig.store.trouble.poison = lambda one: one.payload == b"poison"
    async with open_desk(rig) as desk:
        for where in ("here", "elsewhere"):
            async with somewhere(rig, topic, where):
                await desk.gateway.produce("orders", [event("poison")], ack=Ack.PERSISTED)
                await desk.gateway.produce("orders", [event("good"), event("poison")], ack=Ack.PERSISTED)
    assert len(rig.store.quarantined(topic.id, 0)) == 4


async def test_who_is_not_answered_in_time_hears_that_his_events_are_kept_and_not_to_send_them_again(rig: Rig) -> None:
    await rig.topic()
    async with open_desk(rig) as desk, producing(desk, [event(1), event(2)]) as [producer]:
        await eventually(lambda: producer.ended)
        assert producer.took == pytest.approx(module.TIMEOUT, abs=0.1)
        assert producer.statuses == ["not_persisted"] * 2
        assert isinstance(producer.error, PartlyDone)
        assert "retry_after_ms" not in producer.error.facts
        assert all("redis_id" in one for one in producer.error.facts["results"])
    assert desk.pressure._in_flight == 0
    assert rig.world.receipts.lines == {}
    assert [round(seconds) for (seconds,) in rig.meter.of("produce_persisted")] == [round(module.TIMEOUT)]


async def test_a_confirmer_that_crashes_in_the_middle_forgets_nobody(rig: Rig) -> None:
    topic = await rig.topic()
    async with open_desk(rig) as desk, producing(desk, [event(1)], [event(2)]) as producers:
        for method in ("persisted", "holds"):
            owner: Any = rig.log.events if method == "persisted" else rig.store.events
            real = getattr(owner, method)

            async def breaks(*_: Any, owner: Any = owner, method: str = method, real: Any = real) -> Any:
                setattr(owner, method, real)
                raise RuntimeError("a bug")

            setattr(owner, method, breaks)
        async with somewhere(rig, topic, "elsewhere"):
            await eventually(lambda: all(one.results for one in producers), within=10)
    lives = [one for one in rig.events if isinstance(one, Restarting) and one.path == "node/confirmer"]
    assert len(lives) == 2


async def test_a_node_that_drains_answers_before_its_front_closes_and_knows_when_others_have_persisted(
    rig: Rig,
) -> None:
    topic = await rig.topic()
    assert module.DRAIN < FRONT
    patience = rig.world.limits.grace(module.DRAIN)
    async with open_desk(rig) as desk, producing(desk, [event(1)]) as [in_time]:
        desk.gateway.begin_draining()
        began = anyio.current_time()
        async with somewhere(rig, topic, "elsewhere"):
            await eventually(lambda: in_time.ended, within=patience)
        assert in_time.results
        async with producing(desk, [event(2)]) as [too_late]:
            await eventually(lambda: too_late.ended, within=patience + 0.1)
        assert too_late.statuses == ["not_persisted"]
        assert anyio.current_time() - began < 2 * patience + 0.2


async def test_a_partition_that_changes_hands_in_the_middle_costs_a_moment(rig: Rig) -> None:
    topic = await rig.topic()
    async with open_desk(rig) as desk:
        for turn in range(6):
            commits = rig.store.trouble.hold_writes()
            async with producing(desk, [event(turn)]) as [producer]:
                async with somewhere(rig, topic, "here"):
                    await pass_time(0.5)
                    rig.store.usurp(topic.id, 0)
                    commits.set()
                    await pass_time(0.5)
                async with somewhere(rig, topic, "elsewhere"):
                    await eventually(lambda producer=producer: producer.ended, within=8)  # type: ignore[misc]
            assert producer.results, turn


async def test_an_answer_postgresql_lost_to_its_owner_is_found_out_within_a_second(rig: Rig) -> None:
    topic = await rig.topic()
    async with open_desk(rig) as desk, somewhere(rig, topic, "here"):
        await desk.gateway.produce("orders", [event(1)], ack=Ack.PERSISTED)
        rig.store.trouble.lost_commits.append(True)
        before = anyio.current_time()
        await desk.gateway.produce("orders", [event(2)], ack=Ack.PERSISTED)
        assert anyio.current_time() - before < LOOK_AGAIN + 0.2
        assert rig.stored(topic) == ["1", "2"]


async def test_events_of_a_topic_that_is_deleted_meanwhile_are_not_stored(rig: Rig) -> None:
    await rig.topic()
    async with open_desk(rig) as desk, producing(desk, [event(1)]) as [producer]:
        await desk.gateway.delete_topic("orders")
        await eventually(lambda: producer.ended, within=3)
        assert type(producer.error) is Unavailable


async def test_a_client_that_leaves_is_forgotten_and_its_events_stay(rig: Rig) -> None:
    topic = await rig.topic()
    async with open_desk(rig) as desk:
        async with producing(desk, *([event(number)] for number in range(50))) as _, anyio.create_task_group() as tasks:
            leaving = Producer(desk, [event("left")])
            tasks.start_soon(leaving.run)
            await eventually(lambda: len(rig.world.receipts) == 51)
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await settle()
                async with somewhere(rig, topic, "here"):
                    await eventually(lambda: not rig.world.receipts.lines)
        assert not leaving.ended
        assert "left" in rig.stored(topic)
    assert desk.pressure._in_flight == 0


async def test_what_waits_is_counted_as_taken_in(rig: Rig) -> None:
    topic = await rig.topic()
    async with open_desk(rig) as desk, producing(desk, [event("x" * 5000)]) as [producer]:
        assert desk.pressure._in_flight > 5000
        async with somewhere(rig, topic, "here"):
            await eventually(lambda: producer.ended)
        assert desk.pressure._in_flight == 0


async def test_nobody_waits_for_postgresql_when_a_part_was_not_even_appended(rig: Rig) -> None:
    await rig.topic(partitions=2)

    async def append(batches: Any, *, replicas: int | None = None) -> Any:
        return [
            Appended([Position(5, n) for n in range(len(batch.events))]) if batch.partition else Refused(Refusal.LENGTH)
            for batch in batches
        ]

    rig.log.events.append = append  # type: ignore[method-assign]
    async with open_desk(rig) as desk:
        producer = Producer(desk, [event(n, key=f"{n}") for n in range(20)])
        await producer.run()
        assert set(producer.statuses) == {"not_persisted", "not_stored"}
        assert producer.took < 1

"""The store writer: what waits together is one transaction, and everybody hears of his own batch."""

from __future__ import annotations

import anyio
import pytest

from openstream_runtime.actors import store_writer as module
from openstream_runtime.actors.store_writer import StoreMailbox, StoreWriter, batch_bytes, store_mailbox
from openstream_runtime.domain.errors import OutcomeUnknown, Unavailable
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.store import Committed, FencedOff, PersistBatch
from supervisors import ActorGone, CallTimeout
from support.actors import Rig, eventually, running

pytestmark = pytest.mark.anyio


def batch(topic: Topic, partition: int, epoch: int, size: int = 1) -> PersistBatch:
    events = [StoredEvent(Position(number, 0), "t", None, b"x" * size, 1) for number in (1, 2)]
    return PersistBatch(topic.id, partition, epoch, 0, ZERO, Position(2, 0), events)


async def taken(rig: Rig, partitions: int) -> Topic:
    topic = await rig.topic(partitions=partitions)
    for number in range(partitions):
        await rig.store.events.take(topic.id, number, "a")
    return topic


async def test_batches_that_wait_together_are_one_write_and_each_hears_its_own_outcome(rig: Rig) -> None:
    topic, mailbox = await taken(rig, 3), store_mailbox()
    outcomes: dict[int, Committed | FencedOff] = {}

    async def persist(number: int, epoch: int) -> None:
        outcomes[number] = await mailbox.call(batch(topic, number, epoch))

    async with anyio.create_task_group() as tasks:
        for number, epoch in enumerate([1, 7, 1]):
            tasks.start_soon(persist, number, epoch)
        await eventually(lambda: mailbox.depth == 3)
        async with running(StoreWriter(rig.world, mailbox)):
            await eventually(lambda: len(outcomes) == 3)
    assert outcomes == {0: Committed(), 1: FencedOff(), 2: Committed()}
    assert rig.store.calls["write"] == 1
    assert [events for events, _ in rig.meter.of("store_commit")] == [6]


@pytest.mark.parametrize("error", [Unavailable, OutcomeUnknown])
async def test_a_write_that_fails_fails_for_everybody_and_the_next_goes_through(
    rig: Rig, error: type[Exception]
) -> None:
    topic, mailbox = await taken(rig, 1), store_mailbox()
    if error is Unavailable:
        rig.store.trouble.unavailable_writes = 1
    else:
        rig.store.trouble.lost_commits.append(False)
    async with running(StoreWriter(rig.world, mailbox)):
        with pytest.raises(error):
            await mailbox.call(batch(topic, 0, 1))
        assert await mailbox.call(batch(topic, 0, 1)) == Committed()
    assert (len(rig.meter.of("store_failed")), len(rig.meter.of("store_commit"))) == (1, 1)


async def test_a_batch_nobody_waits_for_any_more_is_not_written(rig: Rig) -> None:
    topic, mailbox = await taken(rig, 1), store_mailbox()
    with pytest.raises(CallTimeout):
        await mailbox.call(batch(topic, 0, 1), timeout=0.1)
    assert mailbox.depth == 1
    async with running(StoreWriter(rig.world, mailbox)):
        await eventually(lambda: mailbox.depth == 0)
    assert rig.store.calls["write"] == 0


async def test_a_batch_larger_than_all_the_room_is_still_written(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOM", 10_000)
    topic, mailbox = await taken(rig, 1), store_mailbox()
    huge = batch(topic, 0, 1, size=50_000)
    assert batch_bytes(huge) == 10_000
    async with running(StoreWriter(rig.world, mailbox)):
        assert await mailbox.call(huge) == Committed()


async def test_one_transaction_is_bounded_in_bytes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 2_000)
    topic, mailbox = await taken(rig, 6), store_mailbox()

    async def persist(number: int) -> None:
        assert await mailbox.call(batch(topic, number, 1)) == Committed()

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(persist, number)
        await eventually(lambda: mailbox.depth == 6)
        tasks.start_soon(_write_until_empty, rig, mailbox)
    assert rig.store.calls["write"] == 3


async def _write_until_empty(rig: Rig, mailbox: StoreMailbox) -> None:
    async with running(StoreWriter(rig.world, mailbox)):
        await eventually(lambda: not mailbox.depth)


async def test_asked_to_stop_in_the_middle_of_a_write_it_answers_before_it_ends(rig: Rig) -> None:
    topic, mailbox = await taken(rig, 1), store_mailbox()
    gate = rig.store.trouble.hold_writes()
    outcomes: list[Committed | FencedOff] = []

    async def persist() -> None:
        outcomes.append(await mailbox.call(batch(topic, 0, 1)))

    async with anyio.create_task_group() as tasks, running(StoreWriter(rig.world, mailbox)) as ctx:
        tasks.start_soon(persist)
        await eventually(lambda: mailbox.statistics().accepted == 1 and not mailbox.depth)
        ctx.ask_to_stop()
        await anyio.sleep(1)
        gate.set()
    assert outcomes == [Committed()]


async def test_a_crash_tells_those_who_wait(rig: Rig) -> None:
    topic, mailbox = await taken(rig, 1), store_mailbox()
    wrong = batch(topic, 0, 1)
    wrong = PersistBatch(topic.id, 0, 1, 0, Position(9, 0), Position(2, 0), wrong.events)

    async def call() -> None:
        with pytest.raises(ActorGone):
            await mailbox.call(wrong)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await eventually(lambda: mailbox.depth == 1)
        with pytest.RaisesGroup(ValueError):
            async with running(StoreWriter(rig.world, mailbox)):
                await anyio.sleep(10)


async def test_it_describes_its_mailbox(rig: Rig) -> None:
    mailbox = store_mailbox()
    assert StoreWriter(rig.world, mailbox).describe()["max_bytes"] == module.ROOM
    assert StoreWriter.spec(rig.world, mailbox).id == "store-writer"

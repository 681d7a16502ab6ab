"""The ingestor: group commit, order, verification, and what callers hear when something goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
import pytest

from openstream_runtime.actors import ingestor as module
from openstream_runtime.actors import verifying
from openstream_runtime.actors.ingestor import Append, IngestMailbox, Ingestor
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.log import Appended, AppendOutcome, Refusal, Refused, Unknown
from supervisors import ActorGone, ChildSpec
from support.actors import Rig, event, eventually, make_world, running, settle, supervised

pytestmark = pytest.mark.anyio


def request(topic: Topic, by_partition: dict[int, Sequence[int | str]], *, replicated: bool = False) -> Append:
    events = {number: [event(one) for one in payloads] for number, payloads in by_partition.items()}
    return Append(topic, events, replicated, sum(one.size() for each in events.values() for one in each))


def box() -> IngestMailbox:
    return IngestMailbox(1000, max_bytes=1 << 20, size=lambda append: append.size)


async def gather(mailbox: IngestMailbox, *appends: Append) -> list[dict[int, AppendOutcome]]:
    """Call for all of them at once; the answers in order."""
    answers: dict[int, dict[int, AppendOutcome]] = {}

    async def call(index: int, append: Append) -> None:
        answers[index] = await mailbox.call(append, timeout=60)

    async with anyio.create_task_group() as tasks:
        for index, append in enumerate(appends):
            tasks.start_soon(call, index, append)
    return [answers[index] for index in range(len(appends))]


def at(rig: Rig, topic: Topic, partition: int, outcome: AppendOutcome) -> list[str]:
    """The payloads that stand at the positions of an outcome."""
    assert isinstance(outcome, Appended), outcome
    entries = rig.redis.streams[TopicPartition(topic.name, partition)].entries
    return [entries[position].payload.decode() for position in outcome.positions]


async def test_requests_that_wait_together_are_one_write_and_each_gets_its_own_positions(rig: Rig) -> None:
    topic, mailbox = await rig.topic(partitions=3), box()
    await rig.verify(topic)
    appends = [
        request(topic, {0: ["a0", "a1"], 1: ["a2"]}),
        request(topic, {1: ["b0", "b1", "b2"]}),
        request(topic, {2: ["c0"], 0: ["c1"]}),
    ]
    async with anyio.create_task_group() as tasks:
        answers: list[dict[int, AppendOutcome]] = []

        async def produce() -> None:
            answers.extend(await gather(mailbox, *appends))

        tasks.start_soon(produce)
        await eventually(lambda: mailbox.depth == 3)
        async with running(Ingestor(rig.world, mailbox)):
            await eventually(lambda: answers)
    assert rig.redis.calls["append"] == 1
    for append, answer in zip(appends, answers, strict=True):
        assert set(answer) == set(append.by_partition)
        for number, events in append.by_partition.items():
            assert at(rig, topic, number, answer[number]) == [one.payload.decode() for one in events]
    assert sum(count for _, _, count, _ in rig.meter.of("appended")) == 8
    assert rig.meter.of("group_commit")[0][0] == 8


async def test_the_requests_of_one_caller_keep_their_order(rig: Rig) -> None:
    topic, mailbox = await rig.topic(), box()
    async with running(Ingestor(rig.world, mailbox)):
        for first in range(0, 50, 5):
            await mailbox.call(request(topic, {0: list(range(first, first + 5))}))
    assert rig.retained(topic) == [str(number) for number in range(50)]


async def test_an_unknown_partition_is_verified_and_appended_to_exactly_once(rig: Rig) -> None:
    topic, mailbox = await rig.topic(partitions=2), box()
    async with running(Ingestor(rig.world, mailbox)):
        answer = await mailbox.call(request(topic, {0: ["a"], 1: ["b"]}))
        assert all(isinstance(outcome, Appended) for outcome in answer.values())
        assert (rig.redis.calls["append"], rig.redis.calls["verify"]) == (2, 2)
        rig.redis.restart()  # another run id: verified again, nothing doubled
        await mailbox.call(request(topic, {0: ["c"]}))
    assert rig.retained(topic, 0) == ["a", "c"]
    assert rig.retained(topic, 1) == ["b"]


async def test_an_id_that_was_told_is_not_given_again_by_a_redis_that_lost_it_and_whose_clock_is_behind(
    rig: Rig,
) -> None:
    topic, mailbox = await rig.topic(), box()
    rig.redis.skew_ms = 3_600_000
    async with running(Ingestor(rig.world, mailbox)):
        before = await mailbox.call(request(topic, {0: ["a", "b"]}))
        rig.redis.skew_ms = 0
        rig.redis.lose_tail(TopicPartition(topic.name, 0), 1)
        after = await mailbox.call(request(topic, {0: ["c"]}))
    told, new = before[0], after[0]
    assert isinstance(told, Appended)
    assert isinstance(new, Appended)
    assert new.positions[0] > told.positions[-1]
    assert rig.retained(topic) == ["a", "c"]


async def test_a_partition_that_stays_unverified_is_refused_after_one_more_try(rig: Rig) -> None:
    topic, mailbox = await rig.topic(), box()
    real = rig.world.log.verify

    async def forgets(*arguments: Any, **more: Any) -> str:
        server = await real(*arguments, **more)
        rig.redis.flush()
        return server

    rig.log.events.verify = forgets  # type: ignore[method-assign]
    async with running(Ingestor(rig.world, mailbox)):
        assert await mailbox.call(request(topic, {0: ["a"]})) == {0: Refused(Refusal.UNVERIFIED)}
    assert rig.redis.calls["append"] == 2


async def test_with_the_store_away_verified_partitions_go_on_and_the_others_are_refused(rig: Rig) -> None:
    topic, mailbox = await rig.topic(partitions=4), box()
    cursor = await rig.store.events.cursor(topic.id, 0)
    assert cursor is not None
    await rig.world.log.verify(topic, 0, cursor)
    rig.store.trouble.unavailable = True
    async with running(Ingestor(rig.world, mailbox)):
        answer = await mailbox.call(request(topic, {0: ["a"], 1: ["b"]}))
        assert isinstance(answer[0], Appended)
        assert answer[1] == Refused(Refusal.UNVERIFIED)
        rig.store.trouble.unavailable = False
        assert isinstance((await mailbox.call(request(topic, {1: ["b"]})))[1], Appended)
    assert rig.retained(topic, 1) == ["b"]


async def test_a_store_that_is_away_costs_one_timeout_and_not_one_for_each_partition(rig: Rig) -> None:
    topic, mailbox = await rig.topic(partitions=64), box()
    calls = rig.store.calls
    real = rig.store.events.cursor

    async def slow(topic_id: int, partition: int) -> Any:
        await anyio.sleep(3)
        return await real(topic_id, partition)

    rig.store.events.cursor = slow  # type: ignore[method-assign]
    rig.store.trouble.unavailable = True
    before = anyio.current_time()
    async with running(Ingestor(rig.world, mailbox)):
        answer = await mailbox.call(request(topic, {number: ["x"] for number in range(64)}), timeout=60)
    assert set(answer.values()) == {Refused(Refusal.UNVERIFIED)}
    assert anyio.current_time() - before < 4
    assert calls["cursor"] <= verifying.AT_ONCE


async def test_a_new_topic_of_many_partitions_is_verified_side_by_side(rig: Rig) -> None:
    topic, mailbox = await rig.topic(partitions=32), box()
    real = rig.store.events.cursor

    async def slow(topic_id: int, partition: int) -> Any:
        await anyio.sleep(1)
        return await real(topic_id, partition)

    rig.store.events.cursor = slow  # type: ignore[method-assign]
    before = anyio.current_time()
    async with running(Ingestor(rig.world, mailbox)):
        answer = await mailbox.call(request(topic, {number: [number] for number in range(32)}), timeout=60)
    assert all(at(rig, topic, number, answer[number]) == [str(number)] for number in range(32))
    assert anyio.current_time() - before < 5


async def test_a_deleted_topic_is_refused_and_nothing_is_kept(rig: Rig) -> None:
    topic, mailbox = await rig.topic(), box()
    await rig.store.catalog.begin_delete(topic.name)
    async with running(Ingestor(rig.world, mailbox)):
        assert await mailbox.call(request(topic, {0: ["a"]})) == {0: Refused(Refusal.UNVERIFIED)}
    assert rig.retained(topic) == []


async def test_a_topic_created_again_is_never_mixed_with_the_old_one(rig: Rig) -> None:
    old, mailbox = await rig.topic(), box()
    await rig.verify(old)
    await rig.store.catalog.begin_delete(old.name)
    while not await rig.store.catalog.purge(old, max_rows=100):
        pass
    new = await rig.topic()
    await rig.verify(new)
    answers: list[dict[int, AppendOutcome]] = []

    async def produce() -> None:
        answers.extend(await gather(mailbox, request(old, {0: ["old"]}), request(new, {0: ["new"]})))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        await eventually(lambda: mailbox.depth == 2)
        async with running(Ingestor(rig.world, mailbox)):
            await eventually(lambda: answers)
    assert answers[0] == {0: Refused(Refusal.UNVERIFIED)}
    assert at(rig, new, 0, answers[1][0]) == ["new"]
    assert rig.retained(new) == ["new"]


async def test_a_lost_answer_is_passed_on_as_unknown_and_never_sent_again(rig: Rig) -> None:
    topic, mailbox = await rig.topic(), box()
    await rig.verify(topic)
    async with running(Ingestor(rig.world, mailbox)):
        for kept in (True, False):
            rig.redis.lose_answer("append", kept=kept)
            assert await mailbox.call(request(topic, {0: [f"{kept}"]})) == {0: Unknown()}
        await mailbox.call(request(topic, {0: ["after"]}))
    assert rig.retained(topic) == ["True", "after"]


async def test_a_lost_answer_after_verifying_is_unknown_too(rig: Rig) -> None:
    topic, mailbox = await rig.topic(partitions=2), box()
    real = rig.world.log.verify

    async def then_lose(*arguments: Any, **more: Any) -> str:
        server = await real(*arguments, **more)
        rig.redis.lose_answer("append", kept=True)
        return server

    rig.log.events.verify = then_lose  # type: ignore[method-assign]
    async with running(Ingestor(rig.world, mailbox)):
        assert await mailbox.call(request(topic, {0: ["a"]})) == {0: Unknown()}
    assert rig.retained(topic) == ["a"]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ({"out_of_memory": True}, Refusal.MEMORY),
        ({"unavailable": True}, Refusal.UNAVAILABLE),
    ],
)
async def test_refusals_of_the_log_come_through(rig: Rig, trouble: dict[str, bool], reason: Refusal) -> None:
    topic, mailbox = await rig.topic(), box()
    await rig.verify(topic)
    for name, value in trouble.items():
        setattr(rig.redis, name, value)
    async with running(Ingestor(rig.world, mailbox)):
        assert await mailbox.call(request(topic, {0: ["a"]})) == {0: Refused(reason)}


async def test_the_bounds_of_the_topic_win_over_those_of_the_node() -> None:
    rig = make_world(max_stream_len=2, max_unpersisted=5)
    narrow, wide = await rig.topic("narrow", max_stream_len=1), await rig.topic("wide", max_stream_len=100)
    mailbox, other = box(), box()
    async with running(Ingestor(rig.world, mailbox)), running(Ingestor(rig.world, other)):
        await mailbox.call(request(narrow, {0: ["a"]}))
        assert await mailbox.call(request(narrow, {0: ["b"]})) == {0: Refused(Refusal.LENGTH)}
        await other.call(request(wide, {0: list(range(5))}))
        assert await other.call(request(wide, {0: ["b"]})) == {0: Refused(Refusal.UNPERSISTED)}


async def test_plain_and_replicated_requests_are_separate_writes(rig: Rig) -> None:
    topic, mailbox = await rig.topic(), box()
    await rig.verify(topic)
    rig.redis.replicas = 0
    answers: list[dict[int, AppendOutcome]] = []

    async def produce() -> None:
        appends = [request(topic, {0: [n]}, replicated=bool(n % 2)) for n in range(4)]
        answers.extend(await gather(mailbox, *appends))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        await eventually(lambda: mailbox.depth == 4)
        async with running(Ingestor(rig.world, mailbox)):
            await eventually(lambda: answers)
    assert rig.redis.calls["append"] == 2
    replicated = [outcome[0].replicated for outcome in answers if isinstance(outcome[0], Appended)]
    assert replicated == [True, False, True, False]


async def test_what_waits_at_the_stop_is_still_written_and_answered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    topic, mailbox = await rig.topic(), box()
    await rig.verify(topic)
    monkeypatch.setattr(module, "CYCLE_REQUESTS", 2)
    gate = rig.redis.stall("append")
    answers: list[dict[int, AppendOutcome]] = []

    async def produce() -> None:
        answers.extend(await gather(mailbox, *(request(topic, {0: [n]}) for n in range(9))))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        await eventually(lambda: mailbox.depth == 9)
        async with running(Ingestor(rig.world, mailbox)) as ctx:
            await eventually(lambda: rig.redis.calls["append"] == 1)
            ctx.ask_to_stop()
            await settle()
            assert not answers
            gate.set()
    assert len(answers) == 9
    assert sorted(rig.retained(topic)) == [str(n) for n in range(9)]


async def test_a_crash_fails_the_callers_of_that_cycle_only_and_the_rest_is_served_afterwards(rig: Rig) -> None:
    topic, mailbox = await rig.topic(), box()
    await rig.verify(topic)
    real = rig.log.events.append
    crashes = [True]

    async def append(*arguments: Any, **options: Any) -> list[AppendOutcome]:
        if crashes:
            crashes.pop()
            await anyio.sleep(1)  # meanwhile the next ones come
            raise ValueError("a bug in the log")
        return await real(*arguments, **options)

    rig.log.events.append = append  # type: ignore[method-assign]
    spec = ChildSpec(id="ingestor", actor=lambda: Ingestor(rig.world, mailbox), grace=5.0)
    heard: list[str] = []

    async def produce(name: str) -> None:
        try:
            await mailbox.call(request(topic, {0: [name]}))
            heard.append(f"{name} appended")
        except ActorGone:
            heard.append(f"{name} unknown")

    async with supervised(spec), anyio.create_task_group() as tasks:
        tasks.start_soon(produce, "first")
        await eventually(lambda: not crashes)
        tasks.start_soon(produce, "second")
        await eventually(lambda: len(heard) == 2)
    assert sorted(heard) == ["first unknown", "second appended"]
    assert rig.retained(topic) == ["second"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_callers_cancelled_natively_in_any_state_never_hurt_it(rig: Rig, anyio_backend: str) -> None:
    topic, mailbox = await rig.topic(), box()
    await rig.verify(topic)
    async with running(Ingestor(rig.world, mailbox)):
        for round_ in range(30):
            calls = [asyncio.ensure_future(mailbox.call(request(topic, {0: [f"{round_}.{n}"]}))) for n in range(20)]
            await settle(round_ % 7)
            for call in calls[:: 1 + round_ % 3]:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        answer = await mailbox.call(request(topic, {0: ["last"]}))
        assert at(rig, topic, 0, answer[0]) == ["last"]
        assert (mailbox.depth, mailbox.bytes) == (0, 0)
    retained = rig.retained(topic)
    assert len(retained) == len(set(retained))


async def test_it_describes_its_mailbox(rig: Rig) -> None:
    mailbox = box()
    assert Ingestor(rig.world, mailbox).describe()["depth"] == 0
    assert partial(Ingestor, rig.world)(mailbox).describe()["max_bytes"] == 1 << 20

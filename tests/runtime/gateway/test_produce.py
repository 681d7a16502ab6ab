"""Produce: every combination of outcomes becomes the right answer, in request order."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import anyio
import pytest

from openstream_runtime.domain.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    OpenStreamError,
    OutcomeUnknown,
    Overloaded,
    PartlyDone,
    Unavailable,
)
from openstream_runtime.domain.partitioning import partition_of
from openstream_runtime.domain.positions import Position
from openstream_runtime.gateway import produce as module
from openstream_runtime.gateway.results import Ack
from openstream_runtime.ports.log import Appended, AppendOutcome, Refusal, Refused, Unknown
from support.actors import Rig, event, eventually, make_world, settle
from support.desk import Desk, open_desk, texts

pytestmark = pytest.mark.anyio

APPENDED = "appended"
NOT_REPLICATED = "not replicated"
LENGTH, UNPERSISTED, MEMORY = Refusal.LENGTH, Refusal.UNPERSISTED, Refusal.MEMORY
AWAY, UNVERIFIED, UNKNOWN = Refusal.UNAVAILABLE, Refusal.UNVERIFIED, "unknown"
OUTCOMES = [APPENDED, NOT_REPLICATED, LENGTH, UNPERSISTED, MEMORY, AWAY, UNVERIFIED, UNKNOWN]


def keys_of(partitions: int) -> list[str]:
    """A key for each partition."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < partitions:
        found.setdefault(partition_of(f"k{number}", partitions), f"k{number}")
        number += 1
    return [found[partition] for partition in range(partitions)]


def outcome(kind: str, events: int) -> AppendOutcome:
    if kind in (APPENDED, NOT_REPLICATED):
        return Appended([Position(5, seq) for seq in range(events)], kind == APPENDED)
    return Unknown() if kind == UNKNOWN else Refused(Refusal(kind))


def answering(*kinds: str) -> Callable[..., Any]:
    async def append(batches: Any, *, replicas: int | None = None) -> list[AppendOutcome]:
        by_partition = dict(enumerate(kinds))
        return [outcome(by_partition[batch.partition], len(batch.events)) for batch in batches]

    return append


async def test_results_are_in_request_order(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        events = [event(n, key=f"k{n % 7}") for n in range(100)]
        produced = await desk.gateway.produce("orders", events, partitions=4)
        assert (produced.topic, produced.partitions) == ("orders", 4)
        assert texts(produced.results, rig, "orders") == [str(n) for n in range(100)]
        for (partition, _), one in zip(produced.results, events, strict=True):
            assert partition == partition_of(one.partition_key or "", 4)


async def test_the_events_of_one_partition_keep_their_order(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        produced = await desk.gateway.produce("orders", [event(n, key="one") for n in range(50)], partitions=8)
        positions = [position for _, position in produced.results]
        assert positions == sorted(positions)
        assert len({partition for partition, _ in produced.results}) == 1


async def test_events_without_a_key_share_a_partition_and_requests_spread(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        seen: dict[str, Counter[int]] = {"a": Counter(), "b": Counter()}
        for turn in range(160):  # two topics by turns: each must see all of its partitions
            topic = "ab"[turn % 2]
            produced = await desk.gateway.produce(topic, [event(1), event(2)], partitions=8)
            [partition] = {partition for partition, _ in produced.results}
            seen[topic][partition] += 1
        for counts in seen.values():
            assert set(counts) == set(range(8))
            assert max(counts.values()) <= 2 * min(counts.values())


@pytest.mark.parametrize("kinds", list(product(OUTCOMES, repeat=2)))
async def test_every_pair_of_outcomes_is_the_right_answer(rig: Rig, kinds: tuple[str, str]) -> None:
    first, second = keys_of(2)
    rig.log.events.append = answering(*kinds)  # type: ignore[method-assign]
    rig.log.events.verify = _does_nothing  # type: ignore[method-assign]
    async with open_desk(rig) as desk:
        events = [event(1, key=first), event(2, key=second), event(3, key=first)]
        try:
            produced = await desk.gateway.produce("orders", events, partitions=2)
        except OpenStreamError as error:
            _check_error(error, kinds)
        else:
            assert kinds == (APPENDED, APPENDED)
            assert produced.results == [(0, (5, 0)), (1, (5, 0)), (0, (5, 1))]


async def _does_nothing(*_: Any, **__: Any) -> str:
    return "a server"


def _check_error(error: OpenStreamError, kinds: tuple[str, str]) -> None:
    refused = [isinstance(kind, Refusal) for kind in kinds]
    if all(refused):
        expected = Unavailable if kinds[0] in (AWAY, UNVERIFIED) else Overloaded
        assert type(error) is expected
        assert 1000 <= error.facts["retry_after_ms"] <= 30_000
        assert error.facts["topic"] == "orders"
        if expected is Overloaded:
            assert error.facts["reason"] == str(kinds[0])
        return
    if kinds == (UNKNOWN, UNKNOWN):
        assert type(error) is OutcomeUnknown
        return
    assert type(error) is PartlyDone
    statuses = {APPENDED: "appended", NOT_REPLICATED: "not_replicated", UNKNOWN: "unknown"}
    expected_statuses = [statuses.get(kinds[partition], "not_stored") for partition in (0, 1, 0)]
    results = error.facts["results"]
    assert [one["status"] for one in results] == expected_statuses
    assert [one["partition"] for one in results] == [0, 1, 0]
    for one in results:
        assert ("redis_id" in one) == (one["status"] in ("appended", "not_replicated"))
    if any(refused):
        assert error.facts["retry_after_ms"] >= 1000
        culprit = next(kind for kind in kinds if isinstance(kind, Refusal))
        assert error.facts["overloaded"] == (culprit not in (AWAY, UNVERIFIED))
    if kinds[0] == APPENDED:
        assert [one["redis_id"] for one in results if one["partition"] == 0] == ["5-0", "5-1"]


async def test_replicated_asks_for_the_replicas_of_the_settings() -> None:
    rig = make_world(ack_replicas=2)
    async with open_desk(rig) as desk:
        rig.redis.replicas = 1
        await desk.gateway.produce("orders", [event()], partitions=1)
        with pytest.raises(PartlyDone, match="replicas") as partly:
            await desk.gateway.produce("orders", [event()], ack=Ack.REPLICATED)
        assert [one["status"] for one in partly.value.facts["results"]] == ["not_replicated"]
        rig.redis.replicas = 2
        await desk.gateway.produce("orders", [event()], ack=Ack.REPLICATED)


async def test_what_cannot_be_is_refused_before_anything_is_done(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        with pytest.raises(InvalidRequest, match="no event"):
            await desk.gateway.produce("orders", [])
        for name in ("", "..", "a b", "x" * 201, "orders\n", "os:x", "{x}"):
            with pytest.raises(InvalidRequest, match="topic name"):
                await desk.gateway.produce(name, [event()])
        for count in (0, -1, 1025):
            with pytest.raises(InvalidRequest, match="1 to 1024"):
                await desk.gateway.produce("orders", [event()], partitions=count)
        assert rig.store.calls["create_topic"] == 0
        assert rig.redis.calls["append"] == 0


async def test_the_count_of_a_topic_stands_from_its_first_use(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", [event()], partitions=3)
        await desk.gateway.produce("orders", [event()], partitions=3)
        with pytest.raises(Conflict) as conflict:
            await desk.gateway.produce("orders", [event()], partitions=4)
        assert conflict.value.facts["partitions"] == 3
        await desk.gateway.produce("default", [event()])
        assert (await desk.gateway.topic("default")).partitions == rig.world.limits.partitions_default


async def test_a_topic_another_node_has_made_is_found_with_its_own_count(rig: Rig) -> None:
    await rig.store.catalog.create_topic("orders", 5, (await rig.topic("other")).settings)
    async with open_desk(rig) as desk:
        assert (await desk.gateway.produce("orders", [event()])).partitions == 5


async def test_a_topic_that_is_being_deleted_takes_nothing(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", [event()], partitions=1)
        await desk.gateway.delete_topic("orders")
        with pytest.raises(Conflict, match="deleted"):
            await desk.gateway.produce("orders", [event()])
        rig.world.board.set_catalog([], [])
        with pytest.raises(Conflict, match="deleted"):
            await desk.gateway.produce("orders", [event()])


async def test_with_postgresql_away_known_topics_go_on_and_new_ones_are_unavailable(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", [event()], partitions=1)
        rig.store.trouble.unavailable = True
        await desk.gateway.produce("orders", [event()])
        with pytest.raises(Unavailable):
            await desk.gateway.produce("new", [event()])


async def test_a_lost_answer_is_unknown(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", [event()], partitions=1)
        rig.redis.lose_answer("append", kept=True)
        with pytest.raises(OutcomeUnknown):
            await desk.gateway.produce("orders", [event()])


async def test_an_ingestor_that_crashes_makes_the_outcome_unknown_and_the_next_request_goes_through(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", [event()], partitions=1)
        real = rig.log.events.append

        async def breaks(*_: Any, **__: Any) -> list[AppendOutcome]:
            rig.log.events.append = real  # type: ignore[method-assign]
            raise RuntimeError("a bug")

        rig.log.events.append = breaks  # type: ignore[method-assign]
        with pytest.raises(OutcomeUnknown):
            await desk.gateway.produce("orders", [event()])
        await desk.gateway.produce("orders", [event()])


async def test_an_append_that_is_not_answered_in_time_is_unknown(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.produce("orders", [event()], partitions=1)
        gate = rig.redis.stall("append")
        before = anyio.current_time()
        with pytest.raises(OutcomeUnknown, match="in time"):
            await desk.gateway.produce("orders", [event()])
        assert anyio.current_time() - before == pytest.approx(module.TIMEOUT)
        gate.set()


async def test_a_full_mailbox_is_an_overload_and_a_giant_is_a_bad_request() -> None:
    rig = make_world(mailbox_bytes=10_000)
    async with open_desk(rig) as desk, anyio.create_task_group() as tasks:
        await desk.gateway.produce("orders", [event()], partitions=1)
        gate = rig.redis.stall("append")
        tasks.start_soon(desk.gateway.produce, "orders", [event("x" * 4000)])
        await settle(50)
        for _ in range(2):
            tasks.start_soon(desk.gateway.produce, "orders", [event("x" * 4000)])
        await settle(50)
        with pytest.raises(Overloaded) as overloaded:
            await desk.gateway.produce("orders", [event("x" * 4000)])
        assert overloaded.value.facts["reason"] == "mailbox"
        with pytest.raises(InvalidRequest, match="larger"):
            await desk.gateway.produce("orders", [event("x" * 10_001)])
        gate.set()
    assert ("mailbox",) in rig.meter.of("rejected")
    assert desk.pressure._in_flight == 0


async def test_an_actor_that_is_ended_meanwhile_is_a_topic_that_is_gone(rig: Rig) -> None:
    async with open_desk(rig) as desk, anyio.create_task_group() as tasks:
        await desk.gateway.produce("orders", [event()], partitions=1)
        box = desk.ingestors.peek("orders")
        assert box is not None
        box.close()

        async def refused() -> None:
            with pytest.raises(NotFound):
                await desk.gateway.produce("orders", [event()])

        tasks.start_soon(refused)


async def test_an_ingestor_that_cannot_be_built_is_unavailable(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_desk(rig) as desk:

        def broken(*_: Any) -> None:
            raise RuntimeError("no")

        monkeypatch.setattr(desk.ingestors, "_make", broken)
        with pytest.raises(Unavailable, match="ingestor"):
            await desk.gateway.produce("orders", [event()], partitions=1)
        assert desk.pressure._in_flight == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_after_any_storm_of_cancellations_nothing_is_counted_as_in_flight(rig: Rig, anyio_backend: str) -> None:
    chance = random.Random(1)
    async with open_desk(rig) as desk:
        requests: list[asyncio.Task[Any]] = []
        for turn in range(300):
            name = f"t{chance.randrange(4)}"
            produce = desk.gateway.produce(name, [event(f"{turn}.{n}") for n in range(3)], partitions=2)
            requests.append(asyncio.ensure_future(produce))
            await settle(chance.randrange(10))
            chance.choice(requests).cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        assert desk.pressure._in_flight == 0
        await _all_answer(desk)
        retained = [one for at in rig.redis.streams for one in _payloads(rig, at)]
        assert len(retained) == len(set(retained))
        for request in requests:  # who heard of success was told the truth
            if not request.cancelled() and request.exception() is None:
                produced = request.result()
                texts(produced.results, rig, produced.topic)


async def _all_answer(desk: Desk) -> None:
    for number in range(4):
        with anyio.fail_after(5):
            await desk.gateway.produce(f"t{number}", [event(f"last {number}")])
    await eventually(lambda: all(box.depth == 0 for _, box in desk.ingestors.mailboxes()))


def _payloads(rig: Rig, at: Any) -> list[str]:
    return [one.payload.decode() for one in rig.redis.streams[at].entries.values()]

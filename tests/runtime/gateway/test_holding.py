"""What consumers hold: given back now or for later, kept for longer, paused, and when their time begins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from openstream_runtime.domain.errors import InvalidRequest, NotFound
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import GroupSettings, TopicSettings
from openstream_runtime.gateway.groups import LATE
from openstream_runtime.gateway.results import Handout
from openstream_runtime.ports.redelivery import GivenBack
from support.actors import Rig, eventually
from support.desk import Desk, items, open_desk, payloads
from support.redriving import set_to

pytestmark = pytest.mark.anyio


async def filled(rig: Rig, desk: Desk, *events: int, **settings: Any) -> list[Position]:
    topic, _ = await desk.gateway.put_topic("orders", 1, TopicSettings())
    await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
    if settings:
        await set_to(desk, **settings)
    return await rig.append(topic, *events)


async def nack(desk: Desk, handout: Handout, *, consumer: str | None = None, delay_ms: int = 0) -> GivenBack:
    return await desk.gateway.nack("orders", "g", items(handout), consumer=consumer, delay_ms=delay_ms)


async def test_what_is_nacked_wakes_who_waits_on_any_node(rig: Rig) -> None:
    async with open_desk(rig) as desk, open_desk(rig.node("b")) as other:
        await filled(rig, desk, 1, 2)
        held = await desk.read()
        waits: list[Handout] = []

        async def wait() -> None:
            waits.append(await other.read(consumer="other", block_ms=20_000))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(5)
            began = anyio.current_time()
            assert await nack(desk, held) == GivenBack(2, 0)
        assert anyio.current_time() - began < 0.5
        assert [one.deliveries for one in waits[0].deliveries] == [2, 2]
    assert rig.meter.of("nacked") == [("orders", "g", 2)]


async def test_a_delayed_event_comes_when_it_is_due_and_not_before(rig: Rig) -> None:
    async with open_desk(rig) as desk, open_desk(rig.node("b")) as other:
        await filled(rig, desk, 1)
        held = await desk.read()
        began = anyio.current_time()
        came: list[tuple[float, int]] = []

        async def wait(at: Desk, name: str) -> None:
            handout = await at.read(consumer=name, block_ms=9_000)
            came.extend((anyio.current_time() - began, one.deliveries) for one in handout.deliveries)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, desk, "here")
            tasks.start_soon(wait, other, "there")
            await anyio.sleep(0.5)
            await nack(desk, held, delay_ms=3_250)
        [(after, deliveries)] = came
        assert 3.75 <= after < 3.9
        assert deliveries == 2


async def test_only_what_that_consumer_holds_is_nacked_when_one_is_named(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await filled(rig, desk, 1, 2)
        held = await desk.read(consumer="a", count=1)
        assert await nack(desk, held, consumer="b") == GivenBack(0, 0)
        assert await nack(desk, held, consumer="a") == GivenBack(1, 0)
        assert rig.meter.of("nacked") == [("orders", "g", 1)]


async def test_the_last_delivery_rings_the_bell_of_the_dead(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await filled(rig, desk, 1, 2, max_deliveries=1)
        held = await desk.read()
        assert await nack(desk, held) == GivenBack(0, 2)
        assert rig.redis.bells[-1] == "dead:orders:0"
        assert payloads(await desk.read()) == []


async def test_what_does_not_exist_is_refused(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await filled(rig, desk, 1)
        with pytest.raises(InvalidRequest):
            await desk.gateway.nack("orders", "g", {1: [Position(1, 1)]}, consumer=None, delay_ms=0)
        with pytest.raises(InvalidRequest):
            await desk.gateway.extend("orders", "g", "c", {1: [Position(1, 1)]})
        with pytest.raises(NotFound):
            await desk.gateway.nack("orders", "x", {0: [Position(1, 1)]}, consumer=None, delay_ms=0)
        with pytest.raises(NotFound):
            await desk.gateway.extend("nothing", "g", "c", {0: [Position(1, 1)]})


async def test_extending_tells_what_is_lost(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        positions = await filled(rig, desk, 1, 2, 3)
        await desk.read(consumer="a", count=2)
        assert await desk.gateway.extend("orders", "g", "a", {0: positions}) == {0: positions[2:]}


async def held_for(rig: Rig, position: Position) -> int:
    """Milliseconds since the entry's idle clock began."""
    stream = next(iter(rig.redis.streams.values()))
    return rig.redis.now_ms() - stream.groups["g"].pending[position].since_ms


async def test_the_time_for_an_event_begins_when_the_consumer_got_it(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        [position] = await filled(rig, desk, 1)
        handout = await desk.read()
        await anyio.sleep(LATE * 5)
        calls = rig.redis.calls["extend"]
        handout.arrived()
        await eventually(lambda: rig.redis.calls["extend"] == calls + 1, within=1)
        assert await held_for(rig, position) < 1_000


async def test_an_answer_that_leaves_at_once_costs_nothing_more(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await filled(rig, desk, 1)

        async def produce() -> None:
            await anyio.sleep(7)
            await rig.append(await desk.gateway.topic("orders"), 2)

        (await desk.read()).arrived()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            (await desk.read(block_ms=20_000)).arrived()  # it waited for the event, the event did not wait for it
        await anyio.sleep(1)
        assert rig.redis.calls["extend"] == 0


async def test_a_late_answer_whose_events_are_with_somebody_else_takes_nothing_away(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        [position] = await filled(rig, desk, 1)
        handout = await desk.read(consumer="late")
        await anyio.sleep(60)
        await desk.gateway.claim("orders", "g", "quick", min_idle_ms=1_000, count=9)
        await anyio.sleep(10)
        handout.arrived()
        await anyio.sleep(0.5)
        assert await held_for(rig, position) >= 10_000


async def test_a_paused_group_hands_out_nothing_and_goes_on_when_it_is_resumed(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        positions = await filled(rig, desk, 1, 2)
        first = await desk.read(count=1)
        await set_to(desk, paused=True)
        assert payloads(await desk.read()) == []
        began = anyio.current_time()
        assert payloads(await desk.read(block_ms=4_000)) == []
        assert anyio.current_time() - began >= 4
        claimed = await desk.gateway.claim("orders", "g", "b", min_idle_ms=0, count=9)
        assert payloads(claimed) == []
        assert await desk.gateway.ack("orders", "g", items(first)) == 1
        got: list[str] = []

        async def wait() -> None:
            got.extend(payloads(await desk.read(block_ms=20_000)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(5)
            began = anyio.current_time()
            await set_to(desk, paused=False)
        assert anyio.current_time() - began < 0.5
        assert got == ["2"]
        assert len(positions) == 2


async def test_settings_are_changed_one_by_one_and_shown(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.put_topic("orders", 1, TopicSettings())
        wish = GroupSettings(max_deliveries=3)
        made = await desk.gateway.create_group("orders", "g", start_id="$", start_ms=None, settings=wish)
        assert made.group.settings == wish
        await desk.gateway.alter_group("orders", "g", lambda known: replace(known, claim_idle_ms=500))
        found = await desk.gateway.group("orders", "g")
        assert found.settings == GroupSettings(max_deliveries=3, claim_idle_ms=500)
        assert await rig.store.catalog.group("orders", "g") == found
        for name in ("orders", "a/b"):
            with pytest.raises(InvalidRequest):
                await set_to(desk, dead_letter_topic=name)
        with pytest.raises(NotFound):
            await desk.gateway.alter_group("orders", "x", lambda known: known)

"""Dead letters at the gateway: listed with their story, and sent back, each once."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openstream_runtime.actors.dead_letters import DeadLetters
from openstream_runtime.domain.dead_letters import ONLY, REDRIVEN, Redrive
from openstream_runtime.domain.errors import NotFound, OpenStreamError, Overloaded, Unavailable
from openstream_runtime.domain.events import NewEvent
from openstream_runtime.domain.history import Place
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import TopicSettings
from openstream_runtime.gateway.dead_letters import Letter, Redriven
from support.actors import Rig, make_world, run_virtual
from support.desk import Desk, items, open_desk, payloads
from support.redriving import DLQ, dead_topic, give_up, listed, set_to, standing

pytestmark = pytest.mark.anyio


def place_of(one: Letter) -> Place:
    return Place(one.letter.partition, one.letter.event.position)


async def redrive_all(desk: Desk, to: Redrive = Redrive.GROUP) -> Redriven:
    return await desk.gateway.redrive("orders", "g", to=to, ids=None)


async def test_dead_letters_are_listed_page_by_page_with_their_story(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await dead_topic(rig, desk, *range(7), partitions=2)
        found = await listed(desk, limit=3)
        assert [one.letter.event.payload.decode() for one in found] == ["0", "2", "4", "6", "1", "3", "5"]
        assert {(one.letter.topic, one.letter.group, one.letter.reason, one.letter.consumer) for one in found} == {
            ("orders", "g", "nacked", "c")
        }
        assert [one.letter.origin_partition for one in found] == [0, 0, 0, 0, 1, 1, 1]
        assert not any(one.redriven for one in found)


async def test_without_a_dead_letter_there_is_no_topic_and_no_letter(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.put_topic("orders", 1, TopicSettings())
        await desk.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        page = await desk.gateway.dead_letters("orders", "g", limit=9)
        assert (page.topic, page.letters, page.next) == (DLQ, (), None)
        assert await redrive_all(desk) == Redriven(DLQ)
        with pytest.raises(NotFound):
            await desk.gateway.dead_letters("orders", "x", limit=9)


async def test_what_others_write_into_the_topic_is_no_letter_of_the_group(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic = await dead_topic(rig, desk, 1)
        letters = await desk.gateway.topic(DLQ)
        await rig.append(letters, 8, 9)
        await set_to(desk, "h", max_deliveries=1, dead_letter_topic=DLQ)
        held = await desk.read(group="h")
        await desk.gateway.nack("orders", "h", items(held), consumer=None, delay_ms=0)
        group = await desk.gateway.group("orders", "h")
        await DeadLetters(rig.world, topic, topic.all_partitions()[0]).move(group)
        assert len(standing(rig, DLQ)) == 4
        assert [one.letter.group for one in await listed(desk)] == ["g"]
        assert (await redrive_all(desk)).redriven == 1


async def test_to_the_group_means_that_every_other_passes_over_it(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await dead_topic(rig, desk, 1, 2)
        assert payloads(await desk.read(group="h")) == ["1", "2"]
        done = await redrive_all(desk)
        assert (done.redriven, done.already, done.next) == (2, 0, None)
        handout = await desk.read()
        assert [(one.event.payload, one.deliveries) for one in handout.deliveries] == [(b"1", 1), (b"2", 1)]
        assert payloads(await desk.read(group="h", block_ms=500)) == []
        [described] = await desk.gateway.describe_group("orders", "h")
        assert (described.pending, described.lag) == (2, 0), "what it passed over is done with"
        await desk.gateway.create_group("orders", "late", start_id="0-0", start_ms=None)
        assert payloads(await desk.read(group="late")) == ["1", "2"]
        headers = standing(rig)[-1].headers or b""
        assert b'"%b":"orders.dlq.g/0/' % REDRIVEN.encode() in headers
        assert b'"%b":"orders/g"' % ONLY.encode() in headers
        assert b"dead-letter" not in headers


async def test_to_the_topic_means_everybody(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await dead_topic(rig, desk, 1)
        await desk.read(group="h")
        await redrive_all(desk, Redrive.TOPIC)
        assert payloads(await desk.read()) == ["1"]
        assert payloads(await desk.read(group="h")) == ["1"]


async def test_each_goes_back_once_by_whatever_way(rig: Rig) -> None:
    async with open_desk(rig) as desk, open_desk(rig.node("b")) as other:
        await dead_topic(rig, desk, *range(4))
        places = [place_of(one) for one in await listed(desk)]
        nowhere = [Place(0, Position(1, 1)), Place(9, Position(1, 1))]
        ids = [places[2], nowhere[0], places[0], nowhere[1], places[2]]
        done = await desk.gateway.redrive("orders", "g", to=Redrive.GROUP, ids=ids)
        assert (done.redriven, done.already, done.unknown) == (2, 0, nowhere)
        assert [one.redriven for one in await listed(other)] == [True, False, True, False]
        done = await redrive_all(other, Redrive.TOPIC)
        assert (done.redriven, done.already) == (2, 2)
        done = await redrive_all(desk)
        assert (done.redriven, done.already) == (0, 4)
        assert [one.payload for one in standing(rig)[4:]] == [b"2", b"0", b"1", b"3"]


async def test_what_dies_again_is_a_new_letter_and_may_go_back_again(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic = await dead_topic(rig, desk, 1)
        for count in (2, 3):
            await redrive_all(desk)
            await give_up(rig, desk, topic)
            found = await listed(desk)
            assert [one.redriven for one in found] == [True] * (count - 1) + [False]
            assert [one.letter.deliveries for one in found] == [1] * count


async def test_a_long_redrive_says_where_to_go_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openstream_runtime.gateway.dead_letters.PATIENCE", -1.0)
    monkeypatch.setattr("openstream_runtime.gateway.dead_letters.PAGE", 1)
    async with open_desk(rig) as desk:
        await dead_topic(rig, desk, *range(5), partitions=2)
        done, rounds = await redrive_all(desk), 1
        while done.next is not None:
            done = await desk.gateway.redrive("orders", "g", to=Redrive.GROUP, ids=None, at=done.next)
            rounds += 1
            assert done.redriven <= 1
        assert rounds >= 5
        assert len(standing(rig)) == 10


@pytest.mark.parametrize("kept", [True, False])
async def test_a_lost_answer_doubles_nothing(rig: Rig, kept: bool) -> None:
    async with open_desk(rig) as desk:
        await dead_topic(rig, desk, 1, 2)
        rig.redis.lose_answer("append", kept=kept)
        done = await redrive_all(desk)
        assert (done.redriven, done.already) == (2, 0)
        assert len(standing(rig)) == 4


async def test_a_postgresql_away_at_the_wrong_moment_doubles_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_desk(rig) as desk, open_desk(rig.node("b")) as other:
        await dead_topic(rig, desk, 1, 2)
        monkeypatch.setattr(rig.store.redrives, "settle", away)
        with pytest.raises(Unavailable):
            await redrive_all(desk)
        assert len(standing(rig)) == 4
        monkeypatch.undo()
        done = await redrive_all(other)
        assert (done.redriven, done.already) == (0, 2)
        assert [one.payload for one in standing(rig)[2:]] == [b"1", b"2"]


async def away(*_: object) -> None:
    raise Unavailable("PostgreSQL does not answer", backend="postgres")


async def test_a_full_topic_is_told_and_the_rest_may_be_asked_for_again(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic = await dead_topic(rig, desk, 1, 2)
        full = make_world("full", redis=rig.redis, store=rig.store, max_unpersisted=0)
        async with open_desk(full) as crowded:
            with pytest.raises(Overloaded):
                await redrive_all(crowded)
        assert (await redrive_all(desk)).redriven == 2
        rig.redis.unavailable = True
        with pytest.raises(OpenStreamError):
            await redrive_all(desk)
        assert topic.partitions == 1


async def test_a_copy_in_another_topic_is_for_everybody_there(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await dead_topic(rig, desk, 1)
        await redrive_all(desk)
        copy, _ = await desk.gateway.put_topic("copy", 1, TopicSettings())
        await desk.gateway.create_group("copy", "h", start_id="0-0", start_ms=None)
        await rig.append(copy, 5)
        stream = next(stream for at, stream in rig.redis.streams.items() if at.topic == "copy")
        stream.add(_with(standing(rig)[-1].headers), rig.redis.now_ms())
        assert payloads(await desk.read("copy", "h")) == ["5", "x"]


def _with(headers: bytes | None) -> NewEvent:
    return NewEvent("test", None, b"x", 1, headers)


# ---- at random


act = st.one_of(
    st.tuples(st.just("all"), st.integers(0, 1)),
    st.tuples(st.just("one"), st.integers(0, 5)),
    st.tuples(st.just("lose"), st.booleans()),
    st.tuples(st.just("break"), st.integers(1, 40)),
    st.tuples(st.just("both"), st.integers(0, 5)),
)


@settings(max_examples=100, deadline=None)
@given(acts=st.lists(act, max_size=12))
def test_whoever_redrives_and_whatever_breaks_nothing_goes_back_twice(acts: list[tuple[str, int]]) -> None:
    run_virtual(_at_random, acts)


async def _at_random(acts: list[tuple[str, int]]) -> None:
    rig = make_world()
    async with open_desk(rig) as desk, open_desk(rig.node("b")) as other:
        await dead_topic(rig, desk, *range(6))
        places = [place_of(one) for one in await listed(desk)]

        async def some(at: Desk, *ids: Place) -> None:
            await at.gateway.redrive("orders", "g", to=Redrive.GROUP, ids=ids or None)

        for name, number in acts:
            if name == "all":
                await some((desk, other)[number])
            elif name == "one":
                await some(desk, places[number])
            elif name == "lose":
                rig.redis.lose_answer("append", kept=bool(number))
            elif name == "both":
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(some, desk, places[number], places[0])
                    tasks.start_soon(some, other)
            else:
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(some, desk)
                        for _ in range(number):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()
        await some(other)
        assert sorted(int(one.payload) for one in standing(rig)[6:]) == list(range(6))

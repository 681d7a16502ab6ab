"""Topics through the gateway: made, found, changed, deleted; and what a count that stands for ever means."""

from __future__ import annotations

import pytest

from openstream_runtime.domain.errors import Conflict, InvalidRequest, NotFound, Unavailable
from openstream_runtime.domain.topics import TopicSettings
from support.actors import Rig
from support.desk import open_desk

pytestmark = pytest.mark.anyio
DEFAULT = TopicSettings()


async def test_put_makes_it_once_and_then_finds_it(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        topic, new = await desk.gateway.put_topic("orders", 4, TopicSettings(retention_ms=5))
        assert (topic.partitions, topic.settings.retention_ms, new) == (4, 5, True)
        again, new = await desk.gateway.put_topic("orders", None, TopicSettings(retention_ms=5))
        assert (again, new) == (topic, False)
        assert rig.store.calls["alter_topic"] == 0
        assert rig.world.board.topics["orders"] == topic


async def test_put_changes_settings_and_never_the_count(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.put_topic("orders", 4, DEFAULT)
        altered, new = await desk.gateway.put_topic("orders", 4, TopicSettings(max_stream_len=9))
        assert (altered.settings.max_stream_len, new) == (9, False)
        assert rig.world.board.topics["orders"].settings.max_stream_len == 9
        for count in (3, 5):
            with pytest.raises(Conflict) as conflict:
                await desk.gateway.put_topic("orders", count, DEFAULT)
            assert conflict.value.facts == {"topic": "orders", "partitions": 4}
        assert (await desk.gateway.topic("orders")).settings.max_stream_len == 9


async def test_a_topic_that_is_deleted_between_looking_and_changing_is_not_found(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.put_topic("orders", 1, DEFAULT)

        async def gone(*_: object) -> None:
            return None

        rig.store.catalog.alter_topic = gone  # type: ignore[method-assign,assignment]
        with pytest.raises(NotFound):
            await desk.gateway.put_topic("orders", 1, TopicSettings(retention_ms=1))


async def test_topics_are_listed_by_name_without_those_that_go(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        for name in ("c", "a", "b"):
            await desk.gateway.put_topic(name, 1, DEFAULT)
        await desk.gateway.delete_topic("b")
        assert [topic.name for topic in await desk.gateway.topics()] == ["a", "c"]


async def test_a_deleted_topic_is_gone_at_once_and_its_name_taken_for_a_while(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        await desk.gateway.put_topic("orders", 1, DEFAULT)
        assert (await desk.gateway.delete_topic("orders")).deleting
        assert (await desk.gateway.delete_topic("orders")).deleting  # again: it is on its way
        with pytest.raises(NotFound):
            await desk.gateway.topic("orders")
        with pytest.raises(Conflict):
            await desk.gateway.put_topic("orders", 1, DEFAULT)


async def test_a_topic_of_another_node_is_looked_up(rig: Rig) -> None:
    await rig.store.catalog.create_topic("orders", 3, DEFAULT)
    async with open_desk(rig) as desk:
        assert (await desk.gateway.topic("orders")).partitions == 3
        before = rig.store.calls["topic"]
        await desk.gateway.topic("orders")
        assert rig.store.calls["topic"] == before


async def test_names_and_counts_are_checked(rig: Rig) -> None:
    async with open_desk(rig) as desk:
        for name in (".", "a:b", "x" * 201):
            for call in (desk.gateway.topic, desk.gateway.delete_topic):
                with pytest.raises(InvalidRequest):
                    await call(name)
            with pytest.raises(InvalidRequest):
                await desk.gateway.put_topic(name, 1, DEFAULT)
        with pytest.raises(InvalidRequest):
            await desk.gateway.put_topic("orders", 1025, DEFAULT)


async def test_a_bell_that_cannot_be_rung_fails_nothing(rig: Rig) -> None:
    async with open_desk(rig) as desk:

        async def ring(bell: str) -> None:
            raise Unavailable(f"no Redis for {bell}")

        rig.log.tail.ring = ring  # type: ignore[method-assign]
        await desk.gateway.put_topic("orders", 1, DEFAULT)

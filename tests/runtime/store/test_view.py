"""The view openstream.events: its columns are a promise to people and reports."""

from __future__ import annotations

import pytest

from openstream_runtime.ports.store import Committed
from support.store_harness import RealUnderTest, batch, event, new_topic, taken

pytestmark = pytest.mark.anyio

COLUMNS = [
    ("topic", "text"),
    ("partition", "integer"),
    ("redis_id", "text"),
    ("generation", "integer"),
    ("ms", "bigint"),
    ("seq", "bigint"),
    ("index", "integer"),
    ("event_type", "text"),
    ("partition_key", "text"),
    ("payload", "text"),
    ("headers", "text"),
    ("timestamp_ms", "bigint"),
    ("persisted_at", "timestamp with time zone"),
]


async def test_the_view_has_exactly_these_columns_in_this_order(store: RealUnderTest) -> None:
    found = await store.query(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = 'openstream' AND table_name = 'events' ORDER BY ordinal_position"
    )
    assert found == COLUMNS


async def test_an_event_reads_as_it_was_sent(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    sent = event(5, 6, payload=b'{"order_id": "o-1", "amount": 12.340}', headers=b'{"k":"v"}')
    await store.events.write([batch(topic, await taken(store, topic), [sent])])
    ((*row, persisted_at),) = await store.query("SELECT * FROM openstream.events WHERE topic = %s", topic.name)
    assert row == [
        *(topic.name, 0, "5-6", 0, 5, 6, 0, "order.created", "user-1"),
        *('{"order_id": "o-1", "amount": 12.340}', '{"k":"v"}', 1_730_000_000_000),
    ]
    assert persisted_at is not None
    cast = (
        "SELECT payload::jsonb ->> 'order_id', headers::jsonb ->> 'k', payload::json -> 'amount' FROM openstream.events"
    )
    assert await store.query(cast) == [("o-1", "v", 12.34)]


async def test_no_payload_breaks_a_select_of_the_others(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    payloads = [
        rb'"\u0000"',
        rb'"\ud800"',
        b"1e400000",
        b"[" * 50_000 + b"]" * 50_000,
        b"not JSON at all",
        b"",
        b'{"a": 1}',
        b"\xff",
    ]
    events = [event(number, payload=payload) for number, payload in enumerate(payloads, 1)]
    written = await store.events.write([batch(topic, await taken(store, topic), events)])
    assert written == [Committed(quarantined=1)]
    rows = await store.query("SELECT payload FROM openstream.events ORDER BY ms")
    assert [payload.encode() for (payload,) in rows] == payloads[:-1]
    documents = await store.query("SELECT openstream.as_jsonb(payload)->'a' FROM openstream.events ORDER BY ms")
    assert [document for (document,) in documents if document is not None] == [1]


async def test_a_topic_that_is_being_deleted_is_no_longer_shown(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    await store.events.write([batch(topic, await taken(store, topic), [event(1)])])
    await store.catalog.begin_delete(topic.name)
    assert await store.query("SELECT * FROM openstream.events") == []


async def test_the_view_cannot_be_written(store: RealUnderTest) -> None:
    from psycopg.errors import ObjectNotInPrerequisiteState

    with pytest.raises(ObjectNotInPrerequisiteState):
        await store.query("DELETE FROM openstream.events")

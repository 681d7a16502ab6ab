"""Rows that only the server can refuse, and rows written around the fence."""

from __future__ import annotations

import anyio
import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs

from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.positions import Position
from openstream_runtime.ports.store import Committed
from support.store_harness import RealUnderTest, batch, day_made, event, new_topic, taken

pytestmark = pytest.mark.anyio
INSERT = (
    "INSERT INTO openstream.event_log (topic_id, partition, generation, idx, keep, ms, seq, timestamp_ms, event_type, "
    "partition_key, payload) VALUES (%s, 0, 0, 0, 0, 2, 0, 1730000000000, 'order.created', 'user-1', %s)"
)


async def test_the_rows_the_server_refuses_are_found_among_the_others(store: RealUnderTest) -> None:
    await store.query("ALTER TABLE openstream.event_log ADD CONSTRAINT odd CHECK (seq NOT IN (0, 137, 138, 999))")
    topic = await new_topic(store, 2)
    cursors = [await taken(store, topic, number) for number in range(2)]
    events = [event(1, seq) for seq in range(1000)]
    written = await store.events.write(
        [
            batch(topic, cursors[0], events),
            batch(topic, cursors[1], [event(1, 137), event(1, 200)], partition=1),
        ]
    )
    assert written == [Committed(quarantined=4), Committed(quarantined=1)]
    refused = [Position(1, seq) for seq in (0, 137, 138, 999)]
    assert await store.quarantined(topic.id, 0) == [(position, "refused") for position in refused]
    kept = [one.position for _, one in await store.rows(topic.id, 0)]
    assert kept == [one.position for one in events if one.position not in refused]
    ((error,),) = await store.query("SELECT DISTINCT error FROM openstream.quarantine")
    assert error.startswith("23514: ")
    assert '"odd"' in error


async def test_a_refused_row_is_kept_as_it_came(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    bad = event(
        7, 8, event_type="t\udcff", partition_key="\ud800", payload=b"\xff\0", headers=b"\xfe", timestamp_ms=10**30
    )
    null = event(8, 0, partition_key=None, payload=b"\xff")
    await store.events.write([batch(topic, await taken(store, topic), [bad, null])])
    rows = await store.query(
        "SELECT topic_id, partition, generation, ms, seq, idx, event_type, partition_key, payload, headers, "
        "timestamp_ms, reason FROM openstream.quarantine ORDER BY ms"
    )
    assert rows[0] == (topic.id, 0, 0, 7, 8, 0, b"t\xff", b"\xed\xa0\x80", b"\xff\0", b"\xfe", 10**30, "refused")
    assert rows[1][7:10] == (None, b"\xff", None)


async def test_a_collision_is_an_alarm_and_both_events_are_kept(store: RealUnderTest) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    await store.plant(topic.id, 0, 0, event(2))
    with capture_logs() as said:
        await store.events.write([batch(topic, cursor, [event(2, payload=b'"another"')])])
    ((payload, error),) = await store.query("SELECT payload, error FROM openstream.quarantine")
    assert payload == b'"another"'
    assert "another event" in error
    (alarm,) = said
    assert alarm["log_level"] == "critical"
    assert (alarm["topic_id"], alarm["partition"], alarm["position"]) == (topic.id, 0, "2-0")
    assert '"another"' not in str(said)  # what an event holds is nobody's business here


@pytest.mark.parametrize(
    ("payload", "quarantined"), [(b'{"order_id": "o-1"}', 1), (b"{}", 2)], ids=["the same", "another"]
)
async def test_a_row_that_somebody_writes_around_the_fence_meanwhile_is_compared(
    store: RealUnderTest, payload: bytes, quarantined: int
) -> None:
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    await day_made(store)
    outcomes: list[object] = []
    # The poison sends the write to the sieve. It looks for stored rows, sees none, and copies: then it has to wait.
    mine = batch(topic, cursor, [event(1), event(2), event(4, event_type="\ud800")])

    async def write() -> None:
        outcomes.extend(await store.events.write([mine]))

    async with await AsyncConnection.connect(store.database_url) as foreigner:
        await foreigner.execute(INSERT, [topic.id, payload])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await until_blocked(store)
            await foreigner.commit()
    assert outcomes == [Committed(quarantined=quarantined)]
    rows = await store.rows(topic.id, 0)
    assert [one.position.ms for _, one in rows] == [1, 2]
    assert rows[1][1].payload == payload


async def until_blocked(store: RealUnderTest) -> None:
    with anyio.fail_after(10):
        while True:
            if await store.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'transactionid'"):
                return
            await anyio.sleep(0.005)


async def test_a_failure_that_is_no_row_s_fault_is_not_blamed_on_rows(store: RealUnderTest) -> None:
    await store.query(
        "CREATE FUNCTION openstream.fail() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'P0001'; END $$"
    )
    await store.query(
        "CREATE TRIGGER fail BEFORE INSERT ON openstream.event_log FOR EACH ROW EXECUTE FUNCTION openstream.fail()"
    )
    topic = await new_topic(store)
    cursor = await taken(store, topic)
    for events in ([event(1)], [event(1, event_type="\ud800"), event(2)]):
        with pytest.raises(OpenStreamError) as caught:
            await store.events.write([batch(topic, cursor, events)])
        assert caught.value.facts["sqlstate"] == "P0001"
    assert await store.quarantined(topic.id, 0) == []
    assert await store.events.cursor(topic.id, 0) == cursor

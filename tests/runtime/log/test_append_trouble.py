"""Appends in bad moments: what is refused was not kept, what is unknown was kept at most once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest
from redis.exceptions import ResponseError

from openstream_ops.valkey import Valkey
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.log import RedisLog, open_log
from openstream_runtime.ports.log import Appended, Refusal, Refused, Unknown
from support.log_harness import append_one, appended, at, batch, cursor, event, events, eventually, new_topic, verified
from support.scripted_redis import CLOSE, scripted_redis
from support.through_proxy import through_proxy

pytestmark = pytest.mark.anyio
Admin = Callable[..., Awaitable[object]]
UNAVAILABLE = Refused(Refusal.UNAVAILABLE)


async def length(log: RedisLog, topic: object) -> int:
    return len(await log.events.read_after(at(topic), ZERO, count=100_000, max_bytes=1 << 30))  # type: ignore[arg-type]


async def test_a_paused_server_never_doubles_an_append(valkey: Valkey, log: RedisLog) -> None:
    topic = await verified(log)
    await appended(log, topic, events(1))
    valkey.pause()
    try:
        outcome = await append_one(log, topic, events(50))
    finally:
        valkey.resume()
    assert outcome == Unknown()
    after = await appended(log, topic, [event("after")])
    found = await log.events.read_after(at(topic), ZERO, count=1000)
    assert len(found) in (2, 52)
    assert found[-1].position == after[0]


async def test_a_paused_server_that_takes_no_new_connection_keeps_nothing(valkey: Valkey) -> None:
    async with open_log(valkey.url, timeout=0.5) as log:
        topic = await verified(log)
        valkey.pause()
        try:
            async with open_log(valkey.url, timeout=0.5) as other:
                assert await append_one(other, topic, events(5)) == UNAVAILABLE
        finally:
            valkey.resume()
        assert await length(log, topic) == 0


@pytest.mark.parametrize("delivered", [True, False])
async def test_an_answer_lost_on_the_way_is_unknown_whether_it_was_kept_or_not(valkey: Valkey, delivered: bool) -> None:
    async with through_proxy(valkey) as (proxy, log), open_log(valkey.url) as direct:
        topic = await verified(log, 2)
        await appended(log, topic, events(1))
        proxy.cut_after(b"the-marked-one", delivered=delivered)
        outcomes = await log.events.append([batch(topic, [event("the-marked-one")], 0), batch(topic, events(2), 1)])
        assert outcomes == [Unknown(), Unknown()]
        assert proxy.cuts == 1
        assert await length(direct, topic) == 1 + delivered
        assert len(await appended(log, topic, events(1))) == 1  # on a new connection


async def test_replies_are_matched_by_count_when_the_connection_ends_between_them() -> None:
    async with scripted_redis() as server, open_log(server.url) as log:
        topic = new_topic(4)
        server.answer(b"*2\r\n$3\r\n5-0\r\n$3\r\n5-1\r\n", b":1\r\n", CLOSE)
        outcomes = await log.events.append([batch(topic, events(2), number) for number in range(4)])
        assert outcomes == [
            Appended([Position(5, 0), Position(5, 1)]),
            Refused(Refusal.UNVERIFIED),
            Unknown(),
            Unknown(),
        ]


@pytest.mark.parametrize(
    "error",
    [
        b"-LOADING Valkey is loading the dataset in memory",
        b"-MISCONF Errors writing to the AOF file: No space left on device",
        b"-NOREPLICAS Not enough good replicas to write.",
        b"-READONLY You can't write against a read only replica.",
        b"-MASTERDOWN Link with MASTER is down",
        b"-CLUSTERDOWN The cluster is down",
        b"-TRYAGAIN Multiple keys request during rehashing of slot",
        b"-NOAUTH Authentication required.",
        b"-NOPERM this user has no permissions",
        b"-BUSY Valkey is busy running a script.",
    ],
)
async def test_a_server_that_takes_no_writes_refuses_and_the_connection_goes_on(error: bytes) -> None:
    async with scripted_redis() as server, open_log(server.url) as log:
        topic = new_topic(2)
        server.answer(error + b"\r\n", b"*1\r\n$3\r\n5-0\r\n", b"*1\r\n$3\r\n6-0\r\n")
        outcomes = await log.events.append([batch(topic, events(1), 0), batch(topic, events(1), 1)])
        assert outcomes == [UNAVAILABLE, Appended([Position(5, 0)])]
        assert await append_one(log, topic, events(1)) == Appended([Position(6, 0)])


async def test_an_error_nobody_expected_surfaces_after_every_reply_was_read() -> None:
    async with scripted_redis() as server, open_log(server.url) as log:
        topic = new_topic(2)
        server.answer(b"-ERR a bug of ours\r\n", b"*1\r\n$3\r\n5-0\r\n", b"*1\r\n$3\r\n6-0\r\n")
        with pytest.raises(ResponseError, match="a bug of ours"):
            await log.events.append([batch(topic, events(1), 0), batch(topic, events(1), 1)])
        assert await append_one(log, topic, events(1)) == Appended([Position(6, 0)])


async def test_a_full_memory_refuses_and_keeps_nothing(log: RedisLog, admin: Admin) -> None:
    topic = await verified(log)
    await appended(log, topic, events(3))
    await admin("CONFIG", "SET", "maxmemory", 1)
    assert await append_one(log, topic, events(5)) == Refused(Refusal.MEMORY)
    await admin("CONFIG", "SET", "maxmemory", 0)
    assert await length(log, topic) == 3
    [stats] = await log.events.stats([at(topic)])
    assert stats.unpersisted == 3
    assert len(await appended(log, topic, events(5))) == 5


async def test_a_primary_without_the_replicas_it_wants_refuses(log: RedisLog, admin: Admin) -> None:
    topic = await verified(log)
    await admin("CONFIG", "SET", "min-replicas-to-write", 1)
    assert await append_one(log, topic, events(2)) == UNAVAILABLE
    await admin("CONFIG", "SET", "min-replicas-to-write", 0)
    assert await length(log, topic) == 0


async def test_a_replica_refuses(log: RedisLog, admin: Admin) -> None:
    topic = await verified(log)
    await admin("REPLICAOF", "127.0.0.1", 1)
    assert await append_one(log, topic, events(2)) == UNAVAILABLE
    await admin("REPLICAOF", "NO", "ONE")
    assert await length(log, topic) == 0


async def test_appends_go_on_in_order_after_redis_forgot_its_scripts(log: RedisLog, admin: Admin) -> None:
    topic = await verified(log, 2)
    await admin("SCRIPT", "FLUSH")
    outcomes = await log.events.append([batch(topic, events(3), number % 2) for number in range(6)])
    kept = [one.positions for one in outcomes if isinstance(one, Appended)]
    assert [len(one) for one in kept] == [3] * 6
    for number in range(2):
        mine = [position for positions in kept[number::2] for position in positions]
        assert mine == sorted(mine)
        assert [one.position for one in await log.events.read_after(at(topic, number), ZERO, count=99)] == mine


async def test_an_earlier_batch_never_goes_behind_a_later_one_of_its_partition() -> None:
    """Somebody else loads the script again between two of our batches."""
    async with scripted_redis() as server, open_log(server.url) as log:
        topic = new_topic(2)
        forgotten = b"-NOSCRIPT No matching script.\r\n"
        server.answer(forgotten, forgotten, b"*1\r\n$3\r\n5-0\r\n", b"*1\r\n$3\r\n6-0\r\n")
        outcomes = await log.events.append([batch(topic, events(1), number) for number in (0, 1, 0)])
        assert outcomes == [UNAVAILABLE, Appended([Position(6, 0)]), Appended([Position(5, 0)])]
        server.answer(forgotten, forgotten, CLOSE)
        outcomes = await log.events.append([batch(topic, events(1), number) for number in (0, 1)])
        assert outcomes == [Unknown(), Unknown()]


async def test_a_flushed_redis_takes_nothing_until_verified_and_then_goes_on_above_the_cursor(
    log: RedisLog, admin: Admin
) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(5))
    await admin("FLUSHALL")
    assert await append_one(log, topic, events(1)) == Refused(Refusal.UNVERIFIED)
    ahead = Position(positions[-1].ms + 3_600_000, 3)  # the clock went back, too
    await log.events.verify(topic, 0, cursor(ahead))
    assert await appended(log, topic, events(2)) == [ahead.next(), ahead.next().next()]


async def test_a_stream_somebody_removed_takes_nothing_until_verified(log: RedisLog, admin: Admin) -> None:
    topic = await verified(log)
    [position] = await appended(log, topic, events(1))
    await admin("DEL", f"os:stream:{topic.name}:0")
    assert await append_one(log, topic, events(1)) == Refused(Refusal.UNVERIFIED)
    await log.events.verify(topic, 0, cursor(position))
    assert (await appended(log, topic, events(1)))[0] > position


async def test_as_many_replicas_as_asked_have_it(start_valkey: Callable[..., Valkey]) -> None:
    primary, replica = start_valkey(), start_valkey(masterauth="only-for-this-test")
    async with open_log(replica.url) as far, open_log(primary.url, timeout=2, replica_timeout_ms=200) as log:
        await far.lanes["write"].call([("REPLICAOF", "127.0.0.1", primary.port)])
        topic = await verified(log)

        async def replicated() -> bool:
            [outcome] = await log.events.append([batch(topic, events(2))], replicas=1)
            return isinstance(outcome, Appended) and outcome.replicated

        assert await eventually(replicated, bool, within=30)
        replica.pause()
        [outcome] = await log.events.append([batch(topic, events(2))], replicas=1)
        replica.resume()
        assert isinstance(outcome, Appended)
        assert not outcome.replicated
        assert outcome.positions[-1] == (await log.events.edges(at(topic))).last


async def test_without_an_append_only_file_the_replicas_alone_count(start_valkey: Callable[..., Valkey]) -> None:
    async with open_log(start_valkey(appendonly="no").url, replica_timeout_ms=50) as log:
        topic = await verified(log)
        outcomes = [(await log.events.append([batch(topic, events(1))], replicas=replicas))[0] for replicas in (0, 1)]
        assert [one.replicated for one in outcomes if isinstance(one, Appended)] == [True, False]


async def test_losing_the_connection_while_waiting_for_replicas_loses_no_answer() -> None:
    async with scripted_redis() as server, open_log(server.url) as log:
        kept, old = b"*1\r\n$3\r\n5-0\r\n", b"-ERR unknown command\r\n"
        server.answer(kept, CLOSE, kept, old, CLOSE, kept, old, old, kept, b"*2\r\n:1\r\n:1\r\n")
        for replicated in (False, False, False, True):
            outcomes = await log.events.append([batch(new_topic(), events(1))], replicas=1)
            assert outcomes == [Appended([Position(5, 0)], replicated=replicated)]


async def test_cancelled_appends_leave_no_connection_behind_and_no_answer_to_somebody_else(
    valkey: Valkey, log: RedisLog
) -> None:
    topics = [await verified(log) for _ in range(8)]

    async def storm(number: int) -> None:
        for round_ in range(60):
            with anyio.move_on_after(((round_ * 7 + number * 3) % 11) / 4000):
                await log.events.append([batch(topics[number], events(1 + number))])

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(storm, number)
    assert {name: lane.in_use for name, lane in log.lanes.items()} == {"append": 0, "write": 0, "read": 0, "tail": 0}

    async def check(number: int) -> None:
        for _ in range(20):
            assert len(await appended(log, topics[number], events(1 + number))) == 1 + number

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(check, number)
    for number, topic in enumerate(topics):
        assert await length(log, topic) % (1 + number) == 0  # whole batches only


async def test_more_appends_at_once_than_connections_wait_for_their_turn(valkey: Valkey) -> None:
    async with open_log(valkey.url, connections=2) as log:
        topic = await verified(log)

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(appended, log, topic, events(10))
        assert await length(log, topic) == 500


async def test_a_pool_that_is_exhausted_refuses_and_sends_nothing(valkey: Valkey) -> None:
    async with open_log(valkey.url, connections=1) as log:
        topic = await verified(log)
        async with log.lanes["append"].take():
            assert await append_one(log, topic, events(1)) == UNAVAILABLE
        assert await length(log, topic) == 0
        assert len(await appended(log, topic, events(1))) == 1

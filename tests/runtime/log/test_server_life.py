"""A server that stops, restarts, freezes or forgets, and what becomes of everything else than appends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest
from redis.exceptions import ResponseError

from openstream_ops.valkey import Valkey
from openstream_runtime.domain.errors import LeaseLost, OutcomeUnknown, Unavailable
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.log import RedisLog, open_log
from openstream_runtime.ports.groups import Cold
from openstream_runtime.ports.log import Appended, AppendOutcome, Refusal, Refused, TailNews, Unknown
from openstream_runtime.ports.nodes import NodeInfo
from support.away import away
from support.log_harness import append_one, appended, at, cursor, event, events, new_topic, owned, verified
from support.scripted_redis import scripted_redis
from support.through_proxy import through_proxy

pytestmark = pytest.mark.anyio
Admin = Callable[..., Awaitable[object]]
NODE = NodeInfo("n", "http://127.0.0.1:1", 1, "0")


def operations(log: RedisLog) -> dict[str, Callable[[], Awaitable[object]]]:
    """Everything that raises for a backend, by name; those that change nothing twice first."""
    topic = new_topic(2)
    place, name = at(topic), topic.name
    return {
        "read_after": lambda: log.events.read_after(place, ZERO, count=10),
        "edges": lambda: log.events.edges(place),
        "stats": lambda: log.events.stats([place]),
        "memory": log.events.memory,
        "ping": log.events.ping,
        "ack": lambda: log.groups.ack(name, "g", {0: [Position(1, 1)]}),
        "describe": lambda: log.groups.describe(name, "g", [0]),
        "beat": lambda: log.members.beat(NODE, 1000),
        "leave": lambda: log.members.leave("n"),
        "wait": lambda: log.tail.wait({place: ZERO}, 0),
        "verify": lambda: log.events.verify(topic, 0, cursor()),
        "mark_persisted": lambda: log.events.mark_persisted(place, "t", ZERO, count=0, trim_below=None),
        "delete_topic": lambda: log.events.delete_topic(topic),
        "create": lambda: log.groups.create(name, "g", {0: "$"}),
        "set_position": lambda: log.groups.set_position(name, "g", {0: "$"}),
        "delete": lambda: log.groups.delete(name, "g", [0]),
        "read": lambda: log.groups.read(name, "g", "c", [0], count=1),
        "claim": lambda: log.groups.claim(name, "g", "c", [0], min_idle_ms=0, count=1),
        "release": lambda: log.groups.release(name, "g", "c", {0: [Position(1, 1)]}, undelivered=False),
        "release_idle": lambda: log.groups.release_idle(name, "g", 0, min_idle_ms=0, count=1),
        "remove_idle_consumers": lambda: log.groups.remove_idle_consumers(name, "g", 0, min_idle_ms=0),
        "acquire": lambda: log.leases.acquire(place, "t", 1000),
        "renew": lambda: log.leases.renew(place, "t", 1000),
    }


#: Those that are sent once.
WRITES = (
    *("verify", "mark_persisted", "delete_topic", "create", "set_position", "delete", "read", "claim", "release"),
    *("release_idle", "remove_idle_consumers", "acquire", "renew"),
)


async def tried(operation: Callable[[], Awaitable[object]]) -> None:
    """Nobody holds the lease in these tests, so marking may say so; anything else is an error."""
    with suppress(LeaseLost):
        await operation()


async def test_everything_is_unavailable_while_there_is_no_server(valkey: Valkey, log: RedisLog) -> None:
    await log.events.ping()
    async with away(valkey):
        for name, operation in operations(log).items():
            with pytest.raises(Unavailable) as caught:
                await operation()
            assert caught.value.facts["backend"] == "redis", name
            assert "127.0.0.1" not in caught.value.detail
        await log.leases.release(at(new_topic()), "t")
        await log.tail.ring("nodes")
    await log.events.ping()


async def test_what_is_sent_once_has_an_unknown_outcome_when_the_answer_does_not_come(valkey: Valkey) -> None:
    """What may be asked again is unavailable instead: it changed nothing, or the same thing."""
    async with open_log(valkey.url, timeout=0.1) as log:
        every = operations(log)
        for operation in every.values():  # connections are there, so the commands are sent
            await tried(operation)
        for name in WRITES:
            await tried(every[name])
            valkey.pause()
            try:
                with pytest.raises(OutcomeUnknown):
                    await every[name]()
            finally:
                valkey.resume()


async def test_what_may_be_asked_twice_is_unavailable_when_the_answer_does_not_come(valkey: Valkey) -> None:
    async with open_log(valkey.url, timeout=0.1) as log:
        await log.events.ping()
        valkey.pause()
        try:
            with pytest.raises(Unavailable):
                await log.events.ping()
            await log.leases.release(at(new_topic()), "t")
            await log.tail.ring("nodes")
        finally:
            valkey.resume()


async def test_reads_are_asked_again_when_an_answer_is_lost(valkey: Valkey) -> None:
    async with through_proxy(valkey) as (proxy, log):
        topic = await verified(log)
        await appended(log, topic, events(3))
        await log.groups.create(topic.name, "g", {0: "0-0"})
        found = await log.groups.read(topic.name, "g", "c", [0], count=9)
        proxy.cut_after(b"XRANGE", times=2)
        assert len(await log.events.read_after(at(topic), ZERO, count=9)) == 3
        proxy.cut_after(b"XACK", delivered=False)
        assert await log.groups.ack(topic.name, "g", {0: [found.deliveries[0].event.position]}) == 1
        proxy.cut_after(b"PING", times=3)
        with pytest.raises(Unavailable):
            await log.events.ping()


async def test_a_group_read_whose_answer_is_lost_is_sent_once_and_its_events_wait_to_be_claimed(valkey: Valkey) -> None:
    async with through_proxy(valkey) as (proxy, log):
        topic = await verified(log)
        positions = await appended(log, topic, events(3))
        await log.groups.create(topic.name, "g", {0: "0-0"})
        proxy.cut_after(b"the-consumer")
        with pytest.raises(OutcomeUnknown):
            await log.groups.read(topic.name, "g", "the-consumer", [0], count=2)
        claimed = await log.groups.claim(topic.name, "g", "other", [0], min_idle_ms=0, count=9)
        assert [one.event.position for one in claimed.deliveries] == positions[:2]


@pytest.mark.parametrize("kill", [False, True])
async def test_a_restart_costs_no_connection_an_error_and_every_partition_a_new_verification(
    valkey: Valkey, log: RedisLog, kill: bool
) -> None:
    topic = await verified(log, 10)
    outcomes: list[AppendOutcome] = []

    async def append(partition: int) -> None:
        outcomes.append(await append_one(log, topic, events(2), partition))

    async def all_at_once() -> list[AppendOutcome]:
        outcomes.clear()
        async with anyio.create_task_group() as group:
            for partition in range(10):
                group.start_soon(append, partition)
        return outcomes

    assert all(isinstance(one, Appended) for one in await all_at_once())  # ten connections, idle now
    async with away(valkey, kill=kill):
        pass
    assert await all_at_once() == [Refused(Refusal.UNVERIFIED)] * 10
    for partition in range(10):
        await log.events.verify(topic, partition, cursor())
    assert all(isinstance(one, Appended) for one in await all_at_once())


async def test_connections_that_went_stale_while_nobody_looked_are_no_errors_either(
    valkey: Valkey, log: RedisLog
) -> None:
    topic = await verified(log)
    valkey.stop()  # in the event loop's own thread: it hears of nothing until the next append
    valkey.start()
    assert await append_one(log, topic, events(2)) == Refused(Refusal.UNVERIFIED)
    assert [one.length for one in await log.events.stats([at(topic)])] == [0]


async def test_every_script_works_again_after_redis_forgot_it(log: RedisLog, admin: Admin) -> None:
    topic = await verified(log)
    positions = await appended(log, topic, events(4))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    token = await owned(log, topic)
    await log.groups.read(topic.name, "g", "c", [0], count=2)
    for operation in operations(log).values():
        await admin("SCRIPT", "FLUSH")
        await tried(operation)
    await admin("SCRIPT", "FLUSH")
    assert await log.events.mark_persisted(at(topic), token, positions[0], count=1, trim_below=positions[3]) == 1


async def test_what_leads_out_of_a_full_memory_is_not_refused_for_want_of_it(
    valkey: Valkey, log: RedisLog, admin: Admin
) -> None:
    """Leases, heartbeats, verifying, reading, acking and trimming go on; only what fills memory is refused."""
    topic = await verified(log)
    positions = await appended(log, topic, events(10))
    await log.groups.create(topic.name, "g", {0: "0-0"})
    await admin("CONFIG", "SET", "maxmemory", 1)
    async with open_log(valkey.url) as fresh:
        assert await append_one(fresh, topic, events(1)) == Refused(Refusal.MEMORY)
        assert (await fresh.groups.create(topic.name, "other", {0: "$"})).positions == {0: positions[-1]}
        assert await fresh.members.beat(NODE, 60_000) == [NODE]
        token = await owned(fresh, topic)
        assert await fresh.leases.renew(at(topic), token, 60_000)
        await fresh.events.verify(topic, 0, cursor(positions[2]))
        found = await fresh.groups.read(topic.name, "g", "c", [0], count=8)
        assert [one.event.position for one in found.deliveries] == positions[:8]
        assert await fresh.groups.release(topic.name, "g", "c", {0: positions[:5]}, undelivered=False) == 5
        last = positions[-1]
        assert await fresh.events.mark_persisted(at(topic), token, last, count=7, trim_below=last.next()) == 10
        cold = (await fresh.groups.read(topic.name, "g", "c", [0], count=20, max_bytes=1 << 20)).cold
        assert cold is None  # what was released comes first, as stubs
        assert await fresh.groups.ack(topic.name, "g", {0: positions[:8]}) == 8
        cold = (await fresh.groups.read(topic.name, "g", "c", [0], count=20)).cold
        assert cold == Cold(0, positions[7], last)
        assert await fresh.groups.advance(topic.name, "g", "c", cold, positions[8:], last)
        assert await fresh.groups.ack(topic.name, "g", {0: positions}) == 2
        [stats] = await fresh.events.stats([at(topic)])
        assert (stats.length, stats.persisted, stats.unpersisted) == (0, last, 0)
        assert (await fresh.events.memory())["maxmemory"] == 1
    await admin("CONFIG", "SET", "maxmemory", 0)


async def test_a_wrong_password_is_unavailable_and_nothing_of_it_is_told(valkey: Valkey) -> None:
    async with open_log(f"redis://:wrong-secret@127.0.0.1:{valkey.port}/0") as log:
        with pytest.raises(Unavailable) as caught:
            await log.events.ping()
        assert "wrong-secret" not in str(caught.value)
        assert await append_one(log, new_topic(), events(1)) == Refused(Refusal.UNAVAILABLE)


async def test_a_user_without_the_right_to_write_is_refused(valkey: Valkey, admin: Admin) -> None:
    await admin("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-evalsha", "-xrange")
    async with open_log(f"redis://reader:pw@127.0.0.1:{valkey.port}/0") as log:
        assert await append_one(log, new_topic(), events(1)) == Refused(Refusal.UNAVAILABLE)
        with pytest.raises(Unavailable):
            await log.events.read_after(at(new_topic()), ZERO, count=1)


async def test_a_unix_socket_and_another_database_work_as_well(
    start_valkey: Callable[..., Valkey], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("s") / "v.sock"
    start_valkey(unixsocket=str(path))
    async with open_log(f"unix://:only-for-this-test@{path}?db=3&retry_on_timeout=1&protocol=3") as log:
        topic = await verified(log)
        assert len(await appended(log, topic, events(2))) == 2
        assert await log.tail.wait({at(topic): ZERO}, 0) != TailNews()


def test_a_url_that_is_none_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="begins with"):
        RedisLog("http://127.0.0.1/")


async def test_cancelled_calls_of_every_kind_leave_no_connection_behind(log: RedisLog) -> None:
    every = list(operations(log).values())

    async def storm(number: int) -> None:
        for round_ in range(40):
            operation = every[(number * 5 + round_) % len(every)]
            with anyio.move_on_after(((round_ * 7 + number * 3) % 11) / 4000):
                await tried(operation)

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(storm, number)
    assert {lane.in_use for lane in log.lanes.values()} == {0}
    topic = await verified(log)
    assert len(await appended(log, topic, [event("mine")])) == 1
    assert [one.payload for one in await log.events.read_after(at(topic), ZERO, count=9)] == [b'"mine"']


async def test_an_append_to_a_server_that_dies_is_refused_or_unknown(valkey: Valkey, log: RedisLog) -> None:
    topic = await verified(log)
    outcomes: list[AppendOutcome] = []

    async def keep_appending() -> None:
        while not outcomes or isinstance(outcomes[-1], Appended):
            outcomes.append(await append_one(log, topic, events(100)))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(keep_appending)
            await anyio.to_thread.run_sync(valkey.kill)
    assert outcomes[-1] in (Unknown(), Refused(Refusal.UNAVAILABLE))


async def test_a_node_that_says_of_itself_what_nobody_understands_is_left_out(log: RedisLog, admin: Admin) -> None:
    await log.members.beat(NODE, 60_000)
    await admin("HSET", "{os:nodes}:info", "later", '{"id":"later","shape":"unknown"}')
    assert await log.members.beat(NODE, 60_000) == [NODE]


async def test_something_else_under_our_key_is_that_partition_s_trouble_alone(log: RedisLog, admin: Admin) -> None:
    topic = await verified(log, 2)
    await admin("SET", f"os:stream:{topic.name}:0", "no stream")
    with pytest.raises(Unavailable):
        await log.events.read_after(at(topic), ZERO, count=1)
    with pytest.raises(Unavailable):
        await log.groups.read(topic.name, "g", "c", [0], count=1)
    assert await append_one(log, topic, events(1)) == Refused(Refusal.UNAVAILABLE)
    assert len(await appended(log, topic, events(1), 1)) == 1
    assert [one.length for one in await log.events.stats(topic.all_partitions())] == [0, 1]


async def test_an_error_nobody_expected_surfaces_as_itself() -> None:
    async with scripted_redis() as server, open_log(server.url) as log:
        server.answer(b"-ERR a bug of ours\r\n", b"+PONG\r\n")
        with pytest.raises(ResponseError, match="a bug of ours"):
            await log.events.ping()
        await log.events.ping()

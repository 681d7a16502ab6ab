"""What goes wrong: one function for each fault, from its beginning to its end. Each shows that it did happen."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import psycopg
from anyio import create_task_group, current_time, fail_after, open_process, sleep

from chaos.stage import GROUPS, IDLE_S, LEASE_S, PARTITIONS, TESTS, TOPIC, Fault, Stage
from support.partitions import holders, redis_client, stream, wait_for
from support.tcp_proxy import TcpProxy

#: Longer than a node waits for Redis' answer to a write (3 s).
LONG_S = 5.0
#: What every append of the load carries, and nothing else that a node sends to Redis.
AN_APPEND = b'{"producer": "'
READY_S = 30.0
#: How long a node sleeps, and how soon all is shared evenly again.
SLEEP_S, BALANCED_S = 60.0, 15.0


async def nothing(_: Stage) -> None:
    await sleep(4)


# ---------------------------------------------------------------------------------------------------------- nodes


async def nodes_are_killed(stage: Stage) -> None:
    for last in (False, True):
        number = stage.a_node()
        await stage.blocking(stage.cluster.kill, number)
        stage.note(f"node {number} killed")
        if last:
            stage.over()  # nobody helps: the others have to take over
        await sleep(stage.chance.uniform(1, 2.5))
        stage.cluster.start(number)
        await stage.blocking(stage.cluster.wait_ready, number)


async def a_node_sleeps_through_its_lease(stage: Stage) -> None:
    number = stage.a_node()
    stage.cluster.pause(number)
    stage.note(f"node {number} stopped")
    await sleep(2 * LEASE_S + 1)
    stage.cluster.resume(number)
    stage.note(f"node {number} goes on")
    stage.over()
    client = await stage.blocking(stage.client, number)

    def noticed() -> bool:
        return sum(client.metric("openstream_lease_changes_total", change=one) for one in ("lost", "fenced")) > 0

    deadline = current_time() + 10
    while not await stage.blocking(noticed):
        if current_time() > deadline:
            stage.missing.append("the node that slept was never told that its partitions are no longer its own")
            return
        await sleep(0.1)


async def nodes_are_replaced_one_by_one(stage: Stage) -> None:
    for number in range(len(stage.cluster.urls)):
        took = await stage.blocking(stage.cluster.stop, number)
        stage.cluster.start(number)
        ready = await stage.blocking(stage.cluster.wait_ready, number)
        stage.note(f"node {number} stopped in {took:.1f} s, ready {ready:.1f} s later")


async def a_node_leaves_and_another_joins(stage: Stage) -> None:
    number = stage.a_node()
    there = len(stage.cluster.urls)

    def shared_by(nodes: int) -> bool:
        now = holders(stage.servers.redis_url, TOPIC, PARTITIONS)
        return None not in now and len(set(now)) == nodes

    await stage.blocking(stage.cluster.stop, number)
    took = await stage.blocking(lambda: wait_for(lambda: shared_by(there - 1), "the others own all", READY_S))
    stage.note(f"node {number} has left, the others own everything {took:.1f} s later")
    stage.cluster.start(number)
    await stage.blocking(stage.cluster.wait_ready, number)
    took = await stage.blocking(lambda: wait_for(lambda: shared_by(there), "the newcomer has a share", READY_S))
    stage.note(f"a node has joined, and owned a share {took:.1f} s after it was ready")


async def one_of_five_sleeps_one_dies_and_one_joins(stage: Stage) -> None:
    """After each the partitions are shared evenly again, within `BALANCED_S`, without anybody's doing."""

    async def even(nodes: int, since: str) -> None:
        def shared() -> bool:
            now = Counter(holders(stage.servers.redis_url, TOPIC, PARTITIONS))
            return None not in now and len(now) == nodes and max(now.values()) - min(now.values()) <= 1

        took = await stage.blocking(lambda: wait_for(shared, f"shared evenly by {nodes} after {since}", BALANCED_S))
        stage.note(f"shared evenly by {nodes} nodes {took:.1f} s after {since}")

    await even(5, "the start")
    stage.cluster.pause(0)
    wakes = current_time() + SLEEP_S
    await even(4, "one fell asleep")
    await stage.blocking(stage.cluster.kill, 1)
    await even(3, "one died")
    stage.cluster.start(1)
    await stage.blocking(stage.cluster.wait_ready, 1)
    await even(4, "one joined")
    await sleep(wakes - current_time())
    stage.cluster.resume(0)
    stage.over()
    await even(5, "the sleeper woke")


async def the_clock_of_a_node_jumps(stage: Stage) -> None:
    """Needs nodes that read their clock's error from a file (`chaos.odd_node`)."""
    path = stage.folder / "clock"
    for hours in (1, -1, 0):
        path.write_text(str(hours * 3600))
        stage.note(f"the clocks of all nodes are {hours} h off")
        await sleep(2)


async def the_clock_of_redis_goes_back(stage: Stage) -> None:
    _lift_ids_by_an_hour(stage)
    stage.over()
    await sleep(3)


async def redis_comes_back_empty_and_an_hour_behind(stage: Stage) -> None:
    _lift_ids_by_an_hour(stage)
    await sleep(1.5)
    await redis_is_emptied(stage)


def _lift_ids_by_an_hour(stage: Stage) -> None:
    """As good as a clock that has gone back: the last ids are of an hour from now."""
    with redis_client(stage.servers.redis_url) as client:
        for partition in range(PARTITIONS):
            name = stream(TOPIC, partition)
            if client.exists(name):
                info: Any = client.xinfo_stream(name)
                ms, _, seq = info["last-generated-id"].decode().partition("-")
                client.eval("return redis.call('XSETID', KEYS[1], ARGV[1])", 1, name, f"{int(ms) + 3_600_000}-{seq}")
    stage.note("ids are an hour ahead of the clock")


# -------------------------------------------------------------------------------------------------------- clients


async def clients_are_killed(stage: Stage) -> None:
    token = await stage.blocking(stage.cluster.token)
    for number in range(4):
        path = stage.folder / f"client-{number}.jsonl"
        told = {
            "urls": stage.cluster.urls, "token": token, "topic": TOPIC, "group": GROUPS[number % 2],
            "name": f"x{number}", "journal": str(path),
        }  # fmt: skip
        command = [sys.executable, "-m", "chaos.client_process", json.dumps(told)]
        async with await open_process(command, cwd=TESTS, stdout=None, stderr=None) as process:
            with fail_after(READY_S):
                while not path.exists() or path.read_text().count("\n") < 60:  # noqa: ASYNC110 (another process)
                    await sleep(0.05)
            process.kill()
        stage.journals.append(path)
        stage.note(f"client {number} killed in the middle of its work")
    stage.over()
    await sleep(IDLE_S)


# ---------------------------------------------------------------------------------------------------------- Redis


async def redis_is_killed(stage: Stage) -> None:
    for _ in range(2):
        await stage.blocking(stage.servers.valkey.kill)
        stage.note("Redis killed")
        await sleep(1)
        await stage.blocking(stage.servers.valkey.start)
        stage.note("Redis started")
        stage.over()
        await sleep(1.5)


async def redis_stands_still(stage: Stage) -> None:
    stage.servers.valkey.pause()
    stage.note("Redis stands still")
    await sleep(LONG_S)
    stage.servers.valkey.resume()


async def redis_is_emptied(stage: Stage) -> None:
    with redis_client(stage.servers.redis_url) as client:
        client.flushall()
    stage.note("Redis emptied")
    stage.over()
    await sleep(2)


async def redis_refuses_writes(stage: Stage) -> None:
    for name, value, back in (("min-replicas-to-write", 1, 0), ("maxmemory", 1 << 20, 0)):
        with redis_client(stage.servers.redis_url) as client:
            client.config_set(name, value)
            stage.note(f"Redis has {name} {value}")
            await sleep(2.5)
            client.config_set(name, back)
        stage.over()
        await sleep(1)


# ----------------------------------------------------------------------------------------------------- PostgreSQL


async def postgresql_is_killed(stage: Stage) -> None:
    for _ in range(2):
        await stage.blocking(stage.servers.postgres.kill)
        stage.note("PostgreSQL killed")
        await sleep(1)
        await stage.blocking(stage.servers.postgres.start)
        stage.note("PostgreSQL started")
        stage.over()
        await sleep(1)


async def postgresql_stands_still(stage: Stage) -> None:
    stage.servers.postgres.pause()
    stage.note("PostgreSQL stands still")
    await sleep(LONG_S)
    stage.servers.postgres.resume()


async def postgresql_is_away_for_long(stage: Stage) -> None:
    await stage.blocking(stage.servers.postgres.stop)
    stage.note("PostgreSQL stopped")
    await sleep(10)
    await stage.blocking(stage.servers.postgres.start)


async def postgresql_is_slow_and_then_full(stage: Stage) -> None:
    """By a trigger: every commit of events takes a second, and then each is refused as on a full disk."""
    url = stage.servers.database_url
    await stage.blocking(_order, url, _MAKE_TROUBLE)
    await stage.blocking(_order, url, "update trouble.kind set kind = 'slow'")
    stage.note("PostgreSQL takes a second for each commit")
    await sleep(4)
    await stage.blocking(_order, url, "update trouble.kind set kind = 'full'")
    stage.note("PostgreSQL's disk is full")
    await sleep(3)
    await stage.blocking(_order, url, "update trouble.kind set kind = ''")


def _order(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


_MAKE_TROUBLE = """
    create schema if not exists trouble;
    create table if not exists trouble.kind as select '' as kind;
    create or replace function trouble.make() returns trigger language plpgsql as $$
    declare
        now_is text := (select kind from trouble.kind);
    begin
        if now_is = 'slow' then perform pg_sleep(1); end if;
        if now_is = 'full' then raise exception 'could not extend file' using errcode = 'disk_full'; end if;
        return null;
    end $$;
    create or replace trigger trouble before insert on openstream.event_log for each statement
    execute function trouble.make();
"""


# ---------------------------------------------------------------------------------------------------------- links


async def links_to_redis_are_slow(stage: Stage) -> None:
    await _slow(stage, "Redis", stage.redis_links)


async def links_to_postgresql_are_slow(stage: Stage) -> None:
    await _slow(stage, "PostgreSQL", stage.postgres_links)


async def _slow(stage: Stage, whose: str, links: Sequence[TcpProxy]) -> None:
    for link in links:
        link.delay = 0.1
    stage.note(f"every packet to and from {whose} takes 0.1 s")
    await sleep(3)
    for link in links:
        link.delay, link.trickle = 0.0, 20_000
    stage.note(f"20 kB a second pass to and from {whose}")
    await sleep(3)
    for link in links:
        link.trickle = None


async def answers_of_redis_stall(stage: Stage) -> None:
    await _stall(stage, "Redis", stage.redis_links)


async def answers_of_postgresql_stall(stage: Stage) -> None:
    await _stall(stage, "PostgreSQL", stage.postgres_links)


async def _stall(stage: Stage, whose: str, links: Sequence[TcpProxy]) -> None:
    number = stage.a_node()
    links[number].stall(answers_only=True)
    stage.note(f"node {number} hears nothing of {whose}, which hears it")
    await sleep(LONG_S)
    links[number].resume()


async def links_to_redis_are_cut(stage: Stage) -> None:
    """After an append was delivered and before, at a byte of an answer, and all at once."""
    for number in range(8):
        link = stage.redis_links[number % len(stage.redis_links)]
        await _cut(link, AN_APPEND, delivered=number % 4 < 2)
    await _reset(stage, stage.redis_links)
    cuts = sum(link.cuts for link in stage.redis_links)
    stage.note(f"{cuts} connections to Redis were cut")
    assert cuts >= 12


async def links_to_postgresql_are_cut(stage: Stage) -> None:
    """After a COMMIT was delivered and before, at a byte of an answer, and all at once."""
    for number in range(8):
        link = stage.postgres_links[number % len(stage.postgres_links)]
        await _cut(link, b"COMMIT", delivered=number % 4 < 2)
    await _reset(stage, stage.postgres_links)
    cuts = sum(link.cuts for link in stage.postgres_links)
    stage.note(f"{cuts} connections to PostgreSQL were cut")
    assert cuts >= 12


async def _cut(link: TcpProxy, pattern: bytes, *, delivered: bool) -> None:
    before = link.cuts
    link.cut_after(pattern, delivered=delivered)
    with fail_after(15):
        while link.cuts == before:  # noqa: ASYNC110 (the proxy tells nobody)
            await sleep(0.02)
    await sleep(0.3)


async def _reset(stage: Stage, links: Sequence[TcpProxy]) -> None:
    for number in range(8):
        link, before = links[number % len(links)], links[number % len(links)].cuts
        link.reset_after(stage.chance.randrange(1, 400))
        with fail_after(15):
            while link.cuts == before:  # noqa: ASYNC110 (the proxy tells nobody)
                await sleep(0.02)
    for link in links:
        await link.cut_all()
        link.refusing = True
    await sleep(1)
    for link in links:
        link.refusing = False


# -------------------------------------------------------------------------------------------------- several at once


async def faults_overlap(stage: Stage) -> None:
    """On nodes, Redis, PostgreSQL and the links between them at the same time, each in an order that the seed gives."""
    rooms: list[list[Fault]] = [
        [nodes_are_killed, a_node_sleeps_through_its_lease],
        [redis_is_killed, redis_stands_still, redis_refuses_writes],
        [postgresql_is_killed, postgresql_stands_still, postgresql_is_away_for_long],
        [links_to_redis_are_slow, answers_of_redis_stall],
        [links_to_postgresql_are_slow, answers_of_postgresql_stall],
    ]

    async def visit(room: list[Fault]) -> None:
        for fault in stage.chance.sample(room, 2):
            await sleep(stage.chance.uniform(0, 3))
            await fault(stage)

    async with create_task_group() as tasks:
        for room in rooms:
            tasks.start_soon(visit, room)
    stage.over()

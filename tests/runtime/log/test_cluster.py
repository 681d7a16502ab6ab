"""The log on a real cluster: slots move, primaries sleep or die; nothing is sent twice that may have been kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from redis.crc import key_slot

from openstream_ops.server_process import HOST
from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.log import RedisLog, open_log
from openstream_runtime.ports.log import Appended, AppendOutcome, Refusal, Refused, Unknown
from support.log_harness import at, batch, cursor, event, events, verified
from support.partitions import redis_client
from support.redis_cluster import PASSWORD, RedisCluster
from support.sentinel import ask

pytestmark = [pytest.mark.anyio, pytest.mark.chaos, pytest.mark.timeout(120)]
PARTITIONS = 9


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path) as redis:
        yield redis


def stream(topic: Topic, partition: int) -> bytes:
    return f"os:stream:{topic.name}:{partition}".encode()


async def append_everywhere(log: RedisLog, topic: Topic, text: str) -> dict[int, AppendOutcome]:
    outcomes = await log.events.append([batch(topic, [event(text)], number) for number in range(topic.partitions)])
    return dict(enumerate(outcomes))


async def append_until_kept(log: RedisLog, topic: Topic, within: float = 30.0) -> Counter[str]:
    """Append to every partition until each has kept one; how the attempts ended."""
    left, ended = set(range(topic.partitions)), Counter[str]()
    with anyio.fail_after(within):
        while left:
            outcomes = await log.events.append([batch(topic, [event("again")], number) for number in sorted(left)])
            for number, outcome in zip(sorted(left), outcomes, strict=True):
                ended[type(outcome).__name__] += 1
                if isinstance(outcome, Appended):
                    left.discard(number)
                elif outcome == Refused(Refusal.UNVERIFIED):
                    await log.events.verify(topic, number, cursor())
            await anyio.sleep(0.05)
    return ended


async def held(log: RedisLog, topic: Topic) -> dict[int, list[Position]]:
    return {
        number: [one.position for one in await log.events.read_after(at(topic, number), ZERO, count=1000)]
        for number in range(topic.partitions)
    }


async def test_one_append_reaches_every_primary_and_each_waits_for_its_own_replica(cluster: RedisCluster) -> None:
    async with open_log(cluster.url) as log:
        topic = await verified(log, PARTITIONS)
        assert len({cluster.primary_of(stream(topic, number)).port for number in range(PARTITIONS)}) > 1
        batches = [batch(topic, events(5), number) for number in range(PARTITIONS)]
        outcomes = await log.events.append(batches, replicas=1)
        assert all(isinstance(one, Appended) and one.replicated for one in outcomes)
        places = [TopicPartition(topic.name, number) for number in range(PARTITIONS)]
        assert await log.events.is_replicated(places, 1)
        assert not await log.events.is_replicated(places, 2)
        assert not any(one.replicated for one in await log.events.append(batches, replicas=2))  # type: ignore[union-attr]


async def test_a_primary_that_sleeps_leaves_its_own_appends_unknown_and_none_is_made_twice(
    cluster: RedisCluster,
) -> None:
    async with open_log(cluster.url, timeout=0.4) as log:
        topic = await verified(log, PARTITIONS)
        assert all(isinstance(one, Appended) for one in (await append_everywhere(log, topic, "before")).values())
        asleep = cluster.primary_of(stream(topic, 0))
        its = {number for number in range(PARTITIONS) if cluster.primary_of(stream(topic, number)) is asleep}
        asleep.pause()  # not for long enough to be taken for dead
        outcomes = await append_everywhere(log, topic, "meanwhile")
        asleep.resume()
        assert {number for number, one in outcomes.items() if isinstance(one, Unknown)} == its
        assert {number for number, one in outcomes.items() if isinstance(one, Appended)} == set(range(PARTITIONS)) - its
        for number, positions in (await held(log, topic)).items():
            # It woke up with the append in its socket: the one that was sent, and no second one.
            assert len(positions) == 2, number


async def test_slots_that_go_to_another_primary_are_followed(cluster: RedisCluster) -> None:
    async with open_log(cluster.url) as log:
        topic = await verified(log, PARTITIONS)
        before = await append_everywhere(log, topic, "before")
        old = cluster.primary_of(stream(topic, 0))
        with redis_client(old.url) as client:
            port = int(client.info("replication")["slave0"]["port"])
        heir = next(one for one in cluster.servers if one.port == port)
        with redis_client(heir.url) as client:
            ask(client, "CLUSTER", "FAILOVER")
        await anyio.to_thread.run_sync(cluster.wait_for_another, stream(topic, 0), old)
        ended = await append_until_kept(log, topic)
        assert ended["Unknown"] == 0
        for number, positions in (await held(log, topic)).items():
            first = before[number]
            assert isinstance(first, Appended)
            assert positions[0] == first.positions[0]
            assert len(positions) == 2


async def test_a_slot_that_is_moved_key_by_key_takes_nothing_in_between_and_everything_afterwards(
    cluster: RedisCluster,
) -> None:
    async with open_log(cluster.url) as log:
        topic = await verified(log, 1)
        key = stream(topic, 0)
        [before] = (await append_everywhere(log, topic, "before")).values()
        assert isinstance(before, Appended)
        source = cluster.primary_of(key)
        target = next(one for one in cluster.servers[:3] if one is not source)
        slot = key_slot(key)
        with redis_client(source.url) as old, redis_client(target.url) as new:
            ask(new, "CLUSTER", "SETSLOT", slot, "IMPORTING", ask(old, "CLUSTER", "MYID"))
            ask(old, "CLUSTER", "SETSLOT", slot, "MIGRATING", ask(new, "CLUSTER", "MYID"))
            names = ask(old, "CLUSTER", "GETKEYSINSLOT", slot, 100)
            assert len(names) > 1
            for name in names:  # the first of them gone, a script finds its keys on neither side
                move = ("MIGRATE", HOST, target.port, "", 0, 5_000, "AUTH", PASSWORD, "KEYS", name.decode())
                ask(old, *move)
                assert await append_everywhere(log, topic, "lost?") == {0: Refused(Refusal.UNAVAILABLE)}
            for client in (new, old):
                ask(client, "CLUSTER", "SETSLOT", slot, "NODE", ask(new, "CLUSTER", "MYID"))
        ended = await append_until_kept(log, topic)
        assert ended["Unknown"] == 0
        assert (await held(log, topic))[0][0] == before.positions[0]
        assert len((await held(log, topic))[0]) == 2


async def test_a_primary_dies_and_its_replica_goes_on_while_the_others_do_not_notice(cluster: RedisCluster) -> None:
    async with open_log(cluster.url, timeout=1.0) as log:
        topic = await verified(log, PARTITIONS)
        placed = await log.groups.create(topic.name, "g", dict.fromkeys(range(PARTITIONS), "0-0"))
        assert len(placed.positions) == PARTITIONS
        batches = [batch(topic, [event("before")], number) for number in range(PARTITIONS)]
        before = dict(enumerate(await log.events.append(batches, replicas=1)))
        key = stream(topic, 0)
        its = {
            number
            for number in range(PARTITIONS)
            if cluster.primary_of(stream(topic, number)).port == cluster.primary_of(key).port
        }
        dead = await anyio.to_thread.run_sync(cluster.kill_primary_of, key)
        got = list((await log.groups.read(topic.name, "g", "c", list(range(PARTITIONS)), count=100)).deliveries)
        assert {one.partition for one in got} == set(range(PARTITIONS)) - its
        await anyio.to_thread.run_sync(cluster.wait_for_another, key, dead)
        ended = await append_until_kept(log, topic)
        for number, positions in (await held(log, topic)).items():
            first = before[number]
            assert isinstance(first, Appended)
            assert positions[0] == first.positions[0]
            assert 2 <= len(positions) <= 2 + ended["Unknown"]
        got += (await log.groups.read(topic.name, "g", "c", list(range(PARTITIONS)), count=100)).deliveries
        assert len(got) == sum(map(len, (await held(log, topic)).values()))

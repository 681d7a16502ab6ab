"""The log through real Sentinels: a primary dies, or sleeps and wakes up, and what is kept is kept once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.topics import Topic
from openstream_runtime.log import RedisLog, open_log
from openstream_runtime.ports.log import Appended, Refusal, Refused, Unknown
from support.log_harness import at, batch, cursor, events, verified
from support.partitions import redis_client, stream
from support.sentinel import Sentinels

pytestmark = [pytest.mark.anyio, pytest.mark.chaos, pytest.mark.timeout(120)]


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    with Sentinels(tmp_path) as redis:
        yield redis


async def append_until_kept(log: RedisLog, topic: Topic, within: float = 30.0) -> tuple[Position, int]:
    """One append after the other until one is kept; its position, and of how many nobody knows what became of them."""
    unknown = 0
    with anyio.fail_after(within):
        while True:
            [outcome] = await log.events.append([batch(topic, events(1))])
            match outcome:
                case Appended():
                    return outcome.positions[0], unknown
                case Unknown():
                    unknown += 1
                case Refused(Refusal.UNVERIFIED):
                    await log.events.verify(topic, 0, cursor())
                case Refused(Refusal.UNAVAILABLE):
                    await anyio.sleep(0.05)
                case _:
                    raise AssertionError(outcome)


async def test_the_new_primary_is_found_and_it_must_be_verified_before_it_takes_anything(sentinels: Sentinels) -> None:
    async with open_log(sentinels.url, timeout=1.0) as log:
        topic = await verified(log)
        [outcome] = await log.events.append([batch(topic, events(3))], replicas=2)
        assert isinstance(outcome, Appended)
        assert outcome.replicated
        assert (await log.groups.create(topic.name, "g", {0: "0-0"})).positions
        assert len((await log.groups.read(topic.name, "g", "c", [0], count=2)).deliveries) == 2
        dead = await anyio.to_thread.run_sync(sentinels.kill_primary)
        kept, unknown = await append_until_kept(log, topic)
        assert kept > outcome.positions[-1]
        stored = [one.position for one in await log.events.read_after(at(topic), ZERO, count=99)]
        assert stored[:3] == outcome.positions
        assert kept in stored
        assert len(stored) <= 4 + unknown
        # Groups, the tail and leases are where they were, on the new one.
        assert {
            one.event.position for one in (await log.groups.read(topic.name, "g", "c", [0], count=9)).deliveries
        } == {*stored[2:]}
        assert (await log.tail.wait({at(topic): outcome.positions[-1]}, 5.0)).moved == {at(topic): stored[-1]}
        assert await log.leases.acquire(at(topic), "n:1", 60_000)
        assert sentinels.primary is not dead


async def test_a_primary_that_wakes_up_after_it_was_replaced_is_given_nothing(sentinels: Sentinels) -> None:
    async with open_log(sentinels.url, timeout=0.5) as log:
        topic = await verified(log)
        kept = [(await append_until_kept(log, topic))[0] for _ in range(5)]
        # Connections that stay open while nobody uses them: the first to come later must not use one of these.
        async with anyio.create_task_group() as many:
            for _ in range(8):
                many.start_soon(log.events.append, [batch(topic, events(1))])
        asleep = sentinels.primary
        asleep.pause()
        await anyio.to_thread.run_sync(sentinels.wait_for_another, asleep)
        await log.events.ping()  # as every node does all the time: it looks who the primary is
        asleep.resume()
        kept += [(await append_until_kept(log, topic))[0] for _ in range(50)]
        with redis_client(sentinels.primary.url) as client:
            entries: Any = client.xrange(stream(topic.name, 0))
        stored = {Position(*map(int, one.split(b"-"))) for one, _ in entries}
        assert stored.issuperset(kept)


async def test_where_sentinels_name_a_server_that_is_no_primary_nothing_is_sent(sentinels: Sentinels) -> None:
    replica = next(one for one in sentinels.servers if one is not sentinels.primary)
    async with open_log(sentinels.url, timeout=1.0) as log:
        topic = await verified(log)
        for lane in log.lanes.values():  # as after a failover that the Sentinels take back
            lane._servers._known = frozenset({("127.0.0.1", replica.port)})  # type: ignore[attr-defined]
            await lane._keep_only(())
        [outcome] = await log.events.append([batch(topic, events(1))])
        assert outcome == Refused(Refusal.UNAVAILABLE)
        # That was a doubt: they are asked again.
        assert (await append_until_kept(log, topic))[1] == 0

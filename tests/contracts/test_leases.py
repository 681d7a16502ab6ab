"""What all Leases do, in memory as on Redis."""

from __future__ import annotations

import secrets

import pytest

from support.log_harness import Log, at, eventually, new_topic

pytestmark = pytest.mark.anyio
LONG = 600_000


async def test_one_token_holds_a_lease_at_a_time(log: Log) -> None:
    place = at(new_topic())
    assert await log.leases.acquire(place, "a:1", LONG)
    assert not await log.leases.acquire(place, "b:1", LONG)
    assert not await log.leases.renew(place, "b:1", LONG)
    assert await log.leases.renew(place, "a:1", LONG)
    assert [one.owner for one in await log.events.stats([place])] == ["a"]


async def test_asking_again_with_the_same_token_is_safe(log: Log) -> None:
    place = at(new_topic())
    assert await log.leases.acquire(place, "a:1", LONG)
    assert await log.leases.acquire(place, "a:1", LONG)


async def test_a_lease_given_up_is_free_at_once_and_only_its_holder_can_give_it_up(log: Log) -> None:
    place = at(new_topic())
    await log.leases.acquire(place, "a:1", LONG)
    await log.leases.release(place, "b:1")
    assert not await log.leases.acquire(place, "b:1", LONG)
    await log.leases.release(place, "a:1")
    await log.leases.release(place, "a:1")
    assert not await log.leases.renew(place, "a:1", LONG)
    assert await log.leases.acquire(place, "b:1", LONG)


async def test_a_lease_ends_by_itself_and_is_not_renewed_afterwards(log: Log) -> None:
    place, other = at(new_topic()), f"b:{secrets.token_hex(4)}"
    assert await log.leases.acquire(place, "a:1", 50)
    await eventually(lambda: log.leases.acquire(place, other, LONG), bool)
    assert not await log.leases.renew(place, "a:1", LONG)
    assert await log.leases.renew(place, other, LONG)


async def test_a_renewed_lease_lives_longer(log: Log) -> None:
    place, witness = at(new_topic()), at(new_topic())
    assert await log.leases.acquire(place, "a:1", 200)
    assert await log.leases.renew(place, "a:1", LONG)
    assert await log.leases.acquire(witness, "a:1", 200)
    await eventually(lambda: log.leases.acquire(witness, "b:1", LONG), bool)  # 200 ms have passed
    assert await log.leases.renew(place, "a:1", LONG)


async def test_leases_of_different_partitions_are_independent(log: Log) -> None:
    topic = new_topic(2)
    assert await log.leases.acquire(at(topic, 0), "a:1", LONG)
    assert await log.leases.acquire(at(topic, 1), "b:1", LONG)

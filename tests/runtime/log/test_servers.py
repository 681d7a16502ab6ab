"""Finding the primary: asked when there is a doubt, now and then besides, by one at a time, and never in a hurry."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from redis.asyncio.sentinel import MasterNotFoundError

from openstream_runtime.domain.errors import Unavailable
from openstream_runtime.log import servers
from openstream_runtime.log.cluster import ClusterServers
from openstream_runtime.log.redis_log import servers_of
from openstream_runtime.log.servers import Address, FoundServers, SentinelServers
from openstream_runtime.redis_url import read_url

pytestmark = pytest.mark.anyio
A, B = ("a", 1), ("b", 2)


class Found(FoundServers):
    """Finds what a test says."""

    def __init__(self, *answers: Address) -> None:
        super().__init__()
        self.answers: list[Address] = list(answers)
        self.asked = 0
        self.answering = anyio.Event()
        self.answering.set()

    async def _ask(self) -> frozenset[Address]:
        self.asked += 1
        await anyio.sleep(0.01)
        await self.answering.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise MasterNotFoundError("nobody is the master")
        return frozenset({answer})

    def _place(self, key: bytes) -> Address:
        return next(iter(self._known))


async def test_it_is_asked_once_by_all_who_come_together_and_then_believed() -> None:
    found = Found(A)
    async with anyio.create_task_group() as many:
        for _ in range(20):
            many.start_soon(found.primary)
    assert await found.primary() == A
    assert found.asked == 1


async def test_a_doubt_asks_again_and_a_change_is_told() -> None:
    found, heard = Found(A, A, B), list[Collection[Address]]()

    async def listen(addresses: Collection[Address]) -> None:
        heard.append(addresses)

    found.on_change(listen)
    assert await found.primary() == A
    found.doubt()
    assert await found.primary() == A
    found.doubt()
    assert await found.primary() == B
    assert heard == [{A}, {B}]


async def test_while_there_is_none_nothing_is_sent_anywhere_and_nobody_asks_like_mad(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers, "FAILED", 60.0)
    found = Found(A, None, B)
    assert await found.primary() == A
    found.doubt()
    for _ in range(5):
        with pytest.raises(Unavailable):
            await found.primary()
    assert found.asked == 2
    monkeypatch.setattr(servers, "FAILED", -1.0)
    assert await found.primary() == B


async def test_who_looks_now_and_then_sees_a_change_nobody_has_stumbled_over(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found(A, B)
    assert await found.primary(look=True) == A
    monkeypatch.setattr(servers, "FRESH", -1.0)
    assert await found.primary() == A
    assert await found.primary(look=True) == B


async def test_without_a_doubt_sentinels_that_are_away_keep_nobody_from_a_primary_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers, "FRESH", -1.0)
    found = Found(A, None)
    assert await found.primary(look=True) == A
    assert await found.primary(look=True) == A
    assert found.asked == 2


async def test_while_one_looks_without_a_doubt_nobody_else_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "FRESH", -1.0)
    found = Found(A)
    assert await found.primary() == A
    found.answering = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(found.primary, look=True))
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(15):
            assert await found.primary(look=True) == A
        found.answering.set()
    assert found.asked == 2


def test_tls_and_logins_go_where_they_belong() -> None:
    sentinels = servers_of(read_url("rediss+sentinel://u:p@a:1/main?sentinel_password=s&ssl_check_hostname=false"))
    assert isinstance(sentinels, SentinelServers)
    told = sentinels._sentinel.sentinel_kwargs
    assert (told["ssl"], told["password"], told.get("username"), "ssl_check_hostname" in told) == (
        True,
        "s",
        None,
        True,
    )
    cluster = servers_of(read_url("redis+cluster://u:p@a:1"))
    assert isinstance(cluster, ClusterServers)
    assert (cluster._options["username"], cluster._options["password"], "ssl" in cluster._options) == ("u", "p", False)
    assert not servers_of(read_url("redis://h")).moving

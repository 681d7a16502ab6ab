"""The budget for bodies: bounded over all requests, given back whatever happens to one."""

from __future__ import annotations

import pytest

from openstream_http.budget import Budget
from openstream_runtime.domain.errors import Overloaded
from support.edge import EdgeClient

pytestmark = pytest.mark.anyio


def test_what_is_held_is_given_back_whatever_it_has_become() -> None:
    budget = Budget(100)
    with budget.hold(10) as first, budget.hold() as second:
        first.grow(20)
        second.grow(70)
        assert budget.used == 100
        with pytest.raises(Overloaded) as refused:
            second.grow(1)
        assert refused.value.facts["reason"] == "bodies"
        assert refused.value.facts["retry_after_ms"] > 0
        assert budget.used == 100
    assert budget.used == 0


def test_a_share_that_does_not_fit_takes_nothing() -> None:
    budget = Budget(100)
    with pytest.raises(Overloaded), budget.hold(101):
        pass
    assert budget.used == 0


async def test_a_body_beyond_the_budget_is_a_429_that_keeps_nothing_and_the_budget_recovers(client: EdgeClient) -> None:
    budget: Budget = client.app.extensions["openstream"].bodies
    body = {"events": [{"event_type": "a", "payload": "x" * 2000}]}
    budget.used = budget.limit - 1000
    answer = await client.post("/v1/topics/t/events", body)
    assert answer.status == 429
    assert answer.json()["reason"] == "bodies"
    assert answer.json()["outcome"] == "not_stored"
    assert int(answer.headers["Retry-After"]) >= 1
    assert budget.used == budget.limit - 1000
    budget.used = 0
    assert (await client.post("/v1/topics/t/events", body)).status == 200
    assert budget.used == 0


async def test_lines_are_refused_before_the_first_is_read_when_there_is_no_room(client: EdgeClient) -> None:
    budget: Budget = client.app.extensions["openstream"].bodies
    budget.used = budget.limit
    answer = await client.post("/v1/topics/t/events", b'{"event_type":"a","payload":1}\n', media="application/x-ndjson")
    assert answer.status == 429
    assert budget.used == budget.limit

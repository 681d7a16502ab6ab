"""Dead letters on the command line: many pages, many requests, a narrow terminal."""

from __future__ import annotations

import json
from collections import deque

import httpx2
import pytest

from openstream_client import OpenStream, Unavailable
from openstream_ops.asking import Stop
from openstream_ops.commands.dlq import COLUMNS, MAY_BREAK
from openstream_ops.dead_letters import IDS, Redrive
from openstream_ops.output import Output
from support.fake_service import FakeService, problem

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def answer(redriven: int, next_id: str | None = None, unknown: tuple[str, ...] = ()) -> httpx2.Response:
    body = {"dead_letter_topic": "o.dlq.g", "redriven": redriven, "already": 1, "unknown": unknown, "next_id": next_id}
    return httpx2.Response(200, json=body)


def bodies(service: FakeService) -> list[dict[str, object]]:
    return [json.loads(request.content) for request in service.requests]


async def test_all_goes_on_from_where_each_request_ended_and_says_how_far_it_is() -> None:
    service, told = FakeService(), list[int]()
    service.faults["redrive"] = deque([answer(500, "p0@5-0"), answer(0, "p1@0-0"), answer(7)])
    done = Redrive("o", "g", "group")
    async with OpenStream("http://a", http=service.transport) as client:
        await done.run(client, Stop(), None, lambda: told.append(done.redriven))
    assert (told, done.already, done.interrupted) == ([500, 500, 507], 3, False)
    assert [body.get("from_id") for body in bodies(service)] == [None, "p0@5-0", "p1@0-0"]
    assert all(body["all"] and "ids" not in body for body in bodies(service))


async def test_an_interruption_ends_after_the_request_that_is_on_its_way() -> None:
    service, stop = FakeService(), Stop()
    service.faults["redrive"] = deque([answer(500, "p0@5-0"), answer(7)])
    done = Redrive("o", "g", "topic")
    async with OpenStream("http://a", http=service.transport) as client:
        await done.run(client, stop, None, stop.asked.set)
    assert (done.redriven, done.interrupted, len(service.requests)) == (500, True, 1)


async def test_letters_by_name_travel_in_requests_a_node_takes() -> None:
    service = FakeService()
    service.faults["redrive"] = deque([answer(IDS), answer(1, unknown=("p0@9-0",))])
    done = Redrive("o", "g", "group")
    async with OpenStream("http://a", http=service.transport) as client:
        await done.run(client, Stop(), [f"p0@{number}-0" for number in range(IDS + 2)], lambda: None)
    assert (done.redriven, done.unknown) == (IDS + 1, ["p0@9-0"])
    assert [len(body["ids"]) for body in bodies(service)] == [IDS, 2]  # type: ignore[arg-type]


async def test_a_failure_in_between_is_not_taken_for_the_end() -> None:
    service = FakeService()
    service.faults["redrive"] = deque([answer(500, "p0@5-0"), problem(503, "unavailable")])
    async with OpenStream("http://a", http=service.transport) as client:
        with pytest.raises(Unavailable):
            await Redrive("o", "g", "group").run(client, Stop(), None, lambda: None)


def test_the_id_of_a_letter_stands_whole_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    output = Output()
    output.is_table = True
    row = {
        "letter_id": "p12@1795561503891-17", "ago": "12 min", "reason": "timed_out", "deliveries": 5,
        "event_type": "order.created", "partition_key": "user-12", "redriven": False, "shown": '{"n":1,"amount":12.5}',
    }  # fmt: skip
    output.rows([row], COLUMNS, may_break=MAY_BREAK)
    assert "p12@1795561503891-17" in capsys.readouterr().out

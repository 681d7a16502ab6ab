"""`openstream tail`: everything that comes, once, and nothing from before."""

from __future__ import annotations

from collections import deque

import anyio
import pytest

from openstream_client import NotFound, OpenStream
from openstream_client.models import Kept
from openstream_ops import tailing
from openstream_ops.asking import Stop
from openstream_ops.output import Output
from openstream_ops.tailing import Tail
from support.fake_service import FakeService, problem

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(tailing, "POLL_S", 0.01)
    return str(request.param)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    numbers: list[int] = []

    def take(_topic: str, event: Kept, _output: Output) -> bytes:
        numbers.append(event.payload)
        return b""

    monkeypatch.setattr(tailing, "line_of", take)
    return numbers


async def test_it_begins_with_now_and_gives_bursts_whole(printed: list[int]) -> None:
    service = FakeService()
    service.put("orders", *range(5))
    async with OpenStream("http://a", http=service.transport) as client, anyio.create_task_group() as tasks:
        tail = Tail(client, "orders", key=None, event_type=None)

        async def run() -> None:
            await tail.run(Stop(), Output(True), from_ms=None, limit=3_005)
            tasks.cancel_scope.cancel()

        tasks.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        assert service.paths("/summary")
        service.put("orders", *range(100, 103))
        service.put("orders", *range(1_000, 4_002), partition=1)  # several pages
        await anyio.sleep(20)
    assert sorted(printed) == [100, 101, 102, *range(1_000, 4_002)]


async def test_it_goes_on_when_the_node_was_away(printed: list[int]) -> None:
    service = FakeService()
    service.put("orders", *range(3))
    service.faults["summary"] = deque([problem(503, "unavailable", retry_after_ms=1)])
    async with OpenStream("http://a", http=service.transport) as client:
        with anyio.fail_after(20):
            await Tail(client, "orders", key=None, event_type=None).run(Stop(), Output(True), from_ms=0, limit=3)
    assert printed == [0, 1, 2]


async def test_a_topic_that_is_not_there_is_an_error_and_not_silence() -> None:
    async with OpenStream("http://a", http=FakeService().transport) as client:
        with pytest.raises(NotFound):
            await Tail(client, "nothing", key=None, event_type=None).run(Stop(), Output(True), from_ms=0, limit=None)

"""Messages at the edges of the standard, on a real port: HTTP/2, expectations, halves, pipelines, false addresses."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from h2.connection import H2Connection

from openstream_http import patience
from support.fake_gateway import FakeGateway
from support.wire import EVENTS, ONE, chunk, exchange, request, until, wire

pytestmark = pytest.mark.anyio

LAST = request("GET", "/livez", Connection="close")


async def test_http2_by_prior_knowledge_is_answered_in_http1_and_ends(serve: Any, gateway: FakeGateway) -> None:
    """Also when it opens a thousand streams at once and takes them back: none is ever begun."""
    async with serve() as running:
        h2 = H2Connection()
        h2.initiate_connection()
        head = [(":method", "POST"), (":path", EVENTS), (":scheme", "http"), (":authority", "localhost")]
        head += [("authorization", f"Bearer {running.client.token()}"), ("content-type", "application/json")]
        for _ in range(500):
            stream = h2.get_next_available_stream_id()
            h2.send_headers(stream, head)
            h2.reset_stream(stream)
        answers = await exchange(running.port, h2.data_to_send())
        assert [answer.status for answer in answers] == [505]
        assert answers[0].json()["type"] == "/problems/http-version"
        await until(lambda: running.server.describe()["connections"] == 0)
    assert gateway.held == {}


@pytest.mark.parametrize("settings", ["", "AAMAAABkAAQAoAAAAAIAAAAA"])
async def test_an_upgrade_to_http2_is_refused_in_http1_and_nothing_is_switched(serve: Any, settings: str) -> None:
    async with serve() as running, wire(running.port) as line:
        await line.send(
            request("GET", "/livez", Upgrade="h2c", Connection="Upgrade, HTTP2-Settings", HTTP2_Settings=settings)
        )
        with anyio.fail_after(5):
            first = await line.stream.receive()
    assert first.startswith(b"HTTP/1.1 501"), first


async def test_who_expects_to_be_asked_for_the_body_is_asked(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running, wire(running.port) as line:
        head = request("POST", EVENTS, ONE, token=running.client.token(), Expect="100-continue")[: -len(ONE)]
        await line.send(head)
        with anyio.fail_after(5):
            assert (await line.stream.receive()).startswith(b"HTTP/1.1 100")
            await line.send(ONE)
            assert (await line.answer()).status == 200
    assert len(gateway.events("orders")) == 1


async def test_an_expectation_that_is_none_of_ours_is_passed_over(serve: Any) -> None:
    async with serve() as running:
        message = request("POST", EVENTS, ONE, token=running.client.token(), Expect="the-unexpected")
        assert [answer.status for answer in await exchange(running.port, message + LAST)] == [200, 200]


@pytest.mark.parametrize("how", ["half a head", "half a body", "half a chunk", "no last chunk"])
async def test_a_request_that_ends_in_its_middle_is_none(serve: Any, gateway: FakeGateway, how: str) -> None:
    async with serve() as running:
        token = running.client.token()
        chunked = request("POST", EVENTS, token=token, Content_Type="application/json", Transfer_Encoding="chunked")
        message = {
            "half a head": request("POST", EVENTS, ONE, token=token)[: -len(ONE) - 2],
            "half a body": request("POST", EVENTS, ONE, token=token)[:-1],
            "half a chunk": chunked + chunk(ONE)[:-3],
            "no last chunk": chunked + chunk(ONE),
        }[how]
        answers = await exchange(running.port, message, end=True)
        assert all(answer.status >= 400 for answer in answers), answers
        await until(lambda: running.server.describe()["connections"] == 0)
        await until(lambda: running.server.describe()["in_flight"] == 0)
    assert gateway.held == {}


async def test_a_whole_request_behind_which_its_client_goes_silent_is_served_or_not_and_never_twice(
    serve: Any, gateway: FakeGateway
) -> None:
    async with serve() as running:
        for _ in range(20):
            await exchange(running.port, request("POST", EVENTS, ONE, token=running.client.token()), end=True)
        await until(lambda: running.server.describe()["in_flight"] == 0)
    assert len(gateway.events("orders") if gateway.held else []) <= 20


async def test_a_long_pipeline_is_answered_in_order_one_at_a_time(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running, wire(running.port) as line:
        token = running.client.token()
        one = request("POST", EVENTS, ONE, token=token) + request("GET", "/livez") + request("GET", "/nowhere")
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, running.server.describe()["in_flight"])
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as watching:
            watching.start_soon(watch)
            await line.send(one * 50)
            with anyio.fail_after(15):
                statuses = [(await line.answer()).status for _ in range(150)]
            watching.cancel_scope.cancel()
    assert statuses == [200, 200, 404] * 50
    assert most == 1, "a pipeline is no way to be served more at once than others"
    assert len(gateway.events("orders")) == 50


async def test_garbage_behind_a_request_is_told_after_its_answer(serve: Any) -> None:
    async with serve() as running:
        answers = await exchange(running.port, request("GET", "/livez") + b"\x00garbage\r\n\r\n" + LAST)
    assert [answer.status for answer in answers] == [200, 400]


async def test_an_answer_without_a_body_has_none_and_the_next_one_is_whole(serve: Any) -> None:
    async with serve() as running, wire(running.port) as line:
        await line.send(request("HEAD", "/openapi.json") + LAST)
        data = b""
        with anyio.fail_after(5):
            data = await line.rest()
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert rest.startswith(b"HTTP/1.1 200"), "the body of the first is not there"
    assert rest.endswith(b"ok\n")


async def test_who_guesses_secrets_is_slowed_down_from_wherever_he_comes_and_whatever_he_claims(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All callers together: addresses cost an attacker nothing, neither real ones nor those in headers."""
    monkeypatch.setattr(patience, "PER_SECOND", 1e-6)
    claims = ["X-Forwarded-For", "X-Real-IP", "CF-Connecting-IP", "True-Client-IP", "Forwarded"]
    statuses = []
    async with serve() as running:
        for number in range(3 * patience.BURST):
            guess = b'{"sub":"me","role":"admin","admin_secret":"%d"}' % number
            address = f"10.0.0.{number}"
            claim = {claims[number % 5].replace("-", "_"): f"for={address}" if number % 5 == 4 else address}
            message = request("POST", "/v1/auth/token", guess, Connection="close", **claim)
            answers = await exchange(running.port, message, local=f"127.0.0.{number + 2}")
            statuses += [answer.status for answer in answers]
    assert statuses == [403] * patience.BURST + [429] * (2 * patience.BURST)


async def test_guesses_that_come_all_at_once_are_counted_all_the_same(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PER_SECOND", 1e-6)
    statuses: list[int] = []

    async def guess(number: int) -> None:
        body = b'{"sub":"me","role":"admin","admin_secret":"%d"}' % number
        answers = await exchange(running.port, request("POST", "/v1/auth/token", body, Connection="close"))
        statuses.extend(answer.status for answer in answers)

    async with serve() as running, anyio.create_task_group() as guesses:
        for number in range(40):
            guesses.start_soon(guess, number)
    assert (statuses.count(403), statuses.count(429)) == (patience.BURST, 40 - patience.BURST)

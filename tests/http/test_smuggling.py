"""Messages about whose end two servers may disagree, each with a request hidden in it, on a real port.

Whatever becomes of the message, the hidden request is never served: nothing of it is ever appended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.fake_gateway import FakeGateway
from support.wire import EVENTS, ONE, chunk, exchange, request

pytestmark = pytest.mark.anyio

END = b"0\r\n\r\n"
FIVE = b"Content-Length: 5"
CHUNKED = b"Transfer-Encoding: chunked"
LAST = request("GET", "/livez", Connection="close")
LENGTH = b"Content-Length: %d" % len(ONE)
HIDDEN = "/v1/topics/hidden/events"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def raw(
    *lines: bytes, line: bytes = b"POST " + EVENTS.encode() + b" HTTP/1.1", token: str, end: bytes = b"\r\n"
) -> bytes:
    """A request made by hand up to the end of its headers."""
    good = (b"Host: localhost", b"Content-Type: application/json", f"Authorization: Bearer {token}".encode())
    return end.join((line, *good, *lines, b"", b""))


#: From a token and a hidden request to a message in which it hides.
Maker = Callable[[str, bytes], bytes]
DISAGREEING: dict[str, Maker] = {
    "both lengths": lambda t, h: raw(b"Content-Length: %d" % len(END + h), CHUNKED, token=t) + END + h,
    "both, the other way": lambda t, h: raw(CHUNKED, FIVE, token=t) + END + h,
    "two lengths": lambda t, h: raw(b"Content-Length: 0", b"Content-Length: %d" % len(h), token=t) + h,
    "two lengths in one": lambda t, h: raw(b"Content-Length: 0, %d" % len(h), token=t) + h,
    "a length with a sign": lambda t, h: raw(b"Content-Length: +%d" % len(h), token=t) + h,
    "a negative length": lambda t, h: raw(b"Content-Length: -1", token=t) + h,
    "a length in hex": lambda t, h: raw(b"Content-Length: 0x%x" % len(h), token=t) + h,
    "a length in groups": lambda t, h: raw(b"Content-Length: 1_0", token=t) + h,
    "a length with a fraction": lambda t, h: raw(b"Content-Length: 0.0", token=t) + h,
    "no length's value": lambda t, h: raw(b"Content-Length:", token=t) + h,
    "a length on two lines": lambda t, h: raw(b"Content-Length: 0", b" %d" % len(h), token=t) + h,
    "a length beyond all": lambda t, h: raw(b"Content-Length: 1" + b"0" * 30, token=t) + h,
    "chunked twice": lambda t, h: raw(CHUNKED, CHUNKED, token=t) + END + h,
    "chunked twice in one": lambda t, h: raw(b"Transfer-Encoding: chunked, chunked", token=t) + END + h,
    "chunked and identity": lambda t, h: raw(b"Transfer-Encoding: chunked, identity", token=t) + END + h,
    "identity": lambda t, h: raw(b"Transfer-Encoding: identity", b"Content-Length: %d" % len(h), token=t) + h,
    "gzip inside chunked": lambda t, h: raw(b"Transfer-Encoding: gzip, chunked", token=t) + END + h,
    "nearly chunked": lambda t, h: raw(b"Transfer-Encoding: xchunked", b"Content-Length: 0", token=t) + END + h,
    "chunked with a parameter": lambda t, h: raw(b"Transfer-Encoding: chunked;q=1", token=t) + END + h,
    "chunked with a tab": lambda t, h: raw(b"Transfer-Encoding: \x0bchunked", token=t) + END + h,
    "chunked with a NUL": lambda t, h: raw(b"Transfer-Encoding: chunked\x00", token=t) + END + h,
    "chunked on two lines": lambda t, h: raw(b"Transfer-Encoding:", b" chunked", FIVE, token=t) + END + h,
    "a space before the colon": lambda t, h: raw(b"Transfer-Encoding : chunked", FIVE, token=t) + END + h,
    "a tab before the colon": lambda t, h: raw(b"Content-Length\t: %d" % len(h), token=t) + h,
    "a NUL in the name": lambda t, h: raw(b"Transfer-\x00Encoding: chunked", FIVE, token=t) + END + h,
    "a CR in a value": lambda t, h: raw(b"X: a\rTransfer-Encoding: chunked", FIVE, token=t) + END + h,
    "a line without a colon": lambda t, h: raw(b"Transfer-Encoding", FIVE, token=t) + END + h,
    "an empty name": lambda t, h: raw(b": chunked", FIVE, token=t) + END + h,
    "a chunk's size with a sign": lambda t, h: raw(CHUNKED, token=t) + b"+0\r\n\r\n" + h,
    "a negative chunk": lambda t, h: raw(CHUNKED, token=t) + b"-1\r\n\r\n" + h,
    "a chunk's size in hex": lambda t, h: raw(CHUNKED, token=t) + b"0x0\r\n\r\n" + h,
    "a chunk's size in groups": lambda t, h: raw(CHUNKED, token=t) + b"0_0\r\n\r\n" + h,
    "a space before a chunk's size": lambda t, h: raw(CHUNKED, token=t) + b" 0\r\n\r\n" + h,
    "no chunk's size": lambda t, h: raw(CHUNKED, token=t) + b"\r\n\r\n" + h,
    "a chunk's size beyond all": lambda t, h: raw(CHUNKED, token=t) + b"f" * 30 + b"\r\n" + h,
    "a longer chunk": lambda t, h: raw(CHUNKED, token=t) + b"1\r\n{}\r\n" + END + h,
    "a chunk that ends badly": lambda t, h: raw(CHUNKED, token=t) + b"2\r\n{}XX" + END + h,
    "a trailer that is no header": lambda t, h: raw(CHUNKED, token=t) + b"0\r\nno colon\r\n\r\n" + h,
}  # fmt: skip


async def test_a_message_of_doubtful_length_is_refused_and_what_hides_in_it_is_not_served(
    serve: Any, gateway: FakeGateway
) -> None:
    async with serve() as running:
        token = running.client.token()
        hidden = request("POST", HIDDEN, ONE, token=token)
        for how, make in DISAGREEING.items():
            answers = await exchange(running.port, make(token, hidden) + LAST)
            assert len(answers) == 1, (how, "nothing after it is trusted", answers)
            assert answers[0].status in {400, 501}, (how, answers)
            assert gateway.held == {}, (how, "neither the message nor what hid in it was served")


def posted(body: bytes, *lines: bytes, token: str) -> bytes:
    return raw(*lines, token=token) + body


#: Unusual, and with one meaning only: served once, and the hidden request is what it says it is, a part of the body.
CLEAR: dict[str, Callable[[str], bytes]] = {
    "chunks": lambda t: posted(chunk(ONE[:5]) + chunk(ONE[5:]) + END, CHUNKED, token=t),
    "chunked in capitals": lambda t: posted(chunk(ONE) + END, b"TRANSFER-ENCODING: CHUNKED", token=t),
    "zeros before a size": lambda t: posted(b"000%x\r\n%b\r\n" % (len(ONE), ONE) + END, CHUNKED, token=t),
    "extensions": lambda t: posted(b"%x;a=b;c=\"d\"\r\n%b\r\n" % (len(ONE), ONE) + END, CHUNKED, token=t),
    "trailers": lambda t: posted(chunk(ONE) + b"0\r\nContent-Length: 5\r\nX-Evil: y\r\n\r\n", CHUNKED, token=t),
    "a length twice": lambda t: posted(ONE, LENGTH, LENGTH, token=t),
    "a header on two lines": lambda t: posted(ONE, b"X: a", b" Content-Length: 0", LENGTH, token=t),
    "lines that end in LF alone": lambda t: raw(LENGTH, token=t, end=b"\n") + ONE,
}  # fmt: skip


async def test_an_unusual_message_of_one_meaning_is_served_once_and_the_next_after_it(
    serve: Any, gateway: FakeGateway
) -> None:
    async with serve() as running:
        for number, (how, make) in enumerate(CLEAR.items(), 1):
            answers = await exchange(running.port, make(running.client.token()) + LAST)
            assert [answer.status for answer in answers] == [200, 200], (how, answers)
            assert len(gateway.events("orders")) == number, how


async def test_a_body_that_no_route_asked_for_is_never_the_next_request(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running:
        token = running.client.token()
        hidden = request("POST", HIDDEN, ONE, token=token)
        for method in ("GET", "DELETE", "OPTIONS", "HEAD"):
            for message in (
                request(method, "/livez", token=token, Transfer_Encoding="chunked") + chunk(hidden) + END,
                request(method, "/livez", hidden, token=token),
            ):
                answers = await exchange(running.port, message, LAST, end=method == "HEAD")
                assert answers[0].status in {200, 405}, method
                assert gateway.held == {}, method


async def test_the_body_of_a_refused_request_is_never_the_next_request(serve: Any, gateway: FakeGateway) -> None:
    """A refusal before the body was read: the rest is read into nothing or the connection ends."""
    async with serve(max_body_bytes=1 << 16) as running:
        token, narrowed = running.client.token(), running.client.token(topics=["elsewhere"])
        hidden = request("POST", HIDDEN, ONE, token=token)
        for status, message in {
            401: request("POST", EVENTS, hidden, token="no"),
            403: request("POST", EVENTS, hidden, token=narrowed),
            404: request("POST", "/v1/nowhere", hidden, token=token),
            413: request("POST", EVENTS, hidden * ((1 << 16) // len(hidden) + 1), token=token),
            415: request("POST", EVENTS, hidden, token=token, Content_Type="text/plain"),
            422: request("POST", "/v1/topics/no%7Bname/events", hidden, token=token),
        }.items():
            answers = await exchange(running.port, message, LAST)
            assert answers[0].status == status
            assert all(answer.body == b"ok\n" for answer in answers[1:]), status
            assert gateway.held == {}, status


LINES = [
    b"GET http://localhost/livez HTTP/1.1",
    b"GET https://elsewhere/livez HTTP/1.1",
    b"GET localhost:80 HTTP/1.1",
    b"CONNECT elsewhere:443 HTTP/1.1",
    b"GET * HTTP/1.1",
    b"GET livez HTTP/1.1",
    b"GET \\livez HTTP/1.1",
    b"GET /livez HTTP/1.2x",
    b"GET /livez HTTP/2.0",
    b"GET /livez HTTP/9.9",
    b"GET /livez http/1.1",
    b"GET  /livez HTTP/1.1",
    b"GET /livez  HTTP/1.1",
    b"GET /li vez HTTP/1.1",
    b"GET /livez",
    b"GET",
    b"G\x00ET /livez HTTP/1.1",
    b"GET /livez\x00 HTTP/1.1",
    b"GET /livez\x7f HTTP/1.1",
    b"GET /liv\xe9z HTTP/1.1",
    b"GET\t/livez\tHTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
    b"*1\r\n$4\r\nPING",  # somebody takes us for Redis
]


async def test_a_request_line_that_is_none_of_ours_is_refused_and_the_connection_ends(serve: Any) -> None:
    async with serve() as running:
        for line in LINES:
            answers = await exchange(running.port, line + b"\r\nHost: localhost\r\n\r\n" + LAST)
            assert len(answers) == 1, (line, answers)
            assert answers[0].status in {400, 404, 405, 414, 501, 505}, (line, answers)
            assert b"ok\n" not in answers[0].body, line


async def test_a_host_that_is_none_harms_nobody(serve: Any) -> None:
    async with serve() as running:
        head = f"GET /asyncapi.json HTTP/1.1\r\nAuthorization: Bearer {running.client.token()}\r\n".encode()
        for host in (b"", b"a b", b"a/b", b"user@localhost", b"[::1", b"localhost:port", b"\xe9", b"a\x7f"):
            answers = await exchange(running.port, head + b"Host: " + host + b"\r\nConnection: close\r\n\r\n")
            assert [answer.status for answer in answers] in ([200], [400]), (host, answers)


async def test_two_hosts_or_none_are_refused(serve: Any) -> None:
    async with serve() as running:
        for lines in (b"", b"Host: a\r\nHost: b\r\n", b"Host: a\r\nHost: a\r\n"):
            answers = await exchange(running.port, b"GET /livez HTTP/1.1\r\n" + lines + b"\r\n")
            assert [answer.status for answer in answers] == [400]


HEADERS = [
    "Accept", "Accept-Encoding", "Authorization", "Content-Type", "Content-Encoding", "Cookie", "Expect",
    "If-None-Match",
    "If-Modified-Since", "Origin", "Access-Control-Request-Method", "Range", "traceparent", "tracestate", "Producer-Id",
    "Producer-Epoch", "Producer-Seq", "ce-id", "ce-source", "ce-specversion", "ce-type", "ce-x", "X-Forwarded-For",
    "Forwarded", "Referer", "User-Agent", "Via", "TE", "Trailer", "Connection", "Keep-Alive", "Date",
]  # fmt: skip
VALUES = [b"\xe9", b"\xff\xfe", b"", b'"', b"%00", b"{}" * 500, b";;;,,,==="]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_header_whatever_its_bytes_is_our_fault(serve: Any, gateway: FakeGateway, method: str) -> None:
    async with serve() as running:
        await running.client.put("/v1/topics/orders")
        token = running.client.token()
        for name in HEADERS:
            for value in VALUES:
                body = ONE if method == "POST" else None
                head = request(method, EVENTS, token=token)[:-2].replace(
                    b"Authorization: Bearer " + token.encode() + b"\r\n" if name == "Authorization" else b"\0", b""
                )
                if body is not None and name != "Content-Type":
                    head += b"Content-Type: application/json\r\n"
                if body is not None:
                    head += b"Content-Length: %d\r\n" % len(body)
                closing = b"" if name == "Connection" else b"Connection: close\r\n"
                message = head + name.encode() + b": " + value + b"\r\n" + closing + b"\r\n" + (body or b"")
                answers = await exchange(running.port, message, end=name == "Connection")
                assert len(answers) <= 1, (name, value, answers)
                assert all(answer.status < 500 for answer in answers), (name, value, answers)


async def test_control_characters_are_in_no_header(serve: Any, gateway: FakeGateway) -> None:
    async with serve() as running:
        head = request("POST", EVENTS, token=running.client.token(), Content_Length="0")[:-2]
        for byte in (0, 1, 8, 10, 11, 12, 13, 27, 127):
            answers = await exchange(running.port, head + b"X: a" + bytes([byte]) + b"b\r\nConnection: close\r\n\r\n")
            assert [answer.status for answer in answers] in ([400], [415], [422]), (byte, answers)
            assert gateway.held == {}, byte

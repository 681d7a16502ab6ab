"""The port: who stands in the door when it closes."""

from __future__ import annotations

import errno
import socket

import anyio
import pytest

from openstream_http.port import let_nobody_in, listen

pytestmark = pytest.mark.anyio


async def test_who_is_in_the_queue_is_served_and_who_comes_later_is_refused_once_the_port_is_closed() -> None:
    with await listen("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as early, socket.socket() as late:
            early.sendall(b"request")
            let_nobody_in(listener)
            late.setblocking(False)
            with pytest.raises(BlockingIOError):
                late.connect(address)
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(100) == b"request"
                accepted.sendall(b"answer")
                assert early.recv(100) == b"answer"
            with pytest.raises(BlockingIOError):  # the queue is empty: the late one did not come in
                listener.accept()
            listener.close()
            with anyio.fail_after(20):
                await anyio.wait_writable(late)
            assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED

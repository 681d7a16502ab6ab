"""The port: taking it, and letting nobody in any more without turning away who stands in the door."""

from __future__ import annotations

import ctypes
import errno
import resource
import socket
import struct
import sys

import anyio
import structlog

#: Connections the kernel holds for us before they are accepted.
BACKLOG = 1_024

#: A packet filter in the kernel's classic form (code, jump if true, jump if false, operand): of what comes to the
#: listening socket, drop what asks for a new connection (SYN without ACK in byte 13 of the TCP header).
_NO_NEW_ONES = (
    (0x30, 0, 0, 13),  # load the flags
    (0x54, 0, 0, 0x12),  # of which SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # then keep no byte of it
    (0x06, 0, 0, 0xFFFFFFFF),  # else all
)
_SO_ATTACH_FILTER = 26

log = structlog.get_logger(__name__)


#: Files a node needs beside the connections of its clients: Redis, PostgreSQL, spools, logs.
_OTHER_FILES = 256


class CannotListen(OSError):
    """The address cannot be listened on."""


async def listen(host: str, port: int) -> socket.socket:
    """A socket that listens already: whoever connects from now on waits in the kernel, and is not refused.

    CannotListen says why not, in words for whoever chose the address.
    """
    try:
        family, kind, protocol, _, address = (
            await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        )[0]
    except socket.gaierror as error:
        raise CannotListen(f"OPENSTREAM_HOST: {host!r} is no address: {error.strerror}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        why = "it is in use already" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
        raise CannotListen(f"cannot listen on {host} port {port}: {why}") from None
    return listener


def let_nobody_in(listener: socket.socket) -> None:
    """From now on the kernel answers no new connection; those it has made already can still be accepted.

    Closing at once would reset them, and some have sent their request. Who is not answered asks again a second later
    and is refused then, which tells that nothing was taken. Off Linux the queue is made as short as it gets.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_NEW_ONES))
        listener.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_NO_NEW_ONES), ctypes.addressof(program))
        )
    else:
        listener.listen(0)


def affordable(connections: int) -> int:
    """So many connections, or what the limit on open files leaves for them; that limit is raised as far as it goes.

    Without it a crowd that only connects would take the files that Redis and PostgreSQL are reached by.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    fewer = max(1, soft - _OTHER_FILES)
    log.warning("fewer connections than asked for", connections=fewer, asked=connections, open_files=soft)
    return fewer

"""Which TCP ports are free, and which ones we pick for ourselves."""

import errno
import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

# Below the range that Linux (32768 up) and macOS (49152 up) give to outgoing connections. A port from that range can
# be taken by any client while its server is down for a moment, even by our own client's retry connecting to itself.
PICK_FROM = range(20_000, 32_000)
# The system's own chance: whoever seeds `random` for a repeatable run would have all of us find the same ports.
_chance = random.SystemRandom()


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on `port` now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the servers do: connections of an earlier run in TIME_WAIT do not occupy the port, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def pick(host: str, preferred: int | None = None) -> int:
    """`preferred` if it is free, otherwise a random free port; no process that picks gets it as long as we live."""
    if preferred is not None and is_free(host, preferred) and (preferred in _claims.ours or _claims.take(preferred)):
        return preferred
    for port in _chance.sample(PICK_FROM, k=200):
        if port not in _claims.ours and is_free(host, port) and _claims.take(port):
            return port
    raise OSError(f"no free port between {PICK_FROM.start} and {PICK_FROM.stop - 1} on {host}")


class _Claims:
    """Ports that are picked and not in use yet: a server takes seconds from there to listening.

    One file for all processes of a user, with a lock on the byte at the port's number: the kernel forgets it with us.
    """

    def __init__(self) -> None:
        self.ours: set[int] = set()
        self._file: int | None = None

    def take(self, port: int) -> bool:
        """Whether nobody else has claimed it."""
        try:
            if self._file is None:
                path = Path(tempfile.gettempdir()) / f".openstream-ports-{os.getuid()}"
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES) and self._file is not None:
                return False
            # Nowhere to tell others of it: then it is claimed in this process only.
        self.ours.add(port)
        return True


_claims = _Claims()

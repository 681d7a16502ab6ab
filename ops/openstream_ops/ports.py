"""Which TCP ports are free, and which ones we pick for ourselves."""

import random
import socket

# Below the range that Linux (32768 up) and macOS (49152 up) give to outgoing connections. A port from that range can
# be taken by any client while its server is down for a moment, even by our own client's retry connecting to itself.
PICK_FROM = range(20_000, 32_000)


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


def pick(host: str, preferred: int | None = None, avoid: frozenset[int] = frozenset()) -> int:
    """`preferred` if it is free, otherwise a random free port."""
    if preferred is not None and is_free(host, preferred):
        return preferred
    # Random, not the lowest: two launchers that start together should not both find the same port free.
    for port in random.sample(PICK_FROM, k=200):
        if port not in avoid and is_free(host, port):
            return port
    raise OSError(f"no free port between {PICK_FROM.start} and {PICK_FROM.stop - 1} on {host}")

"""The launcher's side of the guardian: starts it and tells it what to stop should the launcher die."""

import contextlib
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, cast

from openstream_ops import guardian

# Stages, in the order in which they are stopped: nodes drain into the servers, so the servers go last.
NODES = 0
SERVERS = 1


class Guard:
    """One guardian process. Closing it while it still watches something makes it stop that something."""

    def __init__(self, lock_fd: int) -> None:
        self._lines = threading.Lock()
        self._process = subprocess.Popen(  # noqa: S603
            # Isolated and without site-packages: nothing in the user's environment can break or slow it.
            [sys.executable, "-I", "-S", str(Path(guardian.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            # It shares the lock of the data directory: nobody else can start on it before the servers are down.
            pass_fds=(lock_fd,),
            # Its own session: a Ctrl-C in the terminal, or a kill of the launcher's process group, does not reach it.
            start_new_session=True,
            bufsize=0,
        )
        # Popen types it as optional; with PIPE it is there.
        self._pipe = cast("IO[bytes]", self._process.stdin)

    @property
    def pid(self) -> int:
        return self._process.pid

    def watch(self, pid: int, *, stage: int, stop_signal: signal.Signals, grace: float) -> None:
        self._tell(f"watch {pid} {stage} {int(stop_signal)} {grace}")

    def forget(self, pid: int) -> None:
        """To be called when the process has ended: from now on its pid may belong to anybody."""
        self._tell(f"forget {pid}")

    def remove_at_end(self, path: Path) -> None:
        """For an ephemeral data directory: it goes even if the launcher cannot remove it any more."""
        self._tell(f"remove {path}")

    def close(self) -> None:
        """Ends the guardian and waits for it."""
        self._pipe.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        # Two servers start at the same time from two threads; a line must arrive whole.
        # A guardian that was killed is not a reason for the launcher to fail.
        with self._lines, contextlib.suppress(BrokenPipeError):
            if not self._pipe.closed:
                self._pipe.write(f"{line}\n".encode())

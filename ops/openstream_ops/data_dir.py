"""The directory that holds everything a development setup keeps: both servers' data, their logs, the secrets, the lock.

One launcher at a time: two PostgreSQL or Valkey processes writing the same files would destroy them.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from openstream_ops.errors import DataDirBusy, OpsError, StartCancelled

# After a launcher was killed, its guardian holds the lock until the servers are down: at worst 12 s for nodes and 8 s
# for servers.
WAIT_FOR_GUARDIAN = 25.0


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/openstream/dev`, by default `~/.local/share/openstream/dev`."""
    base = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    home = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "share"
    return home / "openstream" / "dev"


class DataDir:
    """Names what lies where, and holds the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.state_file = self.path / "state.json"
        self.env_file = self.path / "env"
        self.logs = self.path / "logs"
        self._lock_file = self.path / "lock"
        self._lock_fd: int | None = None

    @property
    def lock_fd(self) -> int:
        """The open lock. A child that inherits it keeps the directory locked for as long as it lives."""
        if self._lock_fd is None:
            raise RuntimeError("the data directory is not locked")
        return self._lock_fd

    def lock(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Creates the directory where it is missing and takes it for this process, or raises DataDirBusy."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            fd = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise OpsError(
                f"cannot use the data directory {self.path}: {error.strerror}",
                "choose another one with --data-dir, or run as the user who created it",
            ) from error
        deadline = time.monotonic() + WAIT_FOR_GUARDIAN
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = _owner(fd)
                if owner is None or _is_alive(owner) or time.monotonic() > deadline:
                    os.close(fd)
                    by = f" (process {owner})" if owner else ""
                    raise DataDirBusy(
                        f"another `openstream dev` is running on {self.path}{by}",
                        "stop it first, or use --data-dir or --ephemeral for a second one",
                    ) from None
                if cancelled():
                    os.close(fd)
                    raise StartCancelled("asked to stop while waiting for the data directory") from None
                # The owner is dead, so what holds the lock is its guardian, which is stopping the servers right now.
                time.sleep(0.05)
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        self._lock_fd = fd

    def unlock(self) -> None:
        """Gives the directory back. The file stays: removing it would let two others lock two different files."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


def _owner(fd: int) -> int | None:
    content = os.pread(fd, 20, 0)
    return int(content) if content.isdigit() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

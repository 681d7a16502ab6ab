"""A server as a child process with a life that can be steered: start, stop, kill, pause, resume; same port, same data.

What Valkey and PostgreSQL have in common. Everything blocks: it serves the launcher, test fixtures and chaos scripts.
"""

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from openstream_ops import guard, private_file, process_tree
from openstream_ops.errors import ServerFailed, StartCancelled

HOST = "127.0.0.1"
POLL_EVERY = 0.01
# Recovery after a crash replays the log first; this is for a machine in trouble, not for the ordinary start.
START_TIMEOUT = 60.0
# A server's log is moved aside once at this size; one old file is kept.
LOG_BYTES = 8 * 1024 * 1024
LOG_TAIL_LINES = 20


class ServerProcess(ABC):
    """One server. The object outlives its process: `start` after `stop` or `kill` goes on with its port and data."""

    name: str  # for people
    key: str  # for files
    stop_signal: signal.Signals
    stop_grace: float

    def __init__(self, data_dir: Path, port: int, options: Mapping[str, str]) -> None:
        self.port = port
        self.home = data_dir / self.key
        self.log_path = data_dir / "logs" / f"{self.key}.log"
        # The server's own settings, used at the next start: `servers.valkey.options["maxmemory"] = "64mb"`.
        self.options = dict(options)
        self.guard: guard.Guard | None = None
        self._pid_file = data_dir / f"{self.key}.pid"
        self._process: subprocess.Popen[bytes] | None = None

    # ---- what a caller does with it

    @property
    def pid(self) -> int | None:
        """The pid of the running server, None while it is down."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How the last process ended, None while it runs or before the first start."""
        return self._process.poll() if self._process is not None else None

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Back when the server answers. Does nothing when it runs already."""
        if self.pid is not None:
            return
        self._stop_orphan()
        self._prepare()
        self._rotate_log()
        with self.log_path.open("ab") as log:
            log_start = log.tell()
            process = self._process = self._spawn(log.fileno())
        private_file.write(self._pid_file, str(process.pid))
        if self.guard is not None:
            self.guard.watch(process.pid, stage=guard.SERVERS, stop_signal=self.stop_signal, grace=self.stop_grace)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if process.poll() is not None:
                self._ended()
                raise ServerFailed(
                    f"{self.name} ended while starting (exit code {process.returncode})\n{self.log_tail(log_start)}",
                    f"its whole log: {self.log_path}",
                )
            if cancelled():
                self.stop()
                raise StartCancelled(f"{self.name} was asked to stop while starting")
            if time.monotonic() > deadline:
                self.kill()
                raise ServerFailed(
                    f"{self.name} did not answer within {START_TIMEOUT:.0f} s\n{self.log_tail(log_start)}",
                    f"its whole log: {self.log_path}",
                )
            time.sleep(POLL_EVERY)

    def stop(self) -> None:
        """Gracefully: everything is on disk afterwards. A server that does not end within its grace is killed."""
        if (process := self._process) is None:
            return
        if process.poll() is None:
            process.send_signal(self.stop_signal)
            process_tree.send(process.pid, signal.SIGCONT)  # a paused server would not see the signal
            try:
                process.wait(self.stop_grace)
            except subprocess.TimeoutExpired:
                self.kill()
                return
        self._ended()

    def kill(self) -> None:
        """SIGKILL, as a power cut would: all of its processes at once. Back when they are gone."""
        if (process := self._process) is None:
            return
        if process.poll() is None:
            process_tree.kill_and_wait(process.pid, timeout=self.stop_grace)
            process.wait()
        self._ended()

    def pause(self) -> None:
        """SIGSTOP for all of its processes: connections stay open and nothing answers."""
        if (pid := self.pid) is not None:
            process_tree.send(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """The end of `pause`."""
        if (pid := self.pid) is not None:
            process_tree.send(pid, signal.SIGCONT)

    def log_tail(self, start: int = 0) -> str:
        """The last lines of the server's log, for an error message."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(start)
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-LOG_TAIL_LINES:])

    # ---- what a server has to know about itself

    @abstractmethod
    def version(self) -> str:
        """The server's version as people call it."""

    @abstractmethod
    def _prepare(self) -> None:
        """Makes the data directory ready for `_spawn`; called before every start."""

    @abstractmethod
    def _spawn(self, log_fd: int) -> subprocess.Popen[bytes]:
        """Starts the process in `self.home`, in a session of its own, writing to `log_fd`."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether clients can work with the server now."""

    # ---- helpers

    def _ended(self) -> None:
        if self._process is not None and self.guard is not None:
            self.guard.forget(self._process.pid)
        self._pid_file.unlink(missing_ok=True)

    def _stop_orphan(self) -> None:
        """Ends what an earlier launcher left on our data. We hold the lock, so it belongs to nobody.

        It takes both the launcher and its guardian to be killed for this to happen.
        """
        try:
            pid = int(self._pid_file.read_text())
        except (OSError, ValueError):
            return
        # The pid may have been given to another process by now; the working directory tells.
        if process_tree.works_in(pid, self.home):
            process_tree.stop_stranger(pid, self.stop_signal, self.stop_grace)
        self._pid_file.unlink(missing_ok=True)

    def _rotate_log(self) -> None:
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))

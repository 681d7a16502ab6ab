"""`openstream dev` as a child process, and questions about what it leaves behind."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

DEADLINE = 30.0


def wait_until(condition: Callable[[], object], what: str, timeout: float = DEADLINE) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s in vain: {what}"
        time.sleep(0.02)


def processes_in(data_dir: Path) -> list[int]:
    """Every living process that works below `data_dir`: both servers and all of PostgreSQL's workers do."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(data_dir):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


class Dev:
    """One `openstream dev` in a session of its own, as a terminal would have it."""

    def __init__(self, arguments: list[str], journal: Path, behaviour: str, program: list[str]) -> None:
        self.journal_file = journal
        self._lines: list[str] = []
        self.process = subprocess.Popen(
            [*program, "dev", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={
                **os.environ,
                "FAKE_NODE_JOURNAL": str(journal),
                "FAKE_NODE": behaviour,
                "PYTHONUNBUFFERED": "1",
                "XDG_STATE_HOME": str(journal.parent),  # never the context of the developer's own shell
            },
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "\n".join(self._lines)

    @property
    def journal(self) -> list[dict[str, Any]]:
        if not self.journal_file.exists():
            return []
        return [json.loads(line) for line in self.journal_file.read_text().splitlines()]

    def events(self, event: str) -> list[int]:
        return [entry["port"] for entry in self.journal if entry["event"] == event]

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.output or self.process.poll() is not None, text)
        assert text in self.output, self.output

    def ctrl_c(self) -> None:
        """What a terminal does: SIGINT for the whole foreground process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, timeout: float = DEADLINE) -> int:
        code = self.process.wait(timeout)
        self._reader.join(DEADLINE)
        return code

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        with stream:
            for line in stream:
                self._lines.append(line.rstrip("\n"))

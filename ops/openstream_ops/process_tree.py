"""Signals for a process and everything below it, and whose process a pid is."""

import contextlib
import signal
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]

POLL_EVERY = 0.01


def send(pid: int, number: signal.Signals) -> None:
    """To the process and its descendants. PostgreSQL's workers leave the process group, so killpg would miss them."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def kill_and_wait(pid: int, timeout: float) -> None:
    """SIGKILL for the whole family at once, back when none is left. The caller still has to reap its own child."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + timeout
    # Not psutil's own wait: it would reap the caller's child, and wait for orphans until process 1 reaps them.
    while any(_is_running(process) for process in family) and time.monotonic() < deadline:
        time.sleep(POLL_EVERY)


def works_in(pid: int, directory: Path) -> bool:
    """Whether `pid` is alive with `directory` as its working directory, which is how we recognise a server of ours."""
    try:
        process = psutil.Process(pid)
        return _is_running(process) and Path(process.cwd()) == directory
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def stop_stranger(pid: int, stop_signal: signal.Signals, grace: float) -> None:
    """Stops a process that is not our child: gracefully, then not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.send_signal(stop_signal)
        send(pid, signal.SIGCONT)
        deadline = time.monotonic() + grace
        while _is_running(process):
            if time.monotonic() > deadline:
                kill_and_wait(pid, timeout=grace)
                return
            time.sleep(POLL_EVERY)


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False

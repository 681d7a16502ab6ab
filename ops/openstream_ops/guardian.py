"""The process that stops the others, in order, when the launcher dies without having done so.

Why a process of its own and not PR_SET_PDEATHSIG: that one exists on Linux only, fires when the *thread* that forked
ends (servers are started from short-lived threads), and cannot stop nodes before the servers they write to. Here the
kernel closes the launcher's end of a pipe, however the launcher died; that is the whole protocol for death.

Run as a plain file (`python -I -S guardian.py`): standard library only, so it starts in some milliseconds.
Lines on stdin:  `watch PID STAGE SIGNAL GRACE`  ·  `forget PID`  ·  `remove PATH`.  At the end of stdin, stages are
stopped in ascending order: signal, wait up to the longest grace, SIGKILL.
"""

import os
import select
import shutil
import signal
import sys
import time
from typing import NamedTuple

POLL_EVERY = 0.02
# Only a process stuck in the kernel outlives this; holding the lock for it any longer helps nobody.
AFTER_SIGKILL = 5.0


class Ward(NamedTuple):
    """One process to stop. The pidfd was opened while the launcher lived, so a reused pid is never hit by mistake."""

    pid: int
    pidfd: int | None
    stage: int
    stop_signal: signal.Signals
    grace: float

    def send(self, number: signal.Signals) -> None:
        try:
            if self.pidfd is not None and sys.platform == "linux":
                signal.pidfd_send_signal(self.pidfd, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def is_gone(self) -> bool:
        if self.pidfd is not None:
            # Readable once the process has ended, reaped or not: process 1 of a container may never reap.
            return bool(select.select([self.pidfd], [], [], 0)[0])
        try:
            os.kill(self.pid, 0)
        except OSError:
            return True
        return False


def watch(pid: int, stage: int, number: int, grace: float) -> Ward:
    pidfd = None
    if sys.platform == "linux":
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # no such system call here, or gone already
            pidfd = None
    return Ward(pid, pidfd, stage, signal.Signals(number), grace)


def stop(wards: list[Ward]) -> None:
    """Stops one stage."""
    for ward in wards:
        ward.send(ward.stop_signal)
        ward.send(signal.SIGCONT)  # a paused process would not see the signal
    deadline = time.monotonic() + max(ward.grace for ward in wards)
    while (left := [ward for ward in wards if not ward.is_gone()]) and time.monotonic() < deadline:
        time.sleep(POLL_EVERY)
    for ward in left:
        ward.send(signal.SIGKILL)
    deadline = time.monotonic() + AFTER_SIGKILL
    while any(not ward.is_gone() for ward in left) and time.monotonic() < deadline:
        time.sleep(POLL_EVERY)


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # These are the launcher's business; the guardian ends when the launcher has, and not before.
        signal.signal(ignored, signal.SIG_IGN)
    wards: dict[int, Ward] = {}
    remove: list[str] = []
    for line in sys.stdin:
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "watch":
            pid, stage, number, grace = rest.split()
            wards[int(pid)] = watch(int(pid), int(stage), int(number), float(grace))
        elif word == "forget":
            ward = wards.pop(int(rest), None)
            if ward is not None and ward.pidfd is not None:
                os.close(ward.pidfd)
        elif word == "remove":
            remove.append(rest)
    for stage in sorted({ward.stage for ward in wards.values()}):
        stop([ward for ward in wards.values() if ward.stage == stage])
    for path in remove:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()

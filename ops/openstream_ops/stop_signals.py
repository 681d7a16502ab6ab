"""Ctrl-C, SIGTERM and a closed terminal as something the launcher asks about, not something that interrupts it."""

import signal
import time
from types import FrameType

# A wrapper (`uv run`, a supervisor) may pass on the Ctrl-C that the terminal sent us already: one wish, not two.
SAME_WISH = 1.0


class StopSignals:
    """Notes the wishes to stop, from `listen` to `ignore`.

    A flag and not an exception: an exception could come between the start of a process and the note of its pid.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._hurry = False

    @property
    def requested(self) -> bool:
        return self._first is not None

    @property
    def hurry(self) -> bool:
        """Asked a second time: drop what is still being drained."""
        return self._hurry

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # `nohup` ignores it for us, and means it.
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            signal.signal(number, self._note)

    def ignore(self) -> None:
        """For the last moments of the process: an impatient Ctrl-C must not turn a clean end into a death by signal.

        Python itself resets its handlers to the default while it shuts down, but leaves ignored signals ignored.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
        elif now - self._first > SAME_WISH:
            self._hurry = True

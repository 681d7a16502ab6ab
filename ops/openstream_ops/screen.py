"""What the launcher says: aligned steps with timings on a terminal, the same words as plain lines in a pipe."""

import contextlib
import os
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

WHAT_WIDTH = 26
WHERE_WIDTH = 24


class Screen:
    """A person's view of a launch. A terminal that goes away does not keep a launcher from stopping its processes."""

    def __init__(self) -> None:
        self._out = _Console(highlight=False)
        self._err = _Console(stderr=True, highlight=False)

    @property
    def is_terminal(self) -> bool:
        return self._out.is_terminal

    def line(self, text: str = "", style: str = "") -> None:
        self._print(self._out, Text(text, style=style))

    def done(self, what: str, where: str, seconds: float) -> None:
        """One finished step."""
        text = Text.assemble(
            ("  ✔ ", "bold green"), what.ljust(WHAT_WIDTH), where.ljust(WHERE_WIDTH), (f"{seconds:.1f} s", "dim")
        )
        self._print(self._out, text)

    def fact(self, name: str, value: str, more: str = "") -> None:
        """One line of the banner."""
        self._print(self._out, Text.assemble((f"  {name:<10} ", "bold"), value, (f"   {more}" if more else "", "dim")))

    def log(self, name: str, line: str) -> None:
        """A line of a node's log, as the node wrote it, after its name if it has to be told from others."""
        prefix = Text(f"{name} | ", style="cyan") if name else Text()
        self._print(self._out, prefix + Text.from_ansi(line))

    def error(self, message: str, hint: str | None = None) -> None:
        self._print(self._err, Text.assemble(("error: ", "bold red"), message))
        if hint:
            self.hint(hint)

    def hint(self, text: str) -> None:
        self._print(self._err, Text.assemble(("hint: ", "bold"), text))

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A spinner on a terminal, nothing elsewhere."""
        if not self.is_terminal:
            yield
            return
        with self._out.status(what):
            yield

    def _print(self, console: Console, text: Text) -> None:
        try:
            # soft_wrap: a token or a command that is broken over two lines cannot be copied.
            console.print(text, soft_wrap=True)
        except OSError:  # a terminal that was closed
            console.on_broken_pipe()


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Goes silent. Rich's own answer is to exit, which would end the launcher before its processes.

        Whatever is still buffered goes nowhere, or the interpreter would complain once more when it flushes at exit.
        """
        self.quiet = True
        null = os.open(os.devnull, os.O_WRONLY)
        with contextlib.suppress(OSError, ValueError):
            os.dup2(null, self.file.fileno())
        os.close(null)

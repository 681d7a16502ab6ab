"""What a command has found out: a table for a person, one JSON object a line for a program."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from openstream_ops.errors import OpsError

#: Heading → field of a row.
Columns = Mapping[str, str]
LONGEST_UNBROKEN = 24


class ReaderGone(OpsError):
    """Whoever read our output has enough: `openstream … | head`. Not a failure."""

    exit_code = 0


class Output:
    """Standard output. `as_json`: also on a terminal."""

    def __init__(self, as_json: bool = False) -> None:
        self.is_table = sys.stdout.isatty() and not as_json

    def rows(
        self,
        rows: Sequence[Mapping[str, Any]],
        columns: Columns,
        *,
        empty: str = "nothing there",
        may_break: Collection[str] = (),
    ) -> None:
        """`may_break`: fields that give way where a terminal is too narrow."""
        if not self.is_table:
            self.lines(msgspec.json.encode(row) for row in rows)
        elif not rows:
            self.say(empty)
        else:
            self._table(rows, columns, may_break)

    def record(self, record: Mapping[str, Any], title: str = "") -> None:
        """One thing: its fields below each other, or one line of JSON."""
        if not self.is_table:
            self.lines([msgspec.json.encode(record)])
            return
        if title:
            self.say(title)
        width = max(map(len, record), default=0)
        for name, value in record.items():
            self.say(f"  {name:<{width}}  {shown(value)}")

    def say(self, text: str) -> None:
        """A line for a person."""
        self.lines([text.encode()])

    def done(self, text: str) -> None:
        """A confirmation: on a terminal only, a program looks at the exit code."""
        if self.is_table:
            self.say(text)

    def lines(self, lines: Iterable[bytes]) -> None:
        """Lines as they are, flushed: what was acknowledged after this call has been seen."""
        try:
            out = sys.stdout.buffer
            for line in lines:
                out.write(line)
                out.write(b"\n")
            out.flush()
        except BrokenPipeError:
            # Or the interpreter complains once more when it flushes at its end.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
            raise ReaderGone("the reader of the output is gone") from None

    def _table(self, rows: Sequence[Mapping[str, Any]], columns: Columns, may_break: Collection[str]) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading, name in columns.items():
            number = all(isinstance(row.get(name), int | float | None) for row in rows)
            # An id that is broken over two lines cannot be copied.
            short = all(len(shown(row.get(name))) <= LONGEST_UNBROKEN for row in rows)
            whole = short and name not in may_break
            table.add_column(heading, justify="right" if number else "left", overflow="fold", no_wrap=whole)
        for row in rows:
            table.add_row(*(Text(shown(row.get(name))) for name in columns.values()))
        Console().print(table)


def shown(value: Any) -> str:
    """A value for a person; what nobody knows is not 0."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str):
        return printable(value)
    return printable(msgspec.json.encode(value).decode())


def printable(text: str) -> str:
    """Text of strangers, without what would move a terminal's cursor or change its title."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)

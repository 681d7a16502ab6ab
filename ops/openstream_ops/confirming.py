"""Asking before something is gone: by typing its name, or `--yes` for scripts."""

import sys

from openstream_ops.errors import OpsError, UsageError
from openstream_ops.output import printable


def confirm(what: str, name: str, yes: bool) -> None:
    """Returns when it may be done."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{what} Nobody is here to confirm it", "--yes does it without asking")
    sys.stderr.write(f"{what}\nType {printable(name)} to go on: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != name:
        raise OpsError("not confirmed; nothing was done")

"""A node with something wrong inside: a defect put back in, or a clock that is off. Nothing of it is in the product.

python -m chaos.odd_node DEFECT --host H --port P
python -m chaos.odd_node clock:/path/to/a/file --host H --port P      # the file says by how many seconds
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from unittest.mock import patch

from chaos.defects import DEFECTS
from openstream_ops.cli import main as openstream

EVERY_S = 0.05


def follow_clock(path: Path) -> None:
    """From now on the wall clock is off by what the file says; the monotonic clock is as it was."""
    real_time, real_time_ns = time.time, time.time_ns
    off = 0

    def watch() -> None:
        nonlocal off
        while True:
            if path.exists():
                off = int(path.read_text() or "0")
            time.sleep(EVERY_S)

    threading.Thread(target=watch, daemon=True).start()
    patch.object(time, "time", lambda: real_time() + off).start()
    patch.object(time, "time_ns", lambda: real_time_ns() + off * 10**9).start()


def main() -> None:
    oddity, *options = sys.argv[1:]
    name, _, value = oddity.partition(":")
    if name == "clock":
        follow_clock(Path(value))
    else:
        DEFECTS[name].put_in()
    sys.argv = ["openstream", "node", *options]
    openstream()


if __name__ == "__main__":
    main()

"""The `openstream` command with fake_node.py for a node: a program that takes the command's own arguments."""

import functools
import sys
from pathlib import Path
from unittest.mock import patch

from openstream_ops import launcher
from openstream_ops.cli import main

FAKE_NODE = (sys.executable, str(Path(__file__).with_name("fake_node.py")))

if __name__ == "__main__":
    with patch.object(launcher, "Plan", functools.partial(launcher.Plan, node_command=FAKE_NODE)):
        main()

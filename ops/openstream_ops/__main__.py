"""`python -m openstream_ops` is `openstream`: for processes that must use this very interpreter."""

from openstream_ops.cli import main

main()

"""One command of `openstream` a file. A command parses, calls one thing and turns its outcome into an exit code."""

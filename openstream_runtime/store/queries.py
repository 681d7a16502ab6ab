"""The statements of queries.sql by name. Bytes: psycopg takes those, or text that is literal."""

from __future__ import annotations

import re
from importlib import resources

_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


def parse(text: str) -> dict[str, bytes]:
    """Statements by name; raises ValueError for a name that stands twice."""
    parts = _NAME.split(text)[1:]
    names, bodies = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"a query's name stands twice: {sorted(name for name in set(names) if names.count(name) > 1)}")
    return {name: body.strip().encode() for name, body in zip(names, bodies, strict=True)}


QUERIES = parse(resources.files(__package__).joinpath("queries.sql").read_text(encoding="utf-8"))


def query(name: str) -> bytes:
    """One statement; KeyError at import time for a name that is not there."""
    return QUERIES[name]

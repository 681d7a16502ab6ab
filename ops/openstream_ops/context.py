"""Which cluster the commands talk to, and as whom: what is given, the environment, or what `openstream dev` left.

A token is never an argument: arguments are seen by every process and kept in the shell's history.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from openstream_ops import private_file
from openstream_ops.errors import OpsError, UsageError

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Target:
    """URLs of one cluster and a token for it."""

    urls: list[str]
    token: str | None = field(repr=False)
    #: Who named the URL, for messages.
    named_by: str


def context_file(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/openstream/context.json`, by default below `~/.local/state`."""
    base = environ.get("XDG_STATE_HOME", "")
    home = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state"
    return home / "openstream" / "context.json"


def write(path: Path, urls: list[str], token: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    private_file.write(path, json.dumps({"urls": urls, "token": token}, indent=2) + "\n")


def forget(path: Path, urls: list[str]) -> None:
    """Remove the context when it still is the one of these URLs; another `openstream dev` may have written its own."""
    try:
        found = _read(path)
    except OpsError:
        return
    if found is not None and found.urls == urls:
        path.unlink(missing_ok=True)


def resolve(url: str | None, token_file: Path | None, environ: Mapping[str, str]) -> Target:
    """Arguments before environment before context. The context's token goes to the context's nodes only."""
    path = context_file(environ)
    kept = _read(path)
    given = url or environ.get("OPENSTREAM_URL")
    if given:
        urls = [one.strip().rstrip("/") for one in given.split(",") if one.strip()]
        bad = [one for one in urls if not one.startswith(("http://", "https://"))]
        if bad or not urls:
            raise UsageError(f"{given!r} is not a URL", "it looks like http://127.0.0.1:8000; several: with commas")
        named_by = "--url" if url else "OPENSTREAM_URL"
    elif kept is not None:
        urls, named_by = kept.urls, str(path)
    else:
        urls, named_by = [DEFAULT_URL], "the default"
    token = environ.get("OPENSTREAM_TOKEN") or None
    if token_file is not None:
        token = _read_token(token_file)
    elif token is None and kept is not None and set(urls) <= set(kept.urls):
        token = kept.token
    return Target(urls, token, named_by)


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read a token from {path}: {error}") from error
    if not token:
        raise UsageError(f"{path} is empty", "openstream token mint > FILE")
    return token


def _read(path: Path) -> Target | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Target([str(url) for url in found["urls"]], str(found["token"]), str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OpsError(f"{path} is damaged: {error}", "remove it, or start `openstream dev` again") from error

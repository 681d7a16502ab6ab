"""The environment that makes a process a node of this development setup, as a mapping and as a file for the shell."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from openstream_ops import private_file

# SEED.md's walkthrough types this secret, so a development setup accepts it; OPENSTREAM_DEV is what lets a node do so,
# and such a node listens on loopback only.
DEV_ADMIN_SECRET = "dev-admin-secret"  # noqa: S105

# Settings of one node, not of the setup: two nodes must not share them.
OF_ONE_NODE = ("OPENSTREAM_NODE_ID", "OPENSTREAM_HOST", "OPENSTREAM_PORT")


def dev_environment(
    *, redis_url: str, database_url: str, jwt_secret: str, environ: Mapping[str, str]
) -> dict[str, str]:
    """Everything a node needs to join. What `environ` says of CORS stands; the rest is this setup's own."""
    return {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "AUTH_JWT_SECRET": jwt_secret,
        "AUTH_JWT_ISSUER": "openstream",
        "AUTH_JWT_AUDIENCE": "openstream",
        "AUTH_ADMIN_SECRET": DEV_ADMIN_SECRET,
        "OPENSTREAM_DEV": "1",
        "CORS_ALLOW_ORIGINS": environ.get("CORS_ALLOW_ORIGINS", ""),
    }


def node_environment(environ: Mapping[str, str], dev: Mapping[str, str], *, colour: bool) -> dict[str, str]:
    """The environment of a node started by the launcher: the user's own, then ours."""
    inherited = {name: value for name, value in environ.items() if name not in OF_ONE_NODE}
    # A node writes into our pipe, so it cannot see by itself whether a person reads it.
    return {"OPENSTREAM_LOG_FORMAT": "console" if colour else "json", **inherited, **dev, "PYTHONUNBUFFERED": "1"}


def write_env_file(path: Path, dev: Mapping[str, str]) -> None:
    """`set -a; . PATH; set +a` in any POSIX shell gives the same environment."""
    lines = ["# Written by `openstream dev`. Another node by hand:", how_to_join(path, port=8001, comment="#   ")]
    lines += [f"{name}={shlex.quote(value)}" for name, value in dev.items()]
    private_file.write(path, "\n".join(lines) + "\n")


def how_to_join(path: Path, port: int, comment: str = "") -> str:
    return f"{comment}set -a; . {shlex.quote(str(path))}; set +a; openstream node --port {port}"

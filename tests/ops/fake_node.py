"""A stand-in for a node, run as a program: ready at once, mints a token, and notes how it was stopped.

At SIGTERM it writes whether both servers could still be reached, which is what a draining node depends on.
FAKE_NODE says what to do otherwise: `die` before being ready, or be `stubborn` about SIGTERM. GET /die ends it with 7.
"""

import http.server
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

PORT = int(sys.argv[sys.argv.index("--port") + 1])
JOURNAL = Path(os.environ["FAKE_NODE_JOURNAL"])
BEHAVIOUR = os.environ.get("FAKE_NODE", "")


def note(event: str) -> None:
    with JOURNAL.open("a") as journal:
        journal.write(json.dumps({"port": PORT, "pid": os.getpid(), "event": event}) + "\n")


def reachable(variable: str) -> bool:
    url = urlsplit(os.environ[variable])
    try:
        socket.create_connection((url.hostname or "", url.port or 0), timeout=2).close()
    except OSError:
        return False
    return True


def on_term(_number: int, _frame: FrameType | None) -> None:
    if BEHAVIOUR == "stubborn":
        note("asked")
        return
    time.sleep(0.3)  # a drain takes a moment; a launcher that does not wait for it is caught here
    note("drained" if reachable("REDIS_URL") and reachable("DATABASE_URL") else "servers gone")
    os._exit(0)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/die":
            print("about to die", flush=True)
            os._exit(7)
        self.answer(200, {})

    def do_POST(self) -> None:
        wish = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.path == "/v1/auth/token" and wish["admin_secret"] == os.environ["AUTH_ADMIN_SECRET"]
        self.answer(200 if known else 403, {"token": f"token-of-{wish['role']}"} if known else {})

    def answer(self, status: int, body: dict[str, str]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    if BEHAVIOUR == "die":
        print("the last words", flush=True)
        sys.exit(3)
    signal.signal(signal.SIGTERM, on_term)
    with http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler) as server:
        print(f"listening with OPENSTREAM_DEV={os.environ.get('OPENSTREAM_DEV')}", flush=True)
        note("started")
        server.serve_forever()

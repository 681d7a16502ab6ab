"""HAProxy on ops/'s own configuration: nodes are exchanged one after the other, and no request fails.

`make ops-check`; needs Debian's haproxy.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployment.files import OPS
from deployment.live import program, run, running
from openstream_ops import ports
from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import HOST, Cluster
from support.partitions import wait_for

pytestmark = [pytest.mark.ops, pytest.mark.timeout(180)]


def config(cluster: Cluster, port: int) -> str:
    text = (OPS / "haproxy" / "haproxy.cfg").read_text().replace("bind :8000", f"bind {HOST}:{port}")
    for number, url in enumerate(cluster.urls):
        text = text.replace(f"server node-{number + 1} node-{number + 1}:8000", f"server n{number} {url[7:]}")
    return re.sub(r"^ {4}server node-.*\n", "", text, flags=re.MULTILINE)


class Requests:
    """One produce request after the other through the proxy; what went wrong is kept."""

    def __init__(self, port: int, token: str, *, keeps: bool = False, numbered: bool = False) -> None:
        """`keeps`: on one connection while it lasts. `numbered`: with Producer-Id and its company; only a request whose
        answer broke off is repeated."""
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._keeps = keeps
        self._numbered = numbered
        self._connection = http.client.HTTPConnection(HOST, port, timeout=20)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.good = 0
        self.bad: list[str] = []
        #: Answers that broke off.
        self.cut: list[str] = []

    def __enter__(self) -> Requests:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def wait_for(self, more: int) -> None:
        """Until so many more have gone through."""
        enough = self.good + more
        wait_for(lambda: self.good >= enough or bool(self.bad), f"{more} more requests go through", 20)

    def _run(self) -> None:
        while not self._stop.is_set() and len(self.bad) < 10:
            stamp = (
                {"Producer-Id": "p", "Producer-Epoch": "0", "Producer-Seq": str(self.good)} if self._numbered else {}
            )
            body = json.dumps({"events": [{"event_type": "t", "payload": self.good}], "partitions": 2})
            try:
                self._connection.request("POST", "/v1/topics/orders/events", body, self._headers | stamp)
                reply = self._connection.getresponse()
                said = reply.read()
            except http.client.IncompleteRead as error:
                # The node was killed in the middle of its answer, which no proxy can take back.
                (self.cut if self._numbered else self.bad).append(repr(error))
                self._connection.close()
                continue
            except (OSError, http.client.HTTPException) as error:
                self.bad.append(repr(error))
                self._connection.close()
                continue
            if not self._keeps:
                self._connection.close()
            if reply.status == 200:
                self.good += 1
            else:
                self.bad.append(f"{reply.status} {said[:200]!r}")
        self._connection.close()


@contextmanager
def proxied(tmp_path: Path) -> Iterator[tuple[Cluster, int, Callable[[str], int]]]:
    """Two nodes behind the proxy: the cluster, the proxy's port, and how often its log says something."""
    with (
        EmbeddedServers(tmp_path / "servers", ephemeral=True) as servers,
        Cluster(servers, tmp_path, nodes=2) as cluster,
    ):
        port, log = ports.pick(HOST), tmp_path / "haproxy.log"
        (tmp_path / "haproxy.cfg").write_text(config(cluster, port))
        command = [program("haproxy"), "-f", str(tmp_path / "haproxy.cfg"), "-db"]
        run(*command, "-c")
        client = Client(f"http://{HOST}:{port}", cluster.token())

        def up() -> bool:
            try:
                return client.get("/readyz").status == 200
            except OSError:
                return False

        with running(command, log, up):
            yield cluster, port, lambda text: log.read_text(errors="replace").count(text)


def wait_until_told(told: Callable[[str], int], text: str) -> None:
    wait_for(lambda: told(text), f"the proxy says: {text}", 20)


def test_nodes_are_exchanged_behind_the_proxy_and_no_request_fails(tmp_path: Path) -> None:
    with proxied(tmp_path) as (cluster, port, told):
        token = cluster.token()
        with Requests(port, token) as fresh, Requests(port, token, keeps=True) as kept:
            for number in range(2):
                fresh.wait_for(20)
                cluster.stop(number)
                assert told(f"Server nodes/n{number} is DOWN")
                cluster.start(number)
                cluster.wait_ready(number)
                # It is the proxy that must know before the other one may go: an orchestrator waits in the same way.
                wait_until_told(told, f"Server nodes/n{number} is UP")
                fresh.wait_for(50)
                kept.wait_for(50)
            assert Client(f"http://{HOST}:{port}").get("/metrics").status == 404
        assert fresh.bad + kept.bad == []


def test_a_node_is_killed_behind_the_proxy_and_no_request_of_a_numbered_producer_fails(tmp_path: Path) -> None:
    with proxied(tmp_path) as (cluster, port, told), Requests(port, cluster.token(), numbered=True) as requests:
        for number in range(2):
            requests.wait_for(50)
            cluster.kill(number)
            requests.wait_for(50)
            cluster.start(number)
            cluster.wait_ready(number)
            wait_until_told(told, f"Server nodes/n{number} is UP")
        requests.wait_for(50)
        sent = requests.good
        history = Client(cluster.url(0), cluster.token()).get("/v1/topics/orders/events?limit=5000").json["events"]
        found = [event["payload"] for event in history]
        assert len(found) == len(set(found)) >= min(sent, 5_000)
    assert requests.bad == []
    assert len(requests.cut) <= 2  # one for each node

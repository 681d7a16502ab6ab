"""HAProxy on ops/'s own configuration: nodes are exchanged one after the other, and no request fails.

`make ops-check`; needs Debian's haproxy.
"""

from __future__ import annotations

import re
import threading
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

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.good = 0
        self.bad: list[str] = []

    def __enter__(self) -> Requests:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def wait_for(self, more: int) -> None:
        """Until so many more have gone through."""
        enough = self.good + more
        wait_for(lambda: self.good >= enough, f"{more} more requests go through", 20)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                reply = self._client.produce("orders", [1], partitions=2)
            except OSError as error:
                self.bad.append(repr(error))
                continue
            if reply.status == 200:
                self.good += 1
            else:
                self.bad.append(f"{reply.status} {reply.body[:200]!r}")


def test_nodes_are_exchanged_behind_the_proxy_and_no_request_fails(tmp_path: Path) -> None:
    with (
        EmbeddedServers(tmp_path / "servers", ephemeral=True) as servers,
        Cluster(servers, tmp_path, nodes=2) as cluster,
    ):
        port = ports.pick(HOST)
        (tmp_path / "haproxy.cfg").write_text(config(cluster, port))
        command = [program("haproxy"), "-f", str(tmp_path / "haproxy.cfg"), "-db"]
        run(*command, "-c")
        client = Client(f"http://{HOST}:{port}", cluster.token())

        def up() -> bool:
            try:
                return client.get("/readyz").status == 200
            except OSError:
                return False

        with running(command, tmp_path / "haproxy.log", up), Requests(client) as requests:
            for number in range(2):
                requests.wait_for(20)
                cluster.stop(number)
                cluster.start(number)
                cluster.wait_ready(number)
                requests.wait_for(50)
            assert client.get("/metrics").status == 404
        assert requests.bad == []

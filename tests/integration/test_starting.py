"""A node that starts while a backend comes and goes waits for it, as long as it was told to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from anyio import to_thread

from openstream_ops.servers import EmbeddedServers
from support.cluster import Cluster
from support.tcp_proxy import tcp_proxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@dataclass(frozen=True, slots=True)
class Through:
    """Servers as a cluster wants them, PostgreSQL behind a proxy."""

    redis_url: str
    database_url: str


async def test_a_connection_lost_after_the_schema_was_made_is_waited_for_too(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    port = own_servers.postgres.port
    async with tcp_proxy("127.0.0.1", port) as proxy:
        through = Through(own_servers.redis_url, own_servers.database_url.replace(f":{port}/", f":{proxy.port}/"))
        # Which tables there are is asked when the schema stands and the store is opened.
        proxy.cut_after(b"pg_catalog.pg_inherits d", delivered=False)
        cluster = Cluster(through, tmp_path, nodes=1)
        await to_thread.run_sync(cluster.start, 0)
        try:
            await to_thread.run_sync(cluster.wait_ready, 0)
            assert proxy.cuts == 1
            assert "waiting for PostgreSQL" in cluster.log(0)
        finally:
            await to_thread.run_sync(cluster.__exit__, None, None, None)

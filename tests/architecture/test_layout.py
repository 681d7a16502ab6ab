"""What stands where: the top of the repository, the packages, the lengths of files."""

from __future__ import annotations

import subprocess
from pathlib import PurePosixPath

import pytest

from architecture.repository import PACKAGES, ROOT, files, sources, tracked

#: Fixed by the user and by how Python projects look. A folder stands in git once it has a file.
TOP_LEVEL = {
    "openstream_runtime", "supervisors", "http", "ui", "ops", "tests", "benchmarks",
    "pyproject.toml", "README.md", "Makefile", "requirements.txt", "LICENSE", "CHANGELOG.md",
}  # fmt: skip
MAY_BE_EMPTY_YET = {"ui", "benchmarks"}

SOURCE_LINES, TEST_LINES = 320, 700


def test_the_top_of_the_repository_holds_exactly_what_it_should() -> None:
    found = {PurePosixPath(name).parts[0] for name in tracked()}
    found = {name for name in found if not name.startswith(".")}
    assert found - TOP_LEVEL == set()
    assert TOP_LEVEL - MAY_BE_EMPTY_YET - found == set()


def test_http_is_a_plain_folder_without_a_module_of_its_own() -> None:
    # On the path of the repository's root such a file would be the standard library's `http`.
    strays = [path.name for path in (ROOT / "http").iterdir() if path.suffix in {".py", ".pyi", ".so", ".pth"}]
    assert strays == []


def test_ops_is_a_plain_folder_around_its_package_too() -> None:
    assert not (ROOT / "ops" / "__init__.py").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_typed_and_every_folder_of_modules_in_it_is_a_package(package: str) -> None:
    folder = PACKAGES[package]
    assert (ROOT / folder / "__init__.py").is_file()
    assert (ROOT / folder / "py.typed").is_file(), "mypy strict in other people's code sees our types"
    rooms = {PurePosixPath(name).parent for name in sources() if name.startswith(f"{folder}/")}
    bare = [str(room) for room in rooms if not (ROOT / room / "__init__.py").is_file()]
    assert not bare, "import-linter and the wheel see packages only"


def test_no_file_is_too_long_to_be_read_at_once() -> None:
    too_long = []
    for name in files():
        if not name.endswith(".py") or not name.startswith((*PACKAGES.values(), "tests/", "benchmarks/")):
            continue
        bound = TEST_LINES if name.startswith(("tests/", "benchmarks/")) else SOURCE_LINES
        lines = (ROOT / name).read_bytes().count(b"\n")
        if lines > bound:
            too_long.append(f"{name}: {lines} lines, at most {bound}")
    assert not too_long, "\n".join(too_long)


def test_nothing_that_git_ignores_is_in_git() -> None:
    listed = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    found = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert found == [], "what is built from sources would be old with the next commit"


def test_names_of_files_are_plain() -> None:
    odd = [name for name in files() if not name.isascii() or " " in name]
    assert odd == []


@pytest.mark.parametrize("name", [name for name in files() if name.endswith(".py")])
def test_a_python_file_parses_and_is_utf_8_with_unix_lines(name: str) -> None:
    raw = (ROOT / name).read_bytes()
    compile(raw.decode("utf-8"), name, "exec", dont_inherit=True)
    assert b"\r" not in raw

"""The words of the `openstream` command and how it says no."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from openstream_ops.data_dir import default_data_dir

VERSION = f"openstream {metadata.version('openstream-runtime')}\n"


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # Not what the developer's own shell is set up for.
    ours = ("REDIS_URL", "DATABASE_URL", "AUTH_", "OPENSTREAM_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | environment
    return subprocess.run(
        [str(word) for word in command], env=env, capture_output=True, text=True, check=False, timeout=60
    )


def openstream(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "openstream_ops", *arguments, **environment)


def test_the_module_and_the_console_script_are_the_same_command() -> None:
    script = Path(sys.executable).with_name("openstream")
    assert openstream("--version").stdout == VERSION
    if script.exists():  # not where the tests run without an installation
        assert run(script, "--version").stdout == VERSION


def test_help_names_every_command() -> None:
    shown = openstream("--help").stdout
    assert "node" in shown
    assert "dev" in shown


def test_a_node_without_settings_names_each_of_them_and_exits_with_2() -> None:
    answer = openstream("node")
    assert answer.returncode == 2
    for name in ("REDIS_URL", "DATABASE_URL", "AUTH_JWT_SECRET"):
        assert f"error: {name} is not set" in answer.stderr
    assert "hint: " in answer.stderr
    assert answer.stdout == ""


def test_a_node_with_a_weak_secret_does_not_repeat_it() -> None:
    answer = openstream(
        "node", REDIS_URL="redis://h/0", DATABASE_URL="postgresql://h/d", AUTH_JWT_SECRET="feeble-and-short"
    )
    assert answer.returncode == 2
    assert "error: " in answer.stderr
    assert "feeble-and-short" not in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--ephemeral", "--data-dir", "/nowhere"], "--ephemeral keeps nothing"),
        (["--port", "65535", "--nodes", "2"], "go past 65535"),
        (["--nodes", "0"], "nodes"),
    ],
)
def test_a_contradiction_exits_with_2(arguments: list[str], complaint: str) -> None:
    answer = openstream("dev", *arguments)
    assert answer.returncode == 2
    assert complaint in answer.stderr


def test_a_data_directory_that_cannot_be_made_is_an_error_and_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = openstream("dev", "--servers-only", "--data-dir", str(tmp_path / "file" / "data"))
    assert answer.returncode == 1
    assert "error: cannot use the data directory" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_default_data_directory_follows_the_xdg_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_DATA_HOME", "/elsewhere")
    assert default_data_dir() == Path("/elsewhere/openstream/dev")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", ignored)
        assert default_data_dir() == Path("/home/someone/.local/share/openstream/dev")

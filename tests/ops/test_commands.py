"""What commands say when something is wrong, where they find their node, and how fast they start."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openstream_ops import context
from openstream_ops.cli import app
from openstream_ops.errors import UsageError
from openstream_ops.quantities import duration_ms, place, since_ms, size_bytes, time_ms
from ops.scripted_node import ScriptedNode, serving
from ops.test_cli import openstream


@pytest.fixture
def node() -> Iterator[ScriptedNode]:
    with serving(ScriptedNode()) as node:
        yield node


def nobody() -> str:
    """A URL on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# ---- exit codes


def test_exit_codes_are_what_the_help_says(node: ScriptedNode, tmp_path: Path) -> None:
    quiet = {"XDG_STATE_HOME": str(tmp_path)}
    good = {**quiet, "OPENSTREAM_URL": node.url, "OPENSTREAM_TOKEN": "good"}
    said_no = openstream("topic", "describe", "orders", **good)
    usage = openstream("topic", "alter", "orders", **good)
    unreachable = openstream("topic", "list", "--url", nobody(), **quiet)
    no_token = openstream("topic", "list", **quiet, OPENSTREAM_URL=node.url)
    bad_token = openstream("topic", "list", **{**good, "OPENSTREAM_TOKEN": "bad"})
    answers = (said_no, usage, unreachable, no_token, bad_token)
    assert [answer.returncode for answer in answers] == [1, 2, 3, 4, 4]
    for answer in answers:
        assert answer.stderr.startswith("error: ")
        assert "hint: " in answer.stderr
        assert "Traceback" not in answer.stderr
        assert answer.stdout == ""
    assert "no token is set" in no_token.stderr
    shown = openstream("--help").stdout
    assert all(f"{code} " in shown for code in (0, 1, 2, 3, 4, 5, 130))


def test_deleting_is_confirmed_by_a_person_or_by_an_option(node: ScriptedNode, tmp_path: Path) -> None:
    from openstream_ops.confirming import confirm

    confirm("This deletes it.", "orders", yes=True)
    with pytest.raises(UsageError, match="Nobody is here"):
        confirm("This deletes it.", "orders", yes=False)


# ---- finding the node


def test_what_is_given_goes_before_the_environment_and_that_before_the_context(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    assert context.resolve(None, None, environ).urls == [context.DEFAULT_URL]
    path = context.context_file(environ)
    context.write(path, ["http://dev:1"], "of-dev")
    assert path.stat().st_mode & 0o777 == 0o600
    found = context.resolve(None, None, environ)
    assert (found.urls, found.token) == (["http://dev:1"], "of-dev")
    environ |= {"OPENSTREAM_URL": "http://env:1,http://env:2/", "OPENSTREAM_TOKEN": "of-env"}
    found = context.resolve(None, None, environ)
    assert (found.urls, found.token) == (["http://env:1", "http://env:2"], "of-env")
    (tmp_path / "token").write_text("of-file\n")
    found = context.resolve("http://given:1", tmp_path / "token", environ)
    assert (found.urls, found.token) == (["http://given:1"], "of-file")


def test_the_token_of_the_context_goes_to_no_other_node(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    context.write(context.context_file(environ), ["http://dev:1"], "of-dev")
    assert context.resolve("http://elsewhere:1", None, environ).token is None
    assert "of-dev" not in repr(context.resolve(None, None, environ))


def test_a_context_is_forgotten_by_the_one_who_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "context.json"
    context.write(path, ["http://second:1"], "t")
    context.forget(path, ["http://first:1"])
    assert path.exists()
    context.forget(path, ["http://second:1"])
    assert not path.exists()


def test_no_command_takes_a_token_as_an_argument() -> None:
    for command in ("status", "produce", "consume", "topic list", "bench"):
        shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output
        assert "--token-file" in shown
        assert "--token " not in shown


# ---- quantities


def test_quantities_as_people_type_them() -> None:
    assert [duration_ms(text) for text in ("500ms", "90s", "15m", "2h", "7d")] == [
        500,
        90_000,
        900_000,
        7_200_000,
        604_800_000,
    ]
    assert [size_bytes(text) for text in ("1000", "512M", "1.5GiB")] == [1000, 512 << 20, 3 << 29]
    assert time_ms("2026-11-23T09:00Z") == 1_795_424_400_000
    assert time_ms("15m", now=1_000_000) == 999_100_000
    assert [place(text) for text in ("earliest", "latest", "17-3")] == [("0-0", None), ("$", None), ("17-3", None)]
    assert [since_ms(value) for value in (None, 20, 3_000, 600_000)] == ["-", "20 ms", "3 s", "10 min"]


@pytest.mark.parametrize("text", ["", "soon", "5", "-1m", "12 parsecs"])
def test_what_is_no_duration_is_said(text: str) -> None:
    with pytest.raises(UsageError):
        duration_ms(text)


# ---- what a stranger wrote


def test_text_of_strangers_cannot_move_the_cursor() -> None:
    from openstream_ops.output import printable, shown

    assert printable("\x1b[2Jgone") == "\\x1b[2Jgone"
    assert shown({"a": "\x9b31m"}) == '{"a":"\\x9b31m"}'
    assert printable("Grüße 日本") == "Grüße 日本"


# ---- starting


def test_help_and_completion_start_without_the_server_and_fast() -> None:
    program = (
        "import sys; sys.argv = ['openstream', '--help']\n"
        "from openstream_ops.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "import json; print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded.isdisjoint({"quart", "redis", "psycopg", "hypercorn", "httpx2", "pydantic", "openstream_runtime"})


def test_completion_answers_offline_within_its_share_of_the_processor() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = openstream(_OPENSTREAM_COMPLETE="complete_bash", COMP_WORDS="openstream to", COMP_CWORD="1")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert {"topic", "token"} <= set(done.stdout.split()), done.stderr
    # Of the processor and not of the clock: the machine may be busy with something else.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.4

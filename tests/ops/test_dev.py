"""`openstream dev` from outside: what it shows, in which order it takes things down, and that nothing stays behind."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import psutil  # type: ignore[import-untyped]
import pytest

from openstream_ops.data_dir import DataDir
from openstream_ops.servers import EmbeddedServers
from ops.dev_process import DEADLINE, Dev, processes_in, wait_until

Launch = Callable[..., Dev]
UP = "Ctrl-C stops"


# With the drivers that nodes use, from the environment alone.
CONNECT = """
import os, psycopg, redis
valkey = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
postgres = psycopg.connect(os.environ["DATABASE_URL"])
"""
WRITE = (
    CONNECT
    + """
valkey.set("kept", "kept")
valkey.waitaof(1, 0, 5000)
postgres.execute("create table kept as select 'kept' as value")
postgres.commit()
"""
)
READ = (
    CONNECT
    + """
print(valkey.get("kept"), postgres.execute("table kept").fetchone()[0])
"""
)


def with_env_file(data_dir: Path, script: str) -> str:
    """What a script prints when a shell runs it as the banner says."""
    command = 'set -a; . "$1"; set +a; exec "$2" -c "$3"'
    return subprocess.check_output(
        ["sh", "-c", command, "sh", str(data_dir / "env"), sys.executable, script], text=True
    ).strip()


def nodes_alive(dev: Dev) -> list[int]:
    pids = {entry["pid"] for entry in dev.journal}
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def assert_nothing_left(dev: Dev, data_dir: Path) -> None:
    assert nodes_alive(dev) == []
    assert processes_in(data_dir) == []
    again = DataDir(data_dir)  # the guardian holds the lock until it ends
    again.lock()
    again.unlock()


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm"])
def test_two_nodes_come_up_and_drain_before_their_servers_stop(
    launch: Launch, tmp_path: Path, free_port: int, how: str
) -> None:
    data = tmp_path / "data"
    dev = launch("--data-dir", str(data), "--port", str(free_port), "--nodes", "2")
    dev.wait_for(UP)
    both = [free_port, free_port + 1]
    assert sorted(dev.events("started")) == both
    for shown in (
        *("✔ Valkey 9.", "✔ PostgreSQL 18.", "✔ node-1", "✔ node-2"),
        f"http://127.0.0.1:{free_port}/v1",
        f"http://127.0.0.1:{free_port + 1}/v1",
        f"docs http://127.0.0.1:{free_port}/docs · metrics http://127.0.0.1:{free_port}/metrics",
        str(data),
        "TOKEN=token-of-admin",
        f"curl -sS -X POST http://127.0.0.1:{free_port}/v1/topics/orders/events",
        f"openstream node --port {free_port + 2}",
        "node-2 | listening with OPENSTREAM_DEV=1",
    ):
        assert shown in dev.output, shown
    begin = time.monotonic()
    if how == "ctrl-c":
        dev.ctrl_c()
    else:
        dev.process.terminate()
    assert dev.end() == 0, dev.output
    assert time.monotonic() - begin < 10
    assert sorted(dev.events("drained")) == both
    assert_nothing_left(dev, data)


def test_the_context_of_the_commands_is_there_while_it_runs_and_for_nobody_else(
    launch: Launch, tmp_path: Path, free_port: int
) -> None:
    dev = launch("--data-dir", str(tmp_path / "data"), "--port", str(free_port))
    dev.wait_for(UP)
    context = tmp_path / "openstream" / "context.json"
    assert json.loads(context.read_text()) == {
        "urls": [f"http://127.0.0.1:{free_port}"],
        "token": "token-of-admin",
    }
    assert stat.S_IMODE(context.stat().st_mode) == 0o600
    dev.ctrl_c()
    dev.end()
    assert not context.exists()


def test_no_secret_is_shown(launch: Launch, tmp_path: Path, free_port: int) -> None:
    data = tmp_path / "data"
    dev = launch("--data-dir", str(data), "--port", str(free_port))
    dev.wait_for(UP)
    dev.ctrl_c()
    dev.end()
    with EmbeddedServers(data) as servers:
        known = servers.state
        logs = "".join(log.read_text() for log in servers.data_dir.logs.iterdir())
    for secret in (known.valkey_password, known.postgres_password, known.jwt_secret):
        assert secret not in dev.output
        assert secret not in logs
    for name in ("env", "state.json"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600


def test_a_node_that_dies_while_starting_ends_the_launch(launch: Launch, tmp_path: Path, free_port: int) -> None:
    dev = launch("--data-dir", str(tmp_path / "data"), "--port", str(free_port), behaviour="die")
    assert dev.end() == 1
    assert "error: node-1 ended by itself (exit code 3)" in dev.output
    assert "the last words" in dev.output.partition("error:")[2]
    assert_nothing_left(dev, tmp_path / "data")


def test_a_node_that_dies_later_ends_the_launch(launch: Launch, tmp_path: Path, free_port: int) -> None:
    dev = launch("--data-dir", str(tmp_path / "data"), "--port", str(free_port), "--nodes", "2")
    dev.wait_for(UP)
    with pytest.raises(OSError):  # noqa: PT011  (which one depends on how far the answer came)
        build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{free_port + 1}/die", timeout=10)
    assert dev.end() == 1
    assert "error: node-2 ended by itself (exit code 7)" in dev.output
    assert "about to die" in dev.output.partition("error:")[2]
    assert dev.events("drained") == [free_port]
    assert_nothing_left(dev, tmp_path / "data")


@pytest.mark.parametrize(("key", "name"), [("valkey", "Valkey"), ("postgres", "PostgreSQL")])
def test_a_server_that_dies_ends_the_launch(launch: Launch, tmp_path: Path, key: str, name: str) -> None:
    data = tmp_path / "data"
    dev = launch("--data-dir", str(data), "--servers-only", real=True)
    dev.wait_for(UP)
    os.kill(int((data / f"{key}.pid").read_text()), signal.SIGKILL)
    assert dev.end() == 1
    assert f"error: {name} ended by itself (killed by SIGKILL)" in dev.output
    wait_until(lambda: processes_in(data) == [], "PostgreSQL's workers notice that their postmaster is gone")
    assert_nothing_left(dev, data)


def test_a_second_ctrl_c_does_not_wait_for_a_stubborn_node(launch: Launch, tmp_path: Path, free_port: int) -> None:
    dev = launch("--data-dir", str(tmp_path / "data"), "--port", str(free_port), behaviour="stubborn")
    dev.wait_for(UP)
    dev.ctrl_c()
    begin = time.monotonic()
    wait_until(lambda: dev.events("asked"), "the node was asked to stop")

    def press_again() -> bool:
        if dev.process.poll() is None:
            dev.ctrl_c()
        return dev.process.poll() is not None

    wait_until(press_again, "the launcher gave up on the node")
    assert dev.end() == 0, dev.output
    assert time.monotonic() - begin < 10  # a node's grace is 12 s
    assert_nothing_left(dev, tmp_path / "data")


def test_a_killed_launcher_leaves_nothing_and_loses_nothing(launch: Launch, tmp_path: Path, free_port: int) -> None:
    data = tmp_path / "data"
    dev = launch("--data-dir", str(data), "--port", str(free_port), "--nodes", "2")
    dev.wait_for(UP)
    with_env_file(data, WRITE)
    os.killpg(dev.process.pid, signal.SIGKILL)
    dev.end()
    wait_until(lambda: not processes_in(data) and not nodes_alive(dev), "the guardian stops all", timeout=15)
    assert sorted(dev.events("drained")) == [free_port, free_port + 1]
    # The next launch does not have to wait for anybody to clean up by hand.
    again = launch("--data-dir", str(data), "--port", str(free_port))
    again.wait_for(UP)
    assert with_env_file(data, READ) == "kept kept"
    again.ctrl_c()
    assert again.end() == 0


def test_a_launcher_started_while_the_guardian_still_works_waits_for_it(
    launch: Launch, tmp_path: Path, free_port: int
) -> None:
    data = tmp_path / "data"
    dev = launch("--data-dir", str(data), "--port", str(free_port))
    dev.wait_for(UP)
    dev.process.kill()
    dev.end()  # the fake node takes 0.3 s to drain, so the guardian is at work now
    again = launch("--data-dir", str(data), "--servers-only")
    again.wait_for(UP)
    assert dev.events("drained") == [free_port]
    again.ctrl_c()
    assert again.end() == 0


def test_the_env_file_of_servers_only_connects_a_shell(launch: Launch, tmp_path: Path) -> None:
    data = tmp_path / "it's a place"
    dev = launch("--data-dir", str(data), "--servers-only", real=True)
    dev.wait_for(UP)
    assert str(data / "env") in dev.output
    with_env_file(data, WRITE)
    assert with_env_file(data, READ) == "kept kept"
    names = ["AUTH_JWT_ISSUER", "AUTH_JWT_AUDIENCE", "AUTH_ADMIN_SECRET", "OPENSTREAM_DEV"]
    printed = with_env_file(data, f"import os; print(*(os.environ[name] for name in {names}))")
    assert printed == "openstream openstream dev-admin-secret 1"
    dev.ctrl_c()
    assert dev.end() == 0, dev.output
    assert_nothing_left(dev, data)


def test_a_second_launcher_on_the_same_data_is_refused(launch: Launch, tmp_path: Path) -> None:
    first = launch("--data-dir", str(tmp_path / "data"), "--servers-only", real=True)
    first.wait_for(UP)
    second = launch("--data-dir", str(tmp_path / "data"), "--servers-only", real=True)
    assert second.end() == 1
    assert f"another `openstream dev` is running on {tmp_path / 'data'} (process {first.process.pid})" in second.output
    assert first.process.poll() is None


def test_ephemeral_keeps_nothing(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for end in ("ctrl_c", "kill"):
        dev = launch("--ephemeral", "--servers-only", real=True)
        dev.wait_for(UP)
        assert len(list(tmp_path.glob("openstream-*"))) == 1
        if end == "ctrl_c":
            dev.ctrl_c()
        else:
            dev.process.kill()
        dev.end()
        wait_until(lambda: not list(tmp_path.glob("openstream-*")), f"the directory is removed after {end}")
        assert processes_in(tmp_path) == []


def test_a_taken_port_is_named_before_anything_starts(launch: Launch, tmp_path: Path, servers: EmbeddedServers) -> None:
    taken = servers.valkey.port
    dev = launch("--data-dir", str(tmp_path / "data"), "--port", str(taken), real=True)
    assert dev.end() == 1
    assert f"error: port {taken} on 127.0.0.1 is taken" in dev.output
    assert "--port" in dev.output
    assert not (tmp_path / "data").exists()


def test_the_public_admin_secret_never_leaves_the_machine(launch: Launch, tmp_path: Path) -> None:
    dev = launch("--data-dir", str(tmp_path / "data"), "--host", "0.0.0.0", real=True)  # noqa: S104
    assert dev.end() == 2
    assert "loopback only" in dev.output


def test_ctrl_c_while_starting_ends_the_launch(launch: Launch, tmp_path: Path) -> None:
    dev = launch("--data-dir", str(tmp_path / "data"), "--servers-only", real=True)
    dev.wait_for("development mode")  # PostgreSQL is created now, which takes most of a second
    dev.ctrl_c()
    assert dev.end() == 0, dev.output
    assert_nothing_left(dev, tmp_path / "data")


def test_a_reader_that_goes_away_does_not_end_the_launch(tmp_path: Path) -> None:
    data = tmp_path / "data"
    dev = subprocess.Popen(
        [sys.executable, "-m", "openstream_ops", "dev", "--servers-only", "--data-dir", str(data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert dev.stdout is not None
    assert dev.stderr is not None
    dev.stdout.close()
    wait_until(lambda: (data / "env").exists() or dev.poll() is not None, "the servers are up")
    dev.terminate()
    with dev.stderr:
        assert dev.wait(DEADLINE) == 0
        assert dev.stderr.read() == ""
    assert processes_in(data) == []

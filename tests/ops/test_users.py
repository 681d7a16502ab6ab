"""The servers as root and as an ordinary user. The rest of the suite covers whichever of the two it runs as."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from openstream_ops import postgres_install
from openstream_ops.servers import EmbeddedServers

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

# Without redis-py: it does not import on 3.11.0 to 3.11.2, which a system's own interpreter may well be.
ROUND = """
import os, pathlib, socket, sys
import psycopg
from openstream_ops.servers import EmbeddedServers
assert os.geteuid() != 0
for run in (0, 1):
    with EmbeddedServers(pathlib.Path(sys.argv[1])) as servers:
        with socket.create_connection(("127.0.0.1", servers.valkey.port), timeout=10) as valkey:
            valkey.sendall(f"AUTH {servers.state.valkey_password}\\r\\nINCR runs\\r\\nQUIT\\r\\n".encode())
            answers = valkey.makefile().read().splitlines()
        assert answers[1] == f":{run + 1}", answers
        with psycopg.connect(servers.database_url) as postgres:
            postgres.execute("create table if not exists runs (n int)")
            assert postgres.execute("select count(*) from runs").fetchone() == (run,)
            postgres.execute("insert into runs values (1)")
print("done")
"""


@pytest.fixture
def nobody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


@pytest.fixture
def open_place(nobody: pwd.struct_passwd) -> Iterator[Path]:
    """A directory of nobody's, where nobody gets at it; pytest's own are closed to other users."""
    place = Path("/tmp") / f"openstream-test-{os.getpid()}"
    place.mkdir(mode=0o755)
    os.chown(place, nobody.pw_uid, nobody.pw_gid)
    yield place
    shutil.rmtree(place)


def python_for(user: pwd.struct_passwd) -> list[str]:
    """An interpreter of our version that `user` may run: this one may lie in root's home."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/local/bin/{name}", f"/usr/bin/{name}"):
        try:
            subprocess.run(
                [candidate, "-c", "import psycopg, openstream_ops"],
                check=True,
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[],
                cwd="/",
                env={"PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return [candidate]
    pytest.skip(f"no {name} that {user.pw_name} may run")


@as_root
def test_an_ordinary_user_starts_them_twice(nobody: pwd.struct_passwd, open_place: Path) -> None:
    done = subprocess.run(
        [*python_for(nobody), "-c", ROUND, str(open_place / "data")],
        check=False,
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        cwd="/",
        env={"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "done\n", done.stderr


@as_root
def test_root_goes_on_with_the_data_of_an_ordinary_user_as_that_user(nobody: pwd.struct_passwd, tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path):
        pass
    other = pwd.getpwnam("daemon")
    for path in (tmp_path / "postgres", *(tmp_path / "postgres").rglob("*")):
        os.chown(path, other.pw_uid, other.pw_gid)
    with EmbeddedServers(tmp_path) as servers:
        assert psutil.Process(servers.postgres.pid).uids().effective == other.pw_uid


@as_root
def test_programs_out_of_reach_are_copied_to_where_postgres_can_run_them(
    nobody: pwd.struct_passwd, open_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = postgres_install.directory().parent
    monkeypatch.setattr(postgres_install, "COPIES", open_place / "copies")
    monkeypatch.setattr(postgres_install, "_is_open_to_all", lambda _path: False)
    postgres_install.directory.cache_clear()
    try:
        programs = postgres_install.directory()
        assert programs.is_relative_to(open_place)
        assert not programs.is_relative_to(original)
        again = postgres_install.directory.__wrapped__()
        assert again == programs
        for name in ("initdb", "postgres"):
            shown = subprocess.check_output(
                [programs / "bin" / name, "--version"],
                text=True,
                user=nobody.pw_uid,
                group=nobody.pw_gid,
                extra_groups=[],
                env={},
            )
            assert "(PostgreSQL) 18." in shown
        assert len(list((open_place / "copies").iterdir())) == 1
    finally:
        postgres_install.directory.cache_clear()


def test_a_directory_is_open_to_all_only_if_every_one_above_it_is(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    inner.parent.chmod(0o700)
    assert not postgres_install._is_open_to_all(inner)
    assert postgres_install._is_open_to_all(Path("/usr/bin"))

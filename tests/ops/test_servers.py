"""The embedded servers: durable, private, steerable one by one, and back on the same port with the same data."""

import os
import select
import signal
import socket
import stat
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from openstream_ops.data_dir import DataDir
from openstream_ops.errors import DataDirBusy, OpsError, ServerFailed, StartCancelled
from openstream_ops.server_process import ServerProcess
from openstream_ops.servers import EmbeddedServers


def setting(database_url: str, name: str) -> str:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("select current_setting(%s)", [name]).fetchone()
    assert row is not None
    return str(row[0])


def put(servers: EmbeddedServers, value: str) -> None:
    with redis.Redis.from_url(servers.redis_url) as client:
        client.set("ops:test", value)
        client.waitaof(1, 0, 5000)  # everysec: what a SIGKILL may take is not what is tested here
    with psycopg.connect(servers.database_url) as connection:
        connection.execute("create table if not exists ops_test (value text)")
        connection.execute("delete from ops_test")
        connection.execute("insert into ops_test values (%s)", [value])


def get(servers: EmbeddedServers) -> tuple[str, str]:
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
        from_valkey = client.get("ops:test")
    with psycopg.connect(servers.database_url) as connection:
        row = connection.execute("select value from ops_test").fetchone()
    assert row is not None
    return str(from_valkey), str(row[0])


def one(servers: EmbeddedServers, key: str) -> ServerProcess:
    return {"valkey": servers.valkey, "postgres": servers.postgres}[key]


def test_valkey_is_set_up_to_keep_what_it_acknowledges(servers: EmbeddedServers) -> None:
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "bind": "127.0.0.1"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted


def test_postgres_is_set_up_to_keep_what_it_acknowledges(servers: EmbeddedServers) -> None:
    wanted = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "server_encoding": "UTF8"}
    assert {name: setting(servers.database_url, name) for name in wanted} == wanted
    assert setting(servers.database_url, "server_version").startswith("18.")


def test_nobody_gets_in_without_the_password(servers: EmbeddedServers) -> None:
    with (
        redis.Redis(port=servers.valkey.port, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()
    password = servers.state.postgres_password
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(servers.database_url.replace(password, "wrong"))


def test_both_listen_on_loopback_only(servers: EmbeddedServers) -> None:
    for server in (servers.valkey, servers.postgres):
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        listening = {
            address.laddr.ip
            for process in family
            for address in process.net_connections()
            if address.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}


def test_no_part_of_postgres_runs_as_root(servers: EmbeddedServers) -> None:
    assert psutil.Process(servers.postgres.pid).uids().effective != 0


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("key", ["valkey", "postgres"])
def test_a_server_comes_back_on_its_port_with_its_data(servers: EmbeddedServers, key: str, how: str) -> None:
    server = one(servers, key)
    put(servers, f"{key} {how}")
    before, port = server.pid, server.port
    getattr(server, how)()
    assert server.pid is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    server.start()
    assert (server.port, server.pid == before) == (port, False)
    assert get(servers) == (f"{key} {how}", f"{key} {how}")


def test_a_paused_valkey_is_silent_until_it_resumes(servers: EmbeddedServers) -> None:
    with redis.Redis.from_url(servers.redis_url, socket_timeout=0.3, retry=None) as client:
        client.ping()
        servers.valkey.pause()
        try:
            with pytest.raises(redis.TimeoutError):
                client.ping()
        finally:
            servers.valkey.resume()
        assert client.ping()


def test_a_paused_postgres_is_silent_until_it_resumes(servers: EmbeddedServers) -> None:
    connection = psycopg.pq.PGconn.connect(servers.database_url.encode())
    try:
        servers.postgres.pause()  # its workers too, which is where connections live
        connection.send_query(b"select 1")
        silent = not select.select([connection.socket], [], [], 0.3)[0]
        servers.postgres.resume()
        assert silent
        assert select.select([connection.socket], [], [], 10)[0]
    finally:
        connection.finish()


def test_a_paused_server_can_be_stopped(servers: EmbeddedServers) -> None:
    for server in (servers.valkey, servers.postgres):
        server.pause()
        server.stop()
        assert server.exit_code == 0, server.name
        server.start()


def test_options_count_from_the_next_start(servers: EmbeddedServers) -> None:
    servers.valkey.options["maxmemory"] = "64mb"
    servers.postgres.options["work_mem"] = "8MB"
    try:
        for server in (servers.valkey, servers.postgres):
            server.stop()
            server.start()
        with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
            assert client.config_get("maxmemory") == {"maxmemory": str(64 * 1024 * 1024)}
        assert setting(servers.database_url, "work_mem") == "8MB"
    finally:
        for server in (servers.valkey, servers.postgres):
            server.options.clear()
            server.stop()
            server.start()


def test_starting_a_running_server_and_stopping_a_stopped_one_change_nothing(servers: EmbeddedServers) -> None:
    before = servers.valkey.pid
    servers.valkey.start()
    assert servers.valkey.pid == before
    servers.valkey.stop()
    servers.valkey.stop()
    servers.valkey.start()


def test_a_server_that_cannot_start_says_why(servers: EmbeddedServers) -> None:
    servers.valkey.stop()
    servers.valkey.options["maxmemory"] = "plenty"
    try:
        with pytest.raises(ServerFailed, match="plenty"):
            servers.valkey.start()
    finally:
        servers.valkey.options.clear()
        servers.valkey.start()


def test_secrets_are_private_and_in_no_log_or_command_line(servers: EmbeddedServers) -> None:
    root, state = servers.data_dir.path, servers.state
    secrets = (state.valkey_password, state.postgres_password, state.jwt_secret)
    assert len(bytes.fromhex(state.jwt_secret)) >= 32
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    for path in (servers.data_dir.state_file, root / "valkey" / "valkey.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for log in servers.data_dir.logs.iterdir():
        assert not any(secret in log.read_text() for secret in secrets), log
    for server in (servers.valkey, servers.postgres):
        assert not any(secret in " ".join(psutil.Process(server.pid).cmdline()) for secret in secrets)
    assert not any(secret in repr(state) for secret in secrets)


def test_a_directory_is_used_by_one_at_a_time(servers: EmbeddedServers) -> None:
    with pytest.raises(DataDirBusy, match=str(os.getpid())):
        EmbeddedServers(servers.data_dir.path).start()


def test_the_second_start_has_the_same_ports_and_data(tmp_path: Path) -> None:
    place = tmp_path / "a 'quoted\" place"
    with EmbeddedServers(place) as first:
        put(first, "kept")
        known = first.state
    with EmbeddedServers(place) as second:
        assert second.state == known
        assert get(second) == ("kept", "kept")
    # As after a crash in the middle of the very first start, and after a restart of a container where the old pid is
    # somebody else's by now.
    (place / "postgres.new").mkdir()
    (place / "postgres" / "postmaster.pid").write_text(f"{os.getppid()}\n{place}\n")
    (place / "postgres.pid").write_text(str(os.getppid()))
    with socket.create_server(("127.0.0.1", known.valkey_port or 0)), EmbeddedServers(place) as third:
        assert third.valkey.port != known.valkey_port
        assert third.postgres.port == known.postgres_port
        assert get(third) == ("kept", "kept")


def test_servers_that_lost_launcher_and_guardian_are_replaced(tmp_path: Path) -> None:
    first = EmbeddedServers(tmp_path)
    first.start()
    put(first, "kept")
    orphans = [psutil.Process(first.valkey.pid), psutil.Process(first.postgres.pid)]
    # As if both had been killed: the guardian ends without stopping anything, the lock is free, the servers live.
    os.kill(first.guard.pid, signal.SIGKILL)
    first.guard.close()
    first.data_dir.unlock()
    with EmbeddedServers(tmp_path) as second:
        for orphan in orphans:
            assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        assert get(second) == ("kept", "kept")
    first.stop()


def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    servers = EmbeddedServers(tmp_path)
    with pytest.raises(StartCancelled):
        servers.start(cancelled=lambda: True)
    assert (servers.valkey.pid, servers.postgres.pid) == (None, None)
    DataDir(tmp_path).lock()


def test_a_damaged_state_is_told_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(OpsError, match=r"state\.json is damaged"):
        EmbeddedServers(tmp_path).start()
    assert (tmp_path / "state.json").read_text() == "{"

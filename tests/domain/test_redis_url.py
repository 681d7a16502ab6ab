"""REDIS_URL: what is understood, and what is refused with a sentence that gives nothing away."""

from __future__ import annotations

import pytest

from openstream_runtime.redis_url import Kind, read_url


def test_one_server_is_left_as_it_is() -> None:
    for url in ("redis://:p@h:1/2", "rediss://u:p@h/0?ssl_cert_reqs=none", "unix:///run/redis.sock"):
        assert (read_url(url).kind, read_url(url).server) == (Kind.SERVER, url)


def test_sentinels_their_service_and_the_login_of_the_servers() -> None:
    url = read_url("redis+sentinel://user:p%40ss@one:26380,two,[::1]:3/main/2")
    assert url.kind is Kind.SENTINEL
    assert url.hosts == (("one", 26380), ("two", 26379), ("::1", 3))
    assert url.service == "main"
    assert url.server == "redis://user:p%40ss@host:6379/2"
    assert url.sentinel_login == ()


def test_a_login_for_the_sentinels_stands_in_the_query_and_is_kept_from_the_servers() -> None:
    url = read_url("rediss+sentinel://one/main?sentinel_username=u&sentinel_password=s%2F1&ssl_ca_certs=/ca.pem")
    assert url.sentinel_login == (("username", "u"), ("password", "s/1"))
    assert url.server == "rediss://host:6379/0?ssl_ca_certs=%2Fca.pem"
    assert url.secrets == ["s/1"]


def test_a_cluster_is_some_of_its_nodes() -> None:
    url = read_url("redis+cluster://:p@one:7000,two:7001")
    assert (url.kind, url.hosts, url.service) == (Kind.CLUSTER, (("one", 7000), ("two", 7001)), "")
    assert url.server == "redis://:p@host:6379/0"
    assert read_url("redis+cluster://one?client_name=x").server == "redis://host:6379/0?client_name=x"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://h", "begins with"),
        ("127.0.0.1:6379", "begins with"),
        ("redis+nothing://h/main", "begins with"),
        ("redis+sentinel://h:1,k:2", "names no service"),
        ("redis+sentinel://h:1/", "names no service"),
        ("redis+sentinel://h:1/main/x", "more than"),
        ("redis+sentinel://h:1/main/0/0", "more than"),
        ("redis+sentinel://h:1,/main", "host:port"),
        ("redis+sentinel:///main", "host:port"),
        ("redis+sentinel://h:port/main", "host:port"),
        ("redis+cluster://h:99999", "host:port"),
        ("redis+cluster://h/1", "no database"),
    ],
)
def test_anything_else_is_refused(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_url(url)


@pytest.mark.parametrize("url", ["redis+sentinel://u:hunter2@h:x/main", "redis+cluster://u:hunter2@h/7", "x://hunter2"])
def test_no_password_is_in_what_is_said_or_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        read_url(url)
    assert "hunter2" not in str(refused.value)
    shown = repr(read_url("redis+sentinel://u:hunter2@h/main?sentinel_password=hunter3"))
    assert "hunter" not in shown

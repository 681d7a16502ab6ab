"""REDIS_URL taken apart: one server, Sentinels that know which server it is, or a cluster. Pure: nothing is looked up.

redis://[user:pass@]host:port/db                 rediss:// with TLS, unix:// for a socket
redis+sentinel://[user:pass@]host:port,host:port/service[/db]
redis+cluster://[user:pass@]host:port,host:port  both also as rediss+…, then every connection has TLS
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

SENTINEL_PORT, CLUSTER_PORT = 26379, 6379
SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_SENTINEL_LOGIN = ("sentinel_username", "sentinel_password")


class Kind(StrEnum):
    """What stands at the address."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """Where Redis is. What may hold a password is not shown."""

    kind: Kind
    #: As redis-py reads it. Where servers are found, its host stands for the one that was found.
    server: str = field(repr=False)
    #: The Sentinels, or some nodes of the cluster.
    hosts: tuple[tuple[str, int], ...] = ()
    #: What the Sentinels call the primary and its replicas.
    service: str = ""
    #: `username` and `password` for the Sentinels, where they ask for them.
    sentinel_login: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def secrets(self) -> list[str]:
        """What must never be written anywhere, beside the URL itself."""
        return [value for name, value in self.sentinel_login if name == "password"]


def read_url(url: str) -> RedisUrl:
    """Take a URL apart; ValueError with a sentence that holds nothing of it."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"expected a URL that begins with {', '.join(f'{one}://' for one in SCHEMES)}")
    tls, _, kind = scheme.partition("+")
    if not kind:
        return RedisUrl(Kind.SERVER, url)
    # urlsplit reads one host; several stand between the login and the path.
    authority, slash, path = rest.partition("/")
    if not slash:
        authority, question, query = authority.partition("?")
        path = question + query
    login, at, hosts = authority.rpartition("@")
    parts = urlsplit(f"{tls}://host/{path}")
    segments = [unquote(one) for one in parts.path.split("/") if one]
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    sentinel_login = tuple(
        (name.removeprefix("sentinel_"), options.pop(name)) for name in _SENTINEL_LOGIN if name in options
    )
    service = ""
    if kind == Kind.SENTINEL:
        if not segments:
            raise ValueError("the path names no service: redis+sentinel://host:port,host:port/service")
        service = segments.pop(0)
    database = segments.pop(0) if segments else "0"
    if segments or not database.isdecimal():
        raise ValueError("the path holds more than " + ("a service and a database" if service else "a database"))
    if kind == Kind.CLUSTER and int(database):
        raise ValueError("a cluster has no database but 0")
    return RedisUrl(
        Kind(kind),
        f"{tls}://{login}{at}host:{CLUSTER_PORT}/{database}" + (f"?{urlencode(options)}" if options else ""),
        tuple(_host(one, SENTINEL_PORT if kind == Kind.SENTINEL else CLUSTER_PORT) for one in hosts.split(",")),
        service,
        sentinel_login,
    )


def _host(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text.strip()}")
        if not parts.hostname or parts.path or parts.query:
            raise ValueError
        return parts.hostname, parts.port or port
    except ValueError:
        raise ValueError("expected host:port,host:port between the login and the path") from None

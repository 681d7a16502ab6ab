"""Every setting of a node, read from the environment once. The only reader of `os.environ` in the runtime.

The names of the user's first version stand as they are; ours begin with `OPENSTREAM_`. README.md shows this table to
people, and a test holds the two together.
"""

from __future__ import annotations

import ipaddress
import math
import secrets
import socket
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from openstream_runtime.domain.topics import MAX_PARTITIONS
from openstream_runtime.export import PREFIX, Export
from openstream_runtime.redis_url import read_url

MIN_SECRET_BYTES = 32
#: Secrets that stand in documents and examples, ours and other people's.
_WELL_KNOWN = ("dev-admin-secret", "changeme", "change-me", "secret", "password", "admin", "dev-secret", "your-secret")


class SettingsError(Exception):
    """The environment does not make a node. `problems`: one plain sentence each, no values of secrets in them."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


def _split(text: Any) -> Any:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if isinstance(text, str) else text


def _url(*schemes: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"expected a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    return AfterValidator(check)


def _redis(value: SecretStr) -> SecretStr:
    read_url(value.get_secret_value())
    return value


def _web(value: str) -> str:
    """A link for people: never one that a browser would run."""
    if not value.startswith(("http://", "https://")):
        raise ValueError("expected a URL that begins with http:// or https://")
    return value


Link = Annotated[str, AfterValidator(_web)]


class Settings(BaseSettings):
    """What a node is told. Durations are milliseconds, sizes are bytes, as the names say."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True, env_ignore_empty=True)

    # Backends. The URLs hold passwords, so they are secrets too.
    redis_url: Annotated[SecretStr, AfterValidator(_redis)] = Field(validation_alias="REDIS_URL")
    database_url: Annotated[SecretStr, _url("postgresql", "postgres")] = Field(validation_alias="DATABASE_URL")

    # Who may come in.
    auth_jwt_secret: SecretStr = Field(validation_alias="AUTH_JWT_SECRET")
    auth_jwt_issuer: str = Field("openstream", validation_alias="AUTH_JWT_ISSUER", min_length=1)
    auth_jwt_audience: str = Field("openstream", validation_alias="AUTH_JWT_AUDIENCE", min_length=1)
    #: Mints tokens at POST /v1/auth/token. None: that route is off.
    auth_admin_secret: SecretStr | None = Field(None, validation_alias="AUTH_ADMIN_SECRET")
    cors_allow_origins: Annotated[tuple[str, ...], NoDecode] = Field((), validation_alias="CORS_ALLOW_ORIGINS")
    #: Set by `openstream dev`: known secrets are accepted, and only on a loopback address.
    dev: bool = Field(False, validation_alias="OPENSTREAM_DEV")

    # Where it listens.
    host: str = Field("127.0.0.1", validation_alias="OPENSTREAM_HOST")
    port: int = Field(8000, validation_alias="OPENSTREAM_PORT", ge=0, le=65535)
    node_id: str = Field("", validation_alias="OPENSTREAM_NODE_ID", pattern=r"^[A-Za-z0-9._-]{0,100}$")

    # Topics.
    partitions_default: int = Field(8, validation_alias="PARTITIONS_DEFAULT", ge=1, le=MAX_PARTITIONS)
    retention_ms: int = Field(3_600_000, validation_alias="OPENSTREAM_RETENTION_MS", ge=0)

    # Limits.
    max_body_bytes: int = Field(8 << 20, validation_alias="MAX_BODY_BYTES", ge=1024, le=256 << 20)
    backpressure_max_stream_len: int = Field(200_000, validation_alias="BACKPRESSURE_MAX_STREAM_LEN", ge=1)
    backpressure_max_unpersisted: int = Field(100_000, validation_alias="OPENSTREAM_MAX_UNPERSISTED", ge=1)
    backpressure_redis_memory: float = Field(0.9, validation_alias="OPENSTREAM_MAX_REDIS_MEMORY", gt=0, le=1)
    mailbox_bytes: int = Field(32 << 20, validation_alias="OPENSTREAM_MAILBOX_BYTES", ge=1 << 20)
    max_requests: int = Field(10_000, validation_alias="OPENSTREAM_MAX_REQUESTS", ge=1)
    max_connections: int = Field(10_000, validation_alias="OPENSTREAM_MAX_CONNECTIONS", ge=1, le=1_000_000)

    #: Of a partition, so that what is repeated is known: see domain.producers.Memory.
    max_producers: int = Field(10_000, validation_alias="OPENSTREAM_MAX_PRODUCERS", ge=1)
    max_event_ids: int = Field(50_000, validation_alias="OPENSTREAM_MAX_EVENT_IDS", ge=1)

    # Durations.
    producer_ms: int = Field(86_400_000, validation_alias="OPENSTREAM_PRODUCER_MS", ge=60_000, le=2_592_000_000)
    event_id_ms: int = Field(600_000, validation_alias="OPENSTREAM_EVENT_ID_MS", ge=1_000, le=2_592_000_000)
    lease_ms: int = Field(5_000, validation_alias="OPENSTREAM_LEASE_MS", ge=500, le=300_000)
    claim_idle_ms: int = Field(60_000, validation_alias="OPENSTREAM_CLAIM_IDLE_MS", ge=100)
    consumer_idle_ms: int = Field(3_600_000, validation_alias="OPENSTREAM_CONSUMER_IDLE_MS", ge=1_000)
    grace_ms: int = Field(8_000, validation_alias="OPENSTREAM_GRACE_MS", ge=1_000, le=600_000)
    startup_ms: int = Field(60_000, validation_alias="OPENSTREAM_STARTUP_MS", ge=1_000)

    #: Replicas that must have an event before `ack: "replicated"` is answered.
    ack_replicas: int = Field(1, validation_alias="OPENSTREAM_ACK_REPLICAS", ge=0, le=16)
    log_level: str = Field("info", validation_alias="OPENSTREAM_LOG_LEVEL", pattern=r"^(debug|info|warning|error)$")
    #: `auto`: readable on a terminal, JSON elsewhere.
    log_format: Literal["auto", "json", "console"] = Field("auto", validation_alias="OPENSTREAM_LOG_FORMAT")

    # Where the dashboard links to.
    grafana_url: Link | None = Field(None, validation_alias="OPENSTREAM_GRAFANA_URL")
    prometheus_url: Link | None = Field(None, validation_alias="OPENSTREAM_PROMETHEUS_URL")

    #: The standard variables of OpenTelemetry as they are (export.py); there may be secrets in them.
    otel: Mapping[str, str] = Field({}, validation_alias="OTEL_*", repr=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # from_env hands the environment in, so a test can hand in another

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **overrides: Any) -> Settings:
        """Settings from environment variables; `overrides` (by field name, None ignored) win over them.

        Raises SettingsError with every problem at once.
        """
        aliases = {str(field.validation_alias): name for name, field in cls.model_fields.items()}
        values: dict[str, Any] = {name: environ[alias] for alias, name in aliases.items() if environ.get(alias)}
        if "cors_allow_origins" in values:
            values["cors_allow_origins"] = _split(values["cors_allow_origins"])
        values["otel"] = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
        values |= {name: value for name, value in overrides.items() if value is not None}
        if not values.get("node_id"):
            # A fresh id each start: two processes on one host must never share one, and leases outlive neither.
            values["node_id"] = f"{socket.gethostname().split('.')[0][:80]}-{secrets.token_hex(4)}"
        try:
            settings = cls(**values)
        except ValidationError as error:
            names = {field: alias for alias, field in aliases.items()}
            problems = [line for one in error.errors(include_input=False) for line in _sentences(one, names)]
            if any(one["loc"] for one in error.errors(include_input=False)):
                # Then the settings as a whole were never looked at; what can be said of them is said too.
                raw = {
                    name: str(values.get(name) or "")
                    for name in ("dev", "host", "auth_jwt_secret", "auth_admin_secret")
                }
                problems += _problems_of_access(
                    dev=raw["dev"].lower() in {"1", "true", "yes", "on", "t", "y"},
                    host=raw["host"] or cls.model_fields["host"].default,
                    jwt_secret=raw["auth_jwt_secret"] or None,
                    admin_secret=raw["auth_admin_secret"] or None,
                    origins=values.get("cors_allow_origins") or (),
                )
        else:
            return settings
        # Outside the `except`: that error's text shows what was put in, secrets too, and would travel as the context.
        raise SettingsError(problems)

    @field_validator("otel")
    @classmethod
    def _refuse_unknown_exports(cls, otel: Mapping[str, str]) -> Mapping[str, str]:
        Export.of(otel)
        return otel

    @model_validator(mode="after")
    def _refuse_weak_access(self) -> Settings:
        problems = _problems_of_access(
            dev=self.dev,
            host=self.host,
            jwt_secret=self.auth_jwt_secret.get_secret_value(),
            admin_secret=None if self.auth_admin_secret is None else self.auth_admin_secret.get_secret_value(),
            origins=self.cors_allow_origins,
        )
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _problems_of_access(
    *, dev: bool, host: str, jwt_secret: str | None, admin_secret: str | None, origins: Sequence[str]
) -> list[str]:
    problems = []
    if "*" in origins:
        problems.append("CORS_ALLOW_ORIGINS names exact origins; `*` is refused")
    if dev:
        if not _is_loopback(host):
            problems.append(f"OPENSTREAM_DEV accepts known secrets, so it listens on loopback only, not {host}")
        if jwt_secret is not None and len(jwt_secret.encode()) < MIN_SECRET_BYTES:
            problems.append(f"AUTH_JWT_SECRET has fewer than {MIN_SECRET_BYTES} bytes")
        return problems
    for name, secret in (("AUTH_JWT_SECRET", jwt_secret), ("AUTH_ADMIN_SECRET", admin_secret)):
        if secret is not None and (weakness := weakness_of(secret)):
            problems.append(f"{name} {weakness}")
    return problems


def weakness_of(secret: str) -> str | None:
    """Why a secret is refused outside `openstream dev`, or None."""
    if any(known in secret.lower() for known in _WELL_KNOWN[:3]) or secret.lower() in _WELL_KNOWN:
        return "is a known default; make one with: openssl rand -base64 48"
    if len(secret.encode()) < MIN_SECRET_BYTES:
        return f"has fewer than {MIN_SECRET_BYTES} bytes; make one with: openssl rand -base64 48"
    entropy = -sum(n * math.log2(n) for n in (secret.count(c) / len(secret) for c in set(secret)))
    if entropy < 2.5:  # `aaaa…`, `abababab…`, `12341234…`; hex has 4 bits a character, words about 4
        return "repeats itself; make one with: openssl rand -base64 48"
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _sentences(error: Any, names: Mapping[str, str]) -> list[str]:
    field = str(error["loc"][0]) if error["loc"] else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    name = names.get(field, field)
    if error["type"] == "missing":
        return [f"{name} is not set"]
    if field == "otel":
        return message.splitlines()  # each names its own variable
    return [f"{name}: {message}"] if name else message.splitlines()

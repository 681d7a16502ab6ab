"""A node's edge for tests: settings that pass, tokens, a client that speaks, numbers that are written down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from quart import Quart, Response

from openstream_http.auth import Role
from openstream_http.edge import Edge
from openstream_runtime.domain.events import Delivery
from openstream_runtime.settings import Settings

JWT_SECRET = "k8Jq2vZ0aPwX7mB4rT6yN1cD9eF3gH5j"
ADMIN_SECRET = "Qw3rT5yU7iO9pA1sD2fG4hJ6kL8zX0cV"
ORIGIN = "http://localhost:3000"


def settings_of(**changes: Any) -> Settings:
    """Settings of a node whose backends nobody dials."""
    values: dict[str, Any] = {"cors_allow_origins": (ORIGIN,), "auth_admin_secret": ADMIN_SECRET} | changes
    environ = {
        "REDIS_URL": "redis://127.0.0.1:1",
        "DATABASE_URL": "postgresql://127.0.0.1:1",
        "AUTH_JWT_SECRET": JWT_SECRET,
    }
    return Settings.from_env(environ, **values)


@dataclass
class FakeClock:
    """Stands still until it is moved. Milliseconds since the epoch, and seconds."""

    ms: int = 1_800_000_000_000
    seconds: float = 1_000.0

    def monotonic(self) -> float:
        return self.seconds

    def now_ms(self) -> int:
        return self.ms

    def move(self, seconds: float) -> None:
        self.seconds += seconds
        self.ms += int(seconds * 1000)


@dataclass
class FakeMeter:
    """Writes down what the edge counts."""

    requests: list[tuple[str, str, int]] = field(default_factory=list)
    ingests: list[str] = field(default_factory=list)
    rejections: list[str] = field(default_factory=list)
    delays: list[tuple[str, str, list[int]]] = field(default_factory=list)

    def http_request(self, method: str, path: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((method, path, status))

    def delivery_delay(self, topic: str, group: str, deliveries: Sequence[Delivery], now_ms: int) -> None:
        self.delays.append((topic, group, [now_ms - one.event.position.ms for one in deliveries]))

    def ingest_request(self, status: str) -> None:
        self.ingests.append(status)

    def rejected(self, reason: str) -> None:
        self.rejections.append(reason)


class EdgeClient:
    """Requests through Quart's test client, as one role after another."""

    def __init__(self, app: Quart) -> None:
        self.app = app
        self._client = app.test_client()

    def token(self, role: Role = Role.ADMIN, *, topics: list[str] | None = None, ttl_s: int = 600) -> str:
        edge: Edge = self.app.extensions["openstream"]
        return edge.verifier.mint("tester", role, ttl_s, topics)

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        role: Role | None = Role.ADMIN,
        topics: list[str] | None = None,
        headers: dict[str, str] | None = None,
        media: str | None = "application/json",
    ) -> Answer:
        """`body`: bytes as they are, anything else as JSON. `role` None: without a token."""
        head = dict(headers or {})
        if role is not None:
            head.setdefault("Authorization", f"Bearer {self.token(role, topics=topics)}")
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            if media is not None:
                head.setdefault("Content-Type", media)
        response = await self._client.open(path, method=method, headers=head, data=data)  # type: ignore[call-arg]
        return Answer(response, await response.get_data(as_text=False))

    async def get(self, path: str, **how: Any) -> Answer:
        return await self.send("GET", path, **how)

    async def post(self, path: str, body: Any = None, **how: Any) -> Answer:
        return await self.send("POST", path, body, **how)

    async def put(self, path: str, body: Any = None, **how: Any) -> Answer:
        return await self.send("PUT", path, body, **how)

    async def delete(self, path: str, **how: Any) -> Answer:
        return await self.send("DELETE", path, **how)


class Answer:
    """A response that has been read."""

    def __init__(self, response: Response, body: bytes) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.body = body

    def json(self, shape: Any = Any) -> Any:
        """The body, which must be of `shape`."""
        return msgspec.json.decode(self.body, type=shape)

    def problem(self, status: int, slug: str) -> dict[str, Any]:
        """The body as the problem it must be."""
        assert self.status == status, (self.status, self.body)
        assert self.headers["Content-Type"] == "application/problem+json", self.headers
        found: dict[str, Any] = self.json()
        assert found["type"] == f"/problems/{slug}", found
        assert found["status"] == status
        assert found["title"]
        assert found["detail"]
        return found

    def wrong_at(self, *loc: str | int) -> str:
        """The message of the 422 that points at `loc`."""
        found = self.problem(422, "invalid-request")
        assert found["errors"][0]["loc"] == list(loc), found
        message: str = found["errors"][0]["msg"]
        return message

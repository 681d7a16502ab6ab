"""HTTP to nodes, as a client sees it: any node will do, and an answer says what became of the request."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx2

# What is raised before a byte of the request has left: the request was not taken.
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
# A connection idle for longer is not used again. Less than a node takes to say goodbye before it closes what is idle:
# who sends on a connection that is being closed does not learn what became of it.
KEPT_S = 0.5
# How long a node that refused a connection is passed over.
AVOID_S = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, if anything did."""

    #: None: no answer.
    status: int | None
    body: bytes = b""
    #: False only when the request, definitely, never reached a node.
    sent: bool = True
    retry_after_s: float = 0.0
    error: str = ""

    def __str__(self) -> str:
        return self.error or f"{self.status} {self.body[:300].decode(errors='replace')}"


class Nodes:
    """Base URLs of nodes that all serve everything. One of them is chosen at random for each request.

    `urls` may be changed while it is in use. A node that refuses connections is passed over for a moment.
    """

    def __init__(self, urls: Sequence[str], token: str, *, seed: int = 0) -> None:
        self.urls = list(urls)
        self._random = random.Random(seed)
        self._avoid: dict[str, float] = {}
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEPT_S),
            trust_env=False,  # nobody's proxy has a business here
        )

    async def __aenter__(self) -> Nodes:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def post(
        self, path: str, content: bytes, *, timeout: float, headers: Mapping[str, str] | None = None
    ) -> Answer:
        return await self.request("POST", path, content, timeout=timeout, headers=headers)

    async def request(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        *,
        timeout: float = 10.0,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request to one node, never repeated. Every failure of the transport is an Answer too."""
        url = self._choose()
        try:
            limits = httpx2.Timeout(timeout, connect=min(timeout, 2.0))
            answer = await self._client.request(method, url + path, content=content, timeout=limits, headers=headers)
        except _NOT_SENT as error:
            self._avoid[url] = time.monotonic() + AVOID_S
            return Answer(None, sent=False, retry_after_s=0.05, error=f"{type(error).__name__} at {url}")
        except httpx2.RequestError as error:
            return Answer(None, error=f"{type(error).__name__} at {url}: {error}")
        return Answer(answer.status_code, answer.content, retry_after_s=_seconds(answer.headers.get("Retry-After")))

    def _choose(self) -> str:
        now = time.monotonic()
        good = [url for url in self.urls if self._avoid.get(url, 0.0) <= now]
        return self._random.choice(good or self.urls)


def _seconds(retry_after: str | None) -> float:
    try:
        return max(0.0, float(retry_after or 0))
    except ValueError:
        return 0.0

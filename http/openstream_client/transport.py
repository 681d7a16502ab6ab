"""HTTP to any of several nodes: who is asked, when another one is asked instead, and which error a failure becomes.

A request that may have reached a node and is not repeatable is never sent twice: its failure is OutcomeUnknown.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from openstream_client import tracing
from openstream_client.errors import (
    ClientError,
    OutcomeUnknown,
    Rejected,
    Unavailable,
    Unreachable,
    is_unanswered,
    of_answer,
)

#: Shorter than the 5 s after which a node closes an idle connection: a write on one that is just being closed would
#: end with an unknown outcome.
IDLE_CONNECTION_S = 3.0
JSON = "application/json"

Params = Mapping[str, str | int | float | None]


class Transport:
    """One connection pool over the base URLs of one cluster. It stays with the node that answered last."""

    def __init__(
        self,
        urls: Sequence[str],
        token: str | None,
        *,
        timeout: float,
        connections: int = 100,
        http: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        if not urls:
            raise ValueError("at least one URL is needed")
        self._urls = [url.rstrip("/") for url in urls]
        self._at = 0
        self._timeout = timeout
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=timeout,
            transport=http,
            limits=httpx2.Limits(max_connections=connections, keepalive_expiry=IDLE_CONNECTION_S),
            # A .netrc would replace our Authorization, and a proxy for the internet has no business between nodes.
            trust_env=False,
        )

    @property
    def url(self) -> str:
        """The node that is asked first now."""
        return self._urls[self._at]

    @property
    def urls(self) -> Sequence[str]:
        return tuple(self._urls)

    async def close(self) -> None:
        await self._http.aclose()

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool,
        wait: float = 0.0,
    ) -> httpx2.Response:
        """The answer, when it is one of success. `wait`: seconds the node may take on purpose before it answers."""
        timeout = httpx2.Timeout(self._timeout, read=self._timeout + wait)
        trouble: ClientError | None = None
        for _ in self._urls:
            request = self._request(method, path, body, params, timeout, headers)
            try:
                answer = await self._http.send(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
                trouble = self._unreachable(error)  # nothing was sent: the next node may have it
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise Rejected(f"{self.url} is not a URL of a node: {error}") from error
            except httpx2.TransportError as error:
                trouble = self._unreachable(error) if repeatable else self._unanswered(_named(error))
            else:
                if answer.is_success:
                    return answer
                trouble = of_answer(answer.status_code, answer.headers, answer.content)
                if is_unanswered(trouble):
                    said = f"status {answer.status_code} of a proxy"
                    trouble = self._unreachable(said) if repeatable else self._unanswered(said)
                elif not isinstance(trouble, Unavailable):
                    raise trouble
            # Whoever asks next, asks another one.
            self._next()
            if isinstance(trouble, OutcomeUnknown):
                raise trouble
        raise trouble or Unreachable()

    @asynccontextmanager
    async def stream(
        self, path: str, *, params: Params | None = None, accept: str
    ) -> AsyncGenerator[httpx2.Response, None]:
        """An answer whose body is read as it comes. A body that breaks off raises Unreachable to whoever reads it."""
        timeout = httpx2.Timeout(self._timeout)
        request = self._request("GET", path, None, params, timeout)
        request.headers["accept"] = accept
        try:
            answer = await self._http.send(request, stream=True)
            try:
                if not answer.is_success:
                    raise of_answer(answer.status_code, answer.headers, await answer.aread())
                yield answer
            finally:
                await answer.aclose()
        except httpx2.TransportError as error:
            trouble = self._unreachable(error)
            self._next()
            raise trouble from error
        except Unavailable:
            self._next()
            raise

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None,
        params: Params | None,
        timeout: httpx2.Timeout,
        more: Mapping[str, str] | None = None,
    ) -> httpx2.Request:
        headers: dict[str, str] = {**tracing.current(), **(more or {})}
        if body is not None:
            headers["content-type"] = JSON
        given: dict[str, Any] = {name: value for name, value in (params or {}).items() if value is not None}
        return self._http.build_request(
            method, self.url + path, content=body, params=given, headers=headers, timeout=timeout
        )

    def _unreachable(self, error: Exception | str) -> Unreachable:
        return Unreachable(f"cannot reach {self.url} ({_named(error)})")

    def _unanswered(self, why: str) -> OutcomeUnknown:
        return OutcomeUnknown(f"{self.url} did not answer ({why}); the request may have been done, or not")

    def _next(self) -> None:
        self._at = (self._at + 1) % len(self._urls)


def _named(error: Exception | str) -> str:
    """What an error of the HTTP library says; some say nothing but their name."""
    return str(error) or type(error).__name__

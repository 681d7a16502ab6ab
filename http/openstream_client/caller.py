"""One request, one typed answer, and the paths of the contract. What can be asked is in calls.py and group_calls.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from openstream_client.errors import ServerFault
from openstream_client.transport import Params, Transport

T = TypeVar("T")


class Caller:
    """Speaks through a transport, in records."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def _call(
        self,
        shape: type[T],
        method: str,
        path: str,
        wish: Any = None,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
        wait: float = 0.0,
    ) -> T:
        body = wish if wish is None or isinstance(wish, bytes) else msgspec.json.encode(wish)
        answer = await self._transport.send(
            method, path, body=body, params=params, headers=headers, repeatable=repeatable, wait=wait
        )
        try:
            return msgspec.json.decode(answer.content, type=shape)
        except msgspec.DecodeError as error:
            detail = f"{self._transport.url} answered what this client does not understand: {error}"
            raise ServerFault(detail, status=answer.status_code) from error


def topic_path(topic: str) -> str:
    return f"/v1/topics/{quoted(topic)}"


def group_path(topic: str, group: str) -> str:
    return f"{topic_path(topic)}/groups/{quoted(group)}"


def history_path(topic: str, partition: int | None) -> str:
    path = topic_path(topic)
    return f"{path}/events" if partition is None else f"{path}/partitions/{partition}/events"


def quoted(name: str) -> str:
    # `..` would walk up the path in some HTTP library or proxy; the node refuses the escaped form by its name rule.
    return "%2E" * len(name) if name in {".", ".."} else quote(name, safe="")


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}

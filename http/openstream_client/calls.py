"""One method for each thing a node can be asked: one request, one answer. What lasts longer is in client.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from openstream_client import models, tracing
from openstream_client.errors import ServerFault
from openstream_client.transport import Params, Transport

T = TypeVar("T")
Events = models.Event | Mapping[str, Any] | Iterable[models.Event | Mapping[str, Any]]


class _Topics(msgspec.Struct):
    topics: list[models.Topic]


class _GroupName(msgspec.Struct):
    group: str


class _Groups(msgspec.Struct):
    groups: list[_GroupName]


class _Replays(msgspec.Struct):
    replays: list[models.Replay]


class Calls:
    """The HTTP contract, typed."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    # ---- topics

    async def create_topic(
        self,
        topic: str,
        *,
        partitions: int | None = None,
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
        history_ms: int | None = None,
        max_stream_len: int | None = None,
    ) -> models.Topic:
        """Create a topic or set its settings: what is left out goes back to its default."""
        wish = _given(
            partitions=partitions,
            retention_ms=retention_ms,
            retention_bytes=retention_bytes,
            history_ms=history_ms,
            max_stream_len=max_stream_len,
        )
        return await self._call(models.Topic, "PUT", _topic(topic), wish)

    async def topics(self) -> list[models.Topic]:
        return (await self._call(_Topics, "GET", "/v1/topics")).topics

    async def topic(self, topic: str) -> models.Topic:
        return await self._call(models.Topic, "GET", _topic(topic))

    async def delete_topic(self, topic: str) -> None:
        await self._transport.send("DELETE", _topic(topic), repeatable=True)

    # ---- produce

    async def produce(
        self, topic: str, events: Events, *, partitions: int | None = None, ack: str = "appended"
    ) -> models.Produced:
        """Append one event or up to 5000, in order. One request, sent once: OutcomeUnknown when its answer is lost."""
        if isinstance(events, models.Event | Mapping):
            events = [events]
        wanted = [tracing.traced(as_event(event)) for event in events]
        return await self.produce_raw(topic, [msgspec.json.encode(event) for event in wanted], partitions, ack)

    async def produce_raw(
        self, topic: str, events: Sequence[bytes], partitions: int | None = None, ack: str = "appended"
    ) -> models.Produced:
        """As `produce`, with events that are JSON already."""
        more = b"" if partitions is None else b',"partitions":%d' % partitions
        body = b'{"events":[%b],"ack":%b%b}' % (b",".join(events), msgspec.json.encode(ack), more)
        return await self._call(models.Produced, "POST", f"{_topic(topic)}/events", body, repeatable=False)

    # ---- groups

    async def create_group(
        self, topic: str, group: str, *, start_id: str | None = None, start_ms: int | None = None
    ) -> models.GroupMade:
        """From `$` (only what comes from now on, the default), `0-0` (everything kept), an id, or a time."""
        wish = _given(group=group, start_id=start_id, start_ms=start_ms)
        return await self._call(models.GroupMade, "POST", f"{_topic(topic)}/groups", wish)

    async def groups(self, topic: str) -> list[str]:
        return [one.group for one in (await self._call(_Groups, "GET", f"{_topic(topic)}/groups")).groups]

    async def group(self, topic: str, group: str) -> models.Group:
        return await self._call(models.Group, "GET", _group(topic, group))

    async def delete_group(self, topic: str, group: str) -> None:
        await self._transport.send("DELETE", _group(topic, group), repeatable=True)

    async def reset_group(
        self,
        topic: str,
        group: str,
        *,
        start_id: str | None = None,
        start_ms: int | None = None,
        partitions: Sequence[int] | None = None,
    ) -> models.ResetDone:
        """Move a group; what it had pending is dropped and counted."""
        wish = _given(start_id=start_id, start_ms=start_ms, partitions=partitions)
        return await self._call(models.ResetDone, "POST", f"{_group(topic, group)}/reset", wish)

    async def preview_reset(
        self,
        topic: str,
        group: str,
        *,
        start_id: str | None = None,
        start_ms: int | None = None,
        partitions: Sequence[int] | None = None,
    ) -> models.ResetPreview:
        """What a reset would do. A node that knows no `dry_run` refuses the field, so it never resets by mistake."""
        wish = _given(start_id=start_id, start_ms=start_ms, partitions=partitions, dry_run=True)
        return await self._call(models.ResetPreview, "POST", f"{_group(topic, group)}/reset", wish)

    async def read(
        self,
        topic: str,
        group: str,
        consumer: str,
        *,
        count: int = 100,
        block_ms: int = 1_000,
        partitions: Sequence[int] | None = None,
    ) -> list[models.Kept]:
        """Up to `count` events for this consumer, waiting up to `block_ms` for the first."""
        wish = _given(consumer=consumer, count=count, block_ms=block_ms, partitions=partitions)
        path = f"{_group(topic, group)}/read"
        return (await self._call(models.Delivered, "POST", path, wish, wait=block_ms / 1000)).events

    async def ack(self, topic: str, group: str, ids: Mapping[int, Sequence[str]]) -> int:
        """Acknowledge ids by partition; how many were pending until now. Acking twice is no error."""
        items = [{"partition": partition, "redis_ids": list(some)} for partition, some in ids.items()]
        return (await self._call(models.Acked, "POST", f"{_group(topic, group)}/ack", {"items": items})).acked

    async def claim(
        self, topic: str, group: str, consumer: str, *, min_idle_ms: int = 60_000, count: int = 100
    ) -> list[models.Kept]:
        """Take over what other consumers hold for longer than `min_idle_ms`."""
        wish = _given(consumer=consumer, min_idle_ms=min_idle_ms, count=count)
        return (await self._call(models.Delivered, "POST", f"{_group(topic, group)}/claim", wish)).events

    # ---- history and replays

    async def history(
        self,
        topic: str,
        *,
        partition: int | None = None,
        from_id: str | None = None,
        to_id: str | None = None,
        from_ms: int | None = None,
        to_ms: int | None = None,
        limit: int | None = None,
        key: str | None = None,
        event_type: str | None = None,
    ) -> models.Page:
        """A page of what is kept, of one partition or of all."""
        params: Params = {
            "from_id": from_id, "to_id": to_id, "from_ms": from_ms, "to_ms": to_ms, "limit": limit, "key": key,
            "event_type": event_type,
        }  # fmt: skip
        return await self._call(models.Page, "GET", history_path(topic, partition), params=params)

    async def start_replay(
        self,
        topic: str,
        target_topic: str,
        *,
        from_ms: int | None = None,
        to_ms: int | None = None,
        from_id: str | None = None,
        to_id: str | None = None,
        partitions: Sequence[int] | None = None,
        rate_per_s: float | None = None,
    ) -> models.Replay:
        """Copy a range, or everything that is kept, into `target_topic`. Never sent twice: it would copy twice."""
        body = _given(
            target_topic=target_topic,
            from_ms=from_ms,
            to_ms=to_ms,
            from_id=from_id,
            to_id=to_id,
            partitions=partitions,
            rate_per_s=rate_per_s,
        )
        return await self._call(models.Replay, "POST", f"{_topic(topic)}/replays", body, repeatable=False)

    async def replays(self) -> list[models.Replay]:
        return (await self._call(_Replays, "GET", "/v1/replays")).replays

    async def replay(self, replay_id: str) -> models.Replay:
        return await self._call(models.Replay, "GET", f"/v1/replays/{_quoted(replay_id)}")

    async def cancel_replay(self, replay_id: str) -> None:
        await self._transport.send("DELETE", f"/v1/replays/{_quoted(replay_id)}", repeatable=True)

    # ---- tokens and watching

    async def mint_token(
        self, sub: str, role: str, admin_secret: str, *, ttl_s: int = 3_600, topics: Sequence[str] | None = None
    ) -> models.Token:
        wish = _given(sub=sub, role=role, admin_secret=admin_secret, ttl_s=ttl_s, topics=topics)
        return await self._call(models.Token, "POST", "/v1/auth/token", wish)

    async def summary(self) -> dict[str, Any]:
        return await self._call(dict[str, Any], "GET", "/v1/metrics/summary")

    async def cluster(self) -> dict[str, Any]:
        return await self._call(dict[str, Any], "GET", "/v1/cluster")

    async def clock(self) -> float:
        """The node's clock in seconds since 1970, as its Date header has it: to the second."""
        from email.utils import parsedate_to_datetime

        answer = await self._transport.send("GET", "/livez", repeatable=True)
        return parsedate_to_datetime(answer.headers["date"]).timestamp()

    async def readiness(self) -> str:
        """Which conditions the node checked; Unavailable when one does not hold."""
        return (await self._transport.send("GET", "/readyz", params={"verbose": ""}, repeatable=True)).text

    async def _call(
        self,
        shape: type[T],
        method: str,
        path: str,
        wish: Any = None,
        *,
        params: Params | None = None,
        repeatable: bool = True,
        wait: float = 0.0,
    ) -> T:
        body = wish if wish is None or isinstance(wish, bytes) else msgspec.json.encode(wish)
        answer = await self._transport.send(method, path, body=body, params=params, repeatable=repeatable, wait=wait)
        try:
            return msgspec.json.decode(answer.content, type=shape)
        except msgspec.DecodeError as error:
            detail = f"{self._transport.url} answered what this client does not understand: {error}"
            raise ServerFault(detail, status=answer.status_code) from error


def as_event(event: models.Event | Mapping[str, Any]) -> models.Event:
    """The event itself, or the one a mapping describes; a misspelt field raises."""
    return event if isinstance(event, models.Event) else models.Event(**event)


def history_path(topic: str, partition: int | None) -> str:
    return f"{_topic(topic)}/events" if partition is None else f"{_topic(topic)}/partitions/{partition}/events"


def _topic(topic: str) -> str:
    return f"/v1/topics/{_quoted(topic)}"


def _group(topic: str, group: str) -> str:
    return f"{_topic(topic)}/groups/{_quoted(group)}"


def _quoted(name: str) -> str:
    # `..` would walk up the path in some HTTP library or proxy; the node refuses the escaped form by its name rule.
    return "%2E" * len(name) if name in {".", ".."} else quote(name, safe="")


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}

"""One method for each thing a node can be asked: one request, one answer. What lasts longer is in client.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from openstream_client import models, tracing
from openstream_client.caller import given, history_path, quoted, topic_path
from openstream_client.errors import OutcomeUnknown
from openstream_client.group_calls import GroupCalls
from openstream_client.numbering import Stamp
from openstream_client.transport import Params

Events = models.Event | Mapping[str, Any] | Iterable[models.Event | Mapping[str, Any]]


class _Topics(msgspec.Struct):
    topics: list[models.Topic]


class _Replays(msgspec.Struct):
    replays: list[models.Replay]


class Calls(GroupCalls):
    """The HTTP contract, typed."""

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
        wish = given(
            partitions=partitions,
            retention_ms=retention_ms,
            retention_bytes=retention_bytes,
            history_ms=history_ms,
            max_stream_len=max_stream_len,
        )
        return await self._call(models.Topic, "PUT", topic_path(topic), wish)

    async def topics(self) -> list[models.Topic]:
        return (await self._call(_Topics, "GET", "/v1/topics")).topics

    async def topic(self, topic: str) -> models.Topic:
        return await self._call(models.Topic, "GET", topic_path(topic))

    async def delete_topic(self, topic: str) -> None:
        await self._transport.send("DELETE", topic_path(topic), repeatable=True)

    # ---- produce

    async def produce(
        self,
        topic: str,
        events: Events,
        *,
        partitions: int | None = None,
        ack: str = "appended",
        stamp: Stamp | None = None,
    ) -> models.Produced:
        """Append one event or up to 5000, in order. One request, sent once: OutcomeUnknown when its answer is lost.

        When every event has an `event_id`, a lost answer is asked for once more, for the node knows those. With a
        `stamp` you may send the same again yourself until it is answered; `producer()` does all of that for you.
        """
        if isinstance(events, models.Event | Mapping):
            events = [events]
        wanted = [tracing.traced(as_event(event)) for event in events]
        encoded = [msgspec.json.encode(event) for event in wanted]
        try:
            return await self.produce_raw(topic, encoded, partitions, ack, stamp)
        except OutcomeUnknown:
            if any(event.event_id is None for event in wanted):
                raise
        return await self.produce_raw(topic, encoded, partitions, ack, stamp)

    async def produce_raw(
        self,
        topic: str,
        events: Sequence[bytes],
        partitions: int | None = None,
        ack: str = "appended",
        stamp: Stamp | None = None,
    ) -> models.Produced:
        """As `produce`, with events that are JSON already. Sent once, whatever becomes of it."""
        more = b"" if partitions is None else b',"partitions":%d' % partitions
        body = b'{"events":[%b],"ack":%b%b}' % (b",".join(events), msgspec.json.encode(ack), more)
        headers = None if stamp is None else stamp.headers()
        path = f"{topic_path(topic)}/events"
        return await self._call(models.Produced, "POST", path, body, headers=headers, repeatable=False)

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
        body = given(
            target_topic=target_topic,
            from_ms=from_ms,
            to_ms=to_ms,
            from_id=from_id,
            to_id=to_id,
            partitions=partitions,
            rate_per_s=rate_per_s,
        )
        return await self._call(models.Replay, "POST", f"{topic_path(topic)}/replays", body, repeatable=False)

    async def replays(self) -> list[models.Replay]:
        return (await self._call(_Replays, "GET", "/v1/replays")).replays

    async def replay(self, replay_id: str) -> models.Replay:
        return await self._call(models.Replay, "GET", f"/v1/replays/{quoted(replay_id)}")

    async def cancel_replay(self, replay_id: str) -> None:
        await self._transport.send("DELETE", f"/v1/replays/{quoted(replay_id)}", repeatable=True)

    # ---- tokens and watching

    async def mint_token(
        self, sub: str, role: str, admin_secret: str, *, ttl_s: int = 3_600, topics: Sequence[str] | None = None
    ) -> models.Token:
        wish = given(sub=sub, role=role, admin_secret=admin_secret, ttl_s=ttl_s, topics=topics)
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


def as_event(event: models.Event | Mapping[str, Any]) -> models.Event:
    """The event itself, or the one a mapping describes; a misspelt field raises."""
    return event if isinstance(event, models.Event) else models.Event(**event)

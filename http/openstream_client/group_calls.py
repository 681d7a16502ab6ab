"""What can be asked about consumer groups: their settings, their events, their dead letters."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from openstream_client import models
from openstream_client.caller import Caller, given, group_path, topic_path
from openstream_client.transport import Params

#: Seconds a redrive may take on purpose before it answers.
REDRIVE_S = 5.0
#: Ids by partition.
Ids = Mapping[int, Sequence[str]]


class _GroupName(msgspec.Struct):
    group: str


class _Groups(msgspec.Struct):
    groups: list[_GroupName]


class GroupCalls(Caller):
    """Groups, typed."""

    # ---- groups and their settings

    async def create_group(
        self,
        topic: str,
        group: str,
        *,
        start_id: str | None = None,
        start_ms: int | None = None,
        visibility: str | None = None,
        max_deliveries: int | None = None,
        claim_idle_ms: int | None = None,
        dead_letter_topic: str | None = None,
        paused: bool | None = None,
    ) -> models.GroupMade:
        """From `$` (only what comes from now on, the default), `0-0` (everything kept), an id, or a time."""
        wish = given(
            group=group,
            start_id=start_id,
            start_ms=start_ms,
            visibility=visibility,
            max_deliveries=max_deliveries,
            claim_idle_ms=claim_idle_ms,
            dead_letter_topic=dead_letter_topic,
            paused=paused,
        )
        return await self._call(models.GroupMade, "POST", f"{topic_path(topic)}/groups", wish)

    async def alter_group(
        self,
        topic: str,
        group: str,
        *,
        max_deliveries: int | UnsetType | None = UNSET,
        claim_idle_ms: int | UnsetType | None = UNSET,
        dead_letter_topic: str | UnsetType | None = UNSET,
        paused: bool | UnsetType = UNSET,
    ) -> models.GroupSettings:
        """Change what is named; None takes a setting back to its default."""
        wish = {
            "max_deliveries": max_deliveries,
            "claim_idle_ms": claim_idle_ms,
            "dead_letter_topic": dead_letter_topic,
            "paused": paused,
        }
        changes = {name: value for name, value in wish.items() if value is not UNSET}
        return await self._call(models.GroupSettings, "PATCH", group_path(topic, group), changes)

    async def pause_group(self, topic: str, group: str) -> models.GroupSettings:
        """From now on it hands out nothing."""
        return await self.alter_group(topic, group, paused=True)

    async def resume_group(self, topic: str, group: str) -> models.GroupSettings:
        return await self.alter_group(topic, group, paused=False)

    async def groups(self, topic: str) -> list[str]:
        return [one.group for one in (await self._call(_Groups, "GET", f"{topic_path(topic)}/groups")).groups]

    async def group(self, topic: str, group: str) -> models.Group:
        return await self._call(models.Group, "GET", group_path(topic, group))

    async def delete_group(self, topic: str, group: str) -> None:
        await self._transport.send("DELETE", group_path(topic, group), repeatable=True)

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
        wish = given(start_id=start_id, start_ms=start_ms, partitions=partitions)
        return await self._call(models.ResetDone, "POST", f"{group_path(topic, group)}/reset", wish)

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
        wish = given(start_id=start_id, start_ms=start_ms, partitions=partitions, dry_run=True)
        return await self._call(models.ResetPreview, "POST", f"{group_path(topic, group)}/reset", wish)

    # ---- events

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
        wish = given(consumer=consumer, count=count, block_ms=block_ms, partitions=partitions)
        path = f"{group_path(topic, group)}/read"
        return (await self._call(models.Delivered, "POST", path, wish, wait=block_ms / 1000)).events

    async def ack(self, topic: str, group: str, ids: Ids) -> int:
        """Acknowledge ids by partition; how many were pending until now. Acking twice is no error."""
        wish = {"items": _items(ids)}
        return (await self._call(models.Acked, "POST", f"{group_path(topic, group)}/ack", wish)).acked

    async def nack(
        self, topic: str, group: str, ids: Ids, *, delay_ms: int = 0, consumer: str | None = None
    ) -> models.Nacked:
        """Give events back: they are handed out again after the delay. `consumer`: only what it still holds."""
        wish = {"items": _items(ids), **given(delay_ms=delay_ms or None, consumer=consumer)}
        return await self._call(models.Nacked, "POST", f"{group_path(topic, group)}/nack", wish)

    async def extend(self, topic: str, group: str, consumer: str, ids: Ids) -> models.Extended:
        """Say that this consumer still works on them: the time it may hold them begins anew."""
        wish = {"consumer": consumer, "items": _items(ids)}
        return await self._call(models.Extended, "POST", f"{group_path(topic, group)}/extend", wish)

    async def claim(
        self, topic: str, group: str, consumer: str, *, min_idle_ms: int = 60_000, count: int = 100
    ) -> list[models.Kept]:
        """Take over what other consumers hold for longer than `min_idle_ms`."""
        wish = given(consumer=consumer, min_idle_ms=min_idle_ms, count=count)
        return (await self._call(models.Delivered, "POST", f"{group_path(topic, group)}/claim", wish)).events

    # ---- dead letters

    async def dead_letters(
        self, topic: str, group: str, *, limit: int | None = None, from_id: str | None = None
    ) -> models.DeadLetters:
        """A page of what the group gave up on. It may be empty and have a `next_id`."""
        params: Params = {"limit": limit, "from_id": from_id}
        return await self._call(models.DeadLetters, "GET", f"{group_path(topic, group)}/dead-letters", params=params)

    async def redrive(
        self,
        topic: str,
        group: str,
        *,
        to: str = "group",
        ids: Sequence[str] | None = None,
        from_id: str | None = None,
    ) -> models.Redriven:
        """Send dead letters back, those of `ids` or, without ids, all; each goes once, however often it is asked for.

        One request does what it can in some seconds: while there is a `next_id`, go on from it.
        """
        wish = given(to=to, ids=ids, all=True if ids is None else None, from_id=from_id)
        path = f"{group_path(topic, group)}/dead-letters/redrive"
        return await self._call(models.Redriven, "POST", path, wish, wait=REDRIVE_S)

    async def redrive_all(self, topic: str, group: str, *, to: str = "group") -> AsyncGenerator[models.Redriven, None]:
        """`redrive` of all, request after request until nothing is left; what each has done."""
        next_id: str | None = None
        while True:
            done = await self.redrive(topic, group, to=to, from_id=next_id)
            yield done
            next_id = done.next_id
            if next_id is None:
                return


def _items(ids: Ids) -> list[dict[str, object]]:
    return [{"partition": partition, "redis_ids": list(some)} for partition, some in ids.items()]

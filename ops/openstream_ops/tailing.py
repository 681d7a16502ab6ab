"""Events as they come, without a group. The summary says which partitions have moved, and only those are read."""

from __future__ import annotations

import time

from openstream_client.client import OpenStream
from openstream_client.errors import Retryable
from openstream_client.models import Kept
from openstream_ops.asking import Stop
from openstream_ops.consuming import line_of
from openstream_ops.output import Output
from openstream_ops.sums import stats_of

POLL_S = 0.5
PAGE = 1_000
#: The id before the first one.
NOTHING = "0-0"


class Tail:
    """One tail of one topic, from its last known id on in each partition."""

    def __init__(self, client: OpenStream, topic: str, *, key: str | None, event_type: str | None) -> None:
        self._client = client
        self._topic = topic
        self._key = key
        self._event_type = event_type
        #: By partition: from which id on to read, and whether that one itself has been looked at.
        self._at: dict[int, tuple[str, bool]] = {}

    async def run(self, stop: Stop, output: Output, *, from_ms: int | None, limit: int | None) -> None:
        await self._client.topic(self._topic)  # one that is not there is an error and not silence
        printed = 0
        if from_ms is None:
            self._at = {partition: (last, True) for partition, last in (await self._last_ids()).items()}
            from_ms = int(time.time() * 1000)
        while True:
            try:
                for event in await self._more(from_ms):
                    output.lines([line_of(self._topic, event, output)])
                    printed += 1
                    if printed == limit:
                        return
            except Retryable as trouble:
                if not await stop.pause(max(POLL_S, trouble.retry_after or 0.0)):
                    return
            if not await stop.pause(POLL_S):
                return

    async def _last_ids(self) -> dict[int, str]:
        stats = stats_of(await self._client.summary(), self._topic)
        return {one["partition"]: str(one["last_id"]) for one in stats}

    async def _more(self, from_ms: int) -> list[Kept]:
        """What is new in the partitions that moved, up to a page of each."""
        found: list[Kept] = []
        for partition, last in (await self._last_ids()).items():
            at, looked_at = self._at.get(partition, (NOTHING, False))
            if _order(last) < _order(at) or (looked_at and last == at):
                continue
            page = await self._client.history(
                self._topic,
                partition=partition,
                from_id=at if at != NOTHING else None,
                from_ms=from_ms if partition not in self._at else None,
                limit=PAGE,
                key=self._key,
                event_type=self._event_type,
            )
            found += [event for event in page.events if not (looked_at and event.redis_id == at)]
            if page.next_id is not None:
                self._at[partition] = (page.next_id, False)
            else:
                self._at[partition] = (max([last, *(event.redis_id for event in page.events)], key=_order), True)
        return sorted(found, key=lambda event: _order(event.redis_id))


def _order(redis_id: str) -> tuple[int, int]:
    ms, _, seq = redis_id.partition("-")
    return int(ms or 0), int(seq or 0)

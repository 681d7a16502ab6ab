"""Topics, histories that change, events, rounds, in any order: what must be there is, and what is outlived goes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from openstream_runtime.domain.history import Span
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import Topic, TopicSettings
from openstream_runtime.ports.store import Committed
from openstream_runtime.store import open_store
from openstream_runtime.store.partitions import DAY_MS
from support.store_harness import RealUnderTest, batch, event, taken

pytestmark = pytest.mark.anyio
HOUR = DAY_MS // 24
HISTORIES = [None, HOUR, DAY_MS, 3 * DAY_MS + 1, 10 * DAY_MS]


@dataclass
class Known:
    """A topic, and what a reader may count on."""

    topic: Topic
    history_ms: int | None
    written: list[int] = field(default_factory=list)
    #: Below it some round has found everything outlived.
    outlived: int = 0

    def has_round(self, now: int) -> None:
        if self.history_ms is not None:
            self.outlived = max(self.outlived, now - self.history_ms)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens(store: RealUnderTest, seed: int) -> None:
    chance = random.Random(seed)
    now = 100 * DAY_MS
    topics: list[Known] = []
    for number in range(3):
        history_ms = chance.choice(HISTORIES)
        settings = TopicSettings(history_ms=history_ms)
        topics.append(Known((await store.catalog.create_topic(f"t{number}", 1, settings))[0], history_ms))
    dropped = 0
    async with open_store(store.database_url) as one, open_store(store.database_url) as two:
        for _ in range(60):
            known = chance.choice(topics)
            match chance.choice(["write", "write", "alter", "wait", "round"]):
                case "write":
                    times = sorted({now - chance.randrange(HOUR) for _ in range(3)} - set(known.written))
                    times = [ms for ms in times if not known.written or ms > known.written[-1]]
                    cursor = await taken(store, known.topic)
                    mine = batch(known.topic, cursor, [event(ms) for ms in times])
                    assert await chance.choice([one, two]).events.write([mine]) == [Committed()]
                    known.written += times
                case "alter":
                    known.history_ms = chance.choice(HISTORIES)
                    await store.catalog.alter_topic(known.topic.name, TopicSettings(history_ms=known.history_ms))
                case "wait":
                    now += chance.choice([HOUR, DAY_MS, 2 * DAY_MS])
                case "round":
                    dropped += await chance.choice([one, two]).maintain(now - chance.choice([0, 0, HOUR]))
                    for each in topics:
                        each.has_round(now)
            for each in topics:
                page = await store.history.page(each.topic.id, 0, Span(), count=1000, max_bytes=1 << 20)
                seen = [found.position.ms for found in page.events]
                assert seen == [ms for ms in each.written if Position(ms, 0) >= page.floor], "whole from the floor on"
                assert set(seen) >= {ms for ms in each.written if ms >= each.outlived}, "nothing went too early"
        for each in topics:
            each.history_ms = each.history_ms or DAY_MS
            await store.catalog.alter_topic(each.topic.name, TopicSettings(history_ms=each.history_ms))
        now += 30 * DAY_MS
        dropped += await one.maintain(now)
    assert dropped > 0
    assert await store.query("SELECT count(*) FROM openstream.event_log") == [(0,)], (
        "in the end everything is outlived, and gone"
    )

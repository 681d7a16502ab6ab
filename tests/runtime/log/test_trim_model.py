"""Whatever owners, strangers and producers do in whatever order: Redis does as the model says, and the model keeps
every event after the cursor.

FakeLog is the model. Positions differ between the two, so each is named by its place in the order of appends.
"""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openstream_runtime.domain.errors import LeaseLost
from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.topics import Topic
from openstream_runtime.log import RedisLog
from openstream_runtime.ports.groups import GroupRead
from openstream_runtime.ports.log import Appended
from support.fake_log import FakeLog
from support.log_harness import Log, append_one, at, cursor, events, new_topic

pytestmark = pytest.mark.anyio
OWNER, STALE = "owner:1", "stale:1"

number = st.integers(0, 40)
step = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 8), st.integers(1, 30)),
    st.tuples(st.just("mark"), number, st.one_of(st.none(), st.integers(0, 9)), st.one_of(st.none(), number)),
    st.tuples(st.just("stale"), number, number),
    st.tuples(st.just("verify"), number),
    st.tuples(st.just("read"), st.integers(1, 10)),
    st.tuples(st.just("release"), number, st.booleans()),
    st.tuples(st.just("ack"), number),
    st.tuples(st.just("claim"), st.integers(1, 10)),
    st.tuples(st.just("reset"), number),
    st.tuples(st.just("nack"), number, st.sampled_from([0, 10**7])),
    st.tuples(st.just("extend"), number),
    st.tuples(st.just("reap"), st.integers(1, 10)),
    st.tuples(st.just("bury"), st.integers(1, 5)),
)
MOST = 3  # deliveries


class Run:
    """One log doing the steps; what it saw, in terms that do not depend on its clock."""

    def __init__(self, log: Log, topic: Topic) -> None:
        self.log, self.topic = log, topic
        self.positions: list[Position] = []
        #: How far PostgreSQL has it: the highest cursor that was ever committed.
        self.committed = 0

    def position(self, index: int) -> Position:
        """Of the n-th event, 1 for the first; 0 stands before all of them."""
        return self.positions[min(index, len(self.positions)) - 1] if index and self.positions else ZERO

    def index(self, position: Position) -> int:
        return self.positions.index(position) + 1 if position != ZERO else 0

    async def do(self, name: str, *args: Any) -> object:
        return await getattr(self, name)(*args)

    async def append(self, count: int, bound: int) -> object:
        outcome = await append_one(self.log, self.topic, events(count), max_unpersisted=bound)
        if isinstance(outcome, Appended):
            self.positions += outcome.positions
            return len(outcome.positions)
        return outcome

    async def mark(self, index: int, count: int | None, below: int | None) -> object:
        self.committed = max(self.committed, min(index, len(self.positions)))
        trim_below = None if below is None else self.position(below)
        return await self.log.events.mark_persisted(
            at(self.topic), OWNER, self.position(index), count=count, trim_below=trim_below
        )

    async def stale(self, index: int, below: int) -> None:
        with pytest.raises(LeaseLost):
            await self.log.events.mark_persisted(
                at(self.topic), STALE, self.position(index), count=1, trim_below=self.position(below)
            )

    async def verify(self, index: int) -> None:
        self.committed = max(self.committed, min(index, len(self.positions)))
        await self.log.events.verify(self.topic, 0, cursor(self.position(index)))

    async def read(self, count: int) -> object:
        found = await self.log.groups.read(self.topic.name, "g", "c", [0], count=count, max_deliveries=MOST)
        tails = {partition: self.index(tail) for partition, tail in found.tails.items()}
        if found.cold is None:
            return self.told(found), tails
        # PostgreSQL would have everything up to there.
        cold = self.index(found.cold.after), self.index(found.cold.upto)
        assert cold[0] < cold[1] <= self.committed
        upto = min(cold[1], cold[0] + count)
        positions = self.positions[cold[0] : upto]
        moved = await self.log.groups.advance(self.topic.name, "g", "c", found.cold, positions, positions[-1])
        return self.told(found), tails, cold, moved

    async def claim(self, count: int) -> object:
        claimed = await self.log.groups.claim(
            self.topic.name, "g", "c", [0], min_idle_ms=0, count=count, max_deliveries=MOST
        )
        return self.told(claimed)

    async def nack(self, index: int, delay_ms: int) -> object:
        items = {0: [self.position(index)]}
        return await self.log.groups.nack(self.topic.name, "g", items, delay_ms=delay_ms, max_deliveries=MOST)

    async def extend(self, index: int) -> object:
        return bool(await self.log.groups.extend(self.topic.name, "g", "c", {0: [self.position(index)]}))

    async def reap(self, count: int) -> object:
        return await self.log.groups.release_idle(
            self.topic.name, "g", 0, min_idle_ms=0, count=count, max_deliveries=MOST
        )

    async def bury(self, count: int) -> object:
        dead = await self.log.groups.dead(self.topic.name, "g", 0, count=count)
        return await self.log.groups.bury(self.topic.name, "g", 0, dead)

    def told(self, found: GroupRead) -> object:
        assert not (found.cold and found.deliveries)
        assert all(one.deliveries <= MOST for one in found.stubs)
        assert all(one.deliveries <= MOST for one in found.deliveries)
        return [(self.index(one.position), one.deliveries) for one in found.stubs], [
            (self.index(one.event.position), one.deliveries) for one in found.deliveries
        ]

    async def reset(self, index: int) -> object:
        placed = await self.log.groups.set_position(self.topic.name, "g", {0: str(self.position(index))})
        return {partition: self.index(one) for partition, one in placed.positions.items()}, placed.dropped

    async def release(self, index: int, undelivered: bool) -> object:
        items = {0: [self.position(index)]}
        return await self.log.groups.release(self.topic.name, "g", "c", items, undelivered=undelivered)

    async def ack(self, index: int) -> object:
        return await self.log.groups.ack(self.topic.name, "g", {0: [self.position(index)]})

    async def look(self) -> object:
        held = await self.log.events.read_after(at(self.topic), ZERO, count=10_000)
        kept = [self.index(one.position) for one in held]
        after = list(range(self.committed + 1, len(self.positions) + 1))
        assert kept[len(kept) - len(after) :] == after, "an event after the cursor is gone"
        [stats] = await self.log.events.stats([at(self.topic)])
        [group] = stats.groups
        [described] = await self.log.groups.describe(self.topic.name, "g", [0])
        lows = await self.log.groups.lows([at(self.topic)])
        edges = await self.log.events.edges(at(self.topic))
        dead = await self.log.groups.dead(self.topic.name, "g", 0, count=10_000)
        return (
            [(self.index(one.position), one.deliveries, one.reason, one.held, one.event is None) for one in dead],
            kept,
            (stats.unpersisted, stats.persisted_count, self.index(stats.persisted), self.index(edges.trimmed)),
            (group.pending, self.index(group.last_delivered), described.pending),
            (self.index(described.last_delivered), described.cold_upto is not None),
            {name: self.below(low.position) for name, low in lows[0].items()},
        )

    async def lag(self) -> int | None:
        [described] = await self.log.groups.describe(self.topic.name, "g", [0])
        return described.lag

    def below(self, position: Position) -> int:
        """How many of the events stand at or below it."""
        return sum(one <= position for one in self.positions)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(step, min_size=1, max_size=25))
async def test_redis_and_the_model_agree_and_nothing_after_the_cursor_is_trimmed(log: RedisLog, steps: Any) -> None:
    topic = new_topic()
    topic = Topic(topic.id, f"{topic.name}-{secrets.token_hex(4)}", 1)
    runs = [Run(log, topic), Run(FakeLog(), topic)]
    for run in runs:
        await run.log.events.verify(topic, 0, cursor())
        await run.log.groups.create(topic.name, "g", {0: "0-0"})
        assert await run.log.leases.acquire(at(topic), OWNER, 600_000)
    for name, *args in steps:
        real, model = [await run.do(name, *args) for run in runs]
        assert real == model, (name, args)
        real, model = [await run.look() for run in runs]
        assert real == model, (name, args)
        lag, true_lag = [await run.lag() for run in runs]
        # Redis does not know where in the stream a group began that was put into its middle.
        assert lag == true_lag or lag is None, (name, args)

"""Owners that take, write, repeat, come late and lose answers, in any order, against a model of what must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anyio.from_thread
import pytest
from anyio.from_thread import BlockingPortal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from openstream_runtime.domain.errors import OutcomeUnknown
from openstream_runtime.domain.events import StoredEvent
from openstream_runtime.domain.positions import ZERO, Cursor, Position
from openstream_runtime.ports.store import Committed, FencedOff, PersistBatch
from support.store_harness import FakeUnderTest, StoreUnderTest, batch, event, new_topic, real_store

OWNERS = st.sampled_from(["a", "b", "c"])
PARTITIONS = st.integers(0, 1)


class Owners(RuleBasedStateMachine):
    """The model: an epoch, a cursor and the events of each partition; what every owner believes of them."""

    store: StoreUnderTest
    portal: BlockingPortal

    def call(self, function: Callable[..., Any], *values: Any) -> Any:
        return self.portal.call(function, *values)

    @initialize()
    def begin(self) -> None:
        self.topic = self.call(new_topic, self.store, 2)
        self.cursors = {number: Cursor(0, 0, ZERO) for number in range(2)}
        self.stored: dict[int, list[StoredEvent]] = {0: [], 1: []}
        self.quarantined: dict[int, list[Position]] = {0: [], 1: []}
        self.believed: dict[tuple[str, int], Cursor] = {}
        self.written: list[PersistBatch] = []
        self.serial = 0

    @rule(owner=OWNERS, partition=PARTITIONS)
    def take(self, owner: str, partition: int) -> None:
        cursor = self.cursors[partition]
        expected = cursor._replace(epoch=cursor.epoch + 1)
        assert self.call(self.store.events.take, self.topic.id, partition, owner) == expected
        self.cursors[partition] = self.believed[owner, partition] = expected

    @rule(owner=OWNERS, partition=PARTITIONS)
    def look(self, owner: str, partition: int) -> None:
        """As after an unknown outcome: the position is read anew, the epoch is the owner's own."""
        cursor = self.call(self.store.events.cursor, self.topic.id, partition)
        assert cursor == self.cursors[partition]
        if (owner, partition) in self.believed:
            self.believed[owner, partition] = cursor._replace(epoch=self.believed[owner, partition].epoch)

    @rule(
        owner=OWNERS,
        partitions=st.sets(PARTITIONS, min_size=1),
        steps=st.lists(st.sampled_from([(0, 1), (1, 0), (3, 2)]), max_size=4),
        poisoned=st.booleans(),
        gap=st.booleans(),
    )
    def write(self, owner: str, partitions: set[int], steps: list[tuple[int, int]], poisoned: bool, gap: bool) -> None:
        batches = []
        for partition in sorted(partitions):
            if (cursor := self.believed.get((owner, partition))) is None:
                continue
            position, events = cursor.position, []
            for ms, seq in steps:
                position = Position(position.ms + ms, position.seq + seq if ms == 0 else seq)
                self.serial += 1
                events.append(event(*position, event_type=f"{owner}-{self.serial}"))
            if poisoned and events:
                events[0] = event(*events[0].position, payload=b"\xff")
            upto = Position(position.ms + 1, 0) if gap else None
            batches.append(batch(self.topic, cursor, events, partition=partition, upto=upto))
        self.send(batches, owner)

    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """A delayed packet, a retry of somebody who does not know: it must never be written a second time."""
        if self.written:
            self.send([data.draw(st.sampled_from(self.written))], None)

    def send(self, batches: list[PersistBatch], owner: str | None) -> None:
        expected: list[Committed | FencedOff] = []
        for one in batches:
            cursor = self.cursors[one.partition]
            if (one.epoch, one.generation, one.after) != cursor:
                expected.append(FencedOff())
                continue
            bad = [kept.position for kept in one.events if kept.payload == b"\xff"]
            expected.append(Committed(quarantined=len(bad)))
            self.quarantined[one.partition] += bad
            self.stored[one.partition] += [kept for kept in one.events if kept.payload != b"\xff"]
            self.cursors[one.partition] = cursor._replace(position=one.upto)
            if owner is not None:
                self.believed[owner, one.partition] = self.cursors[one.partition]
        try:
            assert self.call(self.store.events.write, batches) == expected
        except OutcomeUnknown:
            # Only when the fake was told to lose the answer; it has committed, as the model has.
            assert isinstance(self.store, FakeUnderTest)
        self.written += batches

    @rule()
    def lose_the_next_answer(self) -> None:
        if isinstance(self.store, FakeUnderTest) and not self.store.store.trouble.lost_commits:
            self.store.store.trouble.lost_commits.append(True)

    @invariant()
    def what_is_stored_is_what_the_model_has(self) -> None:
        for partition in range(2):
            rows = self.call(self.store.rows, self.topic.id, partition)
            assert rows == [(0, kept) for kept in self.stored[partition]]
            found = self.call(self.store.quarantined, self.topic.id, partition)
            assert [position for position, _ in found] == self.quarantined[partition]
            count = len(self.stored[partition]) + len(self.quarantined[partition])
            assert self.call(self.store.count, self.topic.id, partition) == count


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with anyio.from_thread.start_blocking_portal("asyncio") as portal:
        yield portal


def run(store: StoreUnderTest, portal: BlockingPortal, examples: int) -> None:
    machine = type("Machine", (Owners,), {"store": store, "portal": portal})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_owners_on_the_fake_never_lose_double_or_reorder(portal: BlockingPortal) -> None:
    run(FakeUnderTest(), portal, 60)


def test_owners_on_postgresql_never_lose_double_or_reorder(portal: BlockingPortal, database_url: str) -> None:
    with portal.wrap_async_context_manager(real_store(database_url)) as store:
        run(store, portal, 6)

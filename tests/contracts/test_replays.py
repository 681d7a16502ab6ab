"""What every Replays does, in memory as on PostgreSQL: leases, fences, progress that never goes back."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import pytest

from openstream_runtime.domain.positions import ZERO, Position
from openstream_runtime.domain.replays import NewReplay, Part, Replay, ReplayState
from support.fake_store import FakeStore
from support.store_harness import (
    FakeUnderTest,
    StoreUnderTest,
    batch,
    event,
    new_topic,
    own_database,
    real_store,
    taken,
)

pytestmark = pytest.mark.anyio
LONG, SHORT = 60_000, 150


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["fake", "postgresql"])
async def store(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[StoreUnderTest]:
    if request.param == "fake":
        fake = FakeUnderTest()
        fake.store = FakeStore(lambda: 1_700_000_000_000 + int(anyio.current_time() * 1000))
        fake.events, fake.catalog, fake.replays = fake.store.events, fake.store.catalog, fake.store.replays
        yield fake
    else:
        # A database of its own: whoever takes a replay takes any.
        async with (
            own_database(request.getfixturevalue("database_url")) as url,
            real_store(url) as real,
        ):
            yield real


def wish(*parts: Part, **changes: object) -> NewReplay:
    new = NewReplay(
        id=f"rp_{secrets.token_hex(6)}",
        source_id=1,
        source="orders",
        target_id=2,
        target="copy",
        target_partitions=3,
        first=Position(5, 0),
        last=None,
        rate_per_s=2.5,
        total=70,
        parts=parts or (part(0), part(2)),
    )
    return replace(new, **changes)  # type: ignore[arg-type]


def part(number: int, *, done: int = 4, copied: int = 0, **marks: int) -> Part:
    at = {int(target[1:]): Position(ms, 0) for target, ms in marks.items()}
    return Part(number, Position(4, 9), Position(90, 7), max(Position(4, 9), Position(done, 0)), copied, at)


async def owned(store: StoreUnderTest, lease_ms: int = LONG) -> Replay:
    await store.replays.create(wish())
    found = await store.replays.take("me", lease_ms)
    assert found is not None
    return found


async def state(store: StoreUnderTest, replay: Replay) -> Replay:
    found = await store.replays.find(replay.id)
    assert found is not None
    return found


async def test_a_new_one_is_as_it_was_asked_for(store: StoreUnderTest) -> None:
    new = wish()
    made = await store.replays.create(new)
    assert (made.id, made.source_id, made.source, made.target_id, made.target) == (new.id, 1, "orders", 2, "copy")
    assert (made.first, made.last, made.rate_per_s, made.total) == (Position(5, 0), None, 2.5, 70)
    assert (made.state, made.copied, made.owner, made.epoch, made.error) == (ReplayState.RUNNING, 0, None, 0, None)
    assert (list(made.parts), made.target_partitions) == ([part(0), part(2)], 3)
    assert made.created_ms == made.updated_ms
    assert made.finished_ms is None
    assert await store.replays.find(new.id) == made
    assert await store.replays.find("rp_unknown") is None


async def test_all_are_listed_newest_first_and_without_parts(store: StoreUnderTest) -> None:
    made = [await store.replays.create(wish(first=None, rate_per_s=None, total=None)) for _ in range(3)]
    assert await store.replays.all() == [replace(one, parts=[]) for one in reversed(made)]


async def test_each_is_taken_by_one_and_the_oldest_first(store: StoreUnderTest) -> None:
    made = [await store.replays.create(wish()) for _ in range(3)]
    found = [await store.replays.take(owner, LONG) for owner in "abcd"]
    assert [(one.id, one.owner, one.epoch) if one else None for one in found] == [
        *((one.id, owner, 1) for one, owner in zip(made, "abc", strict=True)),
        None,
    ]


async def test_one_whose_owner_is_silent_is_taken_over_and_the_old_owner_is_fenced_off(store: StoreUnderTest) -> None:
    old = await owned(store, SHORT)
    assert await store.replays.take("other", LONG) is None
    new: Replay | None = None
    with anyio.fail_after(10):
        while (new := await store.replays.take("other", LONG)) is None:  # noqa: ASYNC110 (the lease is the server's)
            await anyio.sleep(0.02)
    assert (new.id, new.owner, new.epoch) == (old.id, "other", 2)
    assert await store.replays.progress(old.id, old.epoch, [part(0, done=50)], rate=1, lease_ms=LONG) is None
    await store.replays.end(old.id, old.epoch, ReplayState.FAILED, error="I think so")
    assert not await store.replays.settle(old.id, old.epoch)
    await store.replays.release(old.id, old.epoch)
    assert await store.replays.take("third", LONG) is None
    assert await state(store, new) == new


async def test_progress_is_written_down_holds_the_lease_and_is_what_the_next_owner_begins_with(
    store: StoreUnderTest,
) -> None:
    mine = await owned(store, SHORT)
    moved = part(2, done=60, copied=20, t0=60, t2=58)
    assert await store.replays.progress(mine.id, mine.epoch, [moved], rate=7.5, lease_ms=LONG) is ReplayState.RUNNING
    await anyio.sleep(2 * SHORT / 1000)
    assert await store.replays.take("other", LONG) is None
    now = await state(store, mine)
    assert (now.copied, now.rate, list(now.parts)) == (20, 7.5, [part(0), moved])
    await store.replays.release(mine.id, mine.epoch)
    following = await store.replays.take("other", LONG)
    assert following is not None
    assert (following.copied, list(following.parts), following.rate) == (20, [part(0), moved], 0)


async def test_a_part_never_goes_back(store: StoreUnderTest) -> None:
    mine = await owned(store)
    further, back = part(0, done=60, copied=20, t1=60), part(0, done=50, copied=15, t1=50)
    for one in (further, back):
        assert await store.replays.progress(mine.id, mine.epoch, [one], rate=1, lease_ms=LONG) is ReplayState.RUNNING
    assert list((await state(store, mine)).parts) == [further, part(2)]


async def test_one_that_is_done_has_its_total_and_needs_settling(store: StoreUnderTest) -> None:
    mine = await owned(store)
    assert not await store.replays.settle(mine.id, mine.epoch), "it runs"
    await store.replays.progress(mine.id, mine.epoch, [part(0, copied=3)], rate=9, lease_ms=LONG)
    await store.replays.end(mine.id, mine.epoch, ReplayState.DONE, error=None)
    done = await state(store, mine)
    assert (done.state, done.copied, done.total, done.rate, done.error) == (ReplayState.DONE, 3, 3, 0, None)
    assert done.finished_ms is not None
    await store.replays.release(mine.id, mine.epoch)
    again = await store.replays.take("other", LONG)
    assert again is not None
    assert again.state is ReplayState.DONE
    await store.replays.end(again.id, again.epoch, ReplayState.FAILED, error="no")
    assert await store.replays.settle(again.id, again.epoch)
    assert not await store.replays.settle(again.id, again.epoch)
    assert await store.replays.take("third", LONG) is None
    last = await state(store, mine)
    assert (last.state, last.owner, last.error, last.finished_ms) == (ReplayState.DONE, None, None, done.finished_ms)


async def test_one_that_failed_says_why_and_keeps_its_total(store: StoreUnderTest) -> None:
    mine = await owned(store)
    await store.replays.end(mine.id, mine.epoch, ReplayState.FAILED, error="the topic is gone")
    failed = await state(store, mine)
    assert (failed.state, failed.error, failed.total) == (ReplayState.FAILED, "the topic is gone", 70)


async def test_a_cancelled_one_stays_so_and_its_owner_hears_of_it(store: StoreUnderTest) -> None:
    mine = await owned(store)
    done = await store.replays.cancel(mine.id)
    assert done is not None
    assert (done[0].state, done[1]) == (ReplayState.CANCELLED, True)
    again = await store.replays.cancel(mine.id)
    assert again is not None
    assert (again[0].state, again[1]) == (ReplayState.CANCELLED, False)
    assert await store.replays.cancel("rp_unknown") is None
    heard = await store.replays.progress(mine.id, mine.epoch, [part(0, copied=2)], rate=5, lease_ms=LONG)
    assert heard is ReplayState.CANCELLED
    await store.replays.end(mine.id, mine.epoch, ReplayState.DONE, error=None)
    assert await store.replays.settle(mine.id, mine.epoch)
    last = await state(store, mine)
    assert (last.state, last.copied, last.total, last.rate) == (ReplayState.CANCELLED, 2, 70, 0)
    assert await store.replays.progress(mine.id, mine.epoch, [], rate=5, lease_ms=LONG) is None


async def test_what_there_is_to_copy_is_counted(store: StoreUnderTest) -> None:
    topic = await new_topic(store, 2)
    for number in (0, 1):
        cursor = await taken(store, topic, number)
        some = [event(ms, seq) for ms in (5, 86_400_000, 200_000_000) for seq in (0, 1)]
        await store.events.write([batch(topic, cursor, some, partition=number)])
    whole = Part(0, ZERO, Position(200_000_000, 1), ZERO)
    inner = Part(1, Position(5, 0), Position(200_000_000, 0), Position(5, 0))
    assert await store.replays.count(topic.id, [whole, inner]) == 6 + 4
    assert await store.replays.count(topic.id, [Part(0, Position(5, 1), Position(5, 1), Position(5, 1))]) == 0
    await store.catalog.begin_delete(topic.name)

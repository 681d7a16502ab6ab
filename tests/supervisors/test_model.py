"""Storms of additions, removals and crashes from several tasks, checked against what each task knows."""

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio
import pytest

from supervisors import (
    Backoff,
    ChildSpec,
    Context,
    DuplicateChild,
    StartFailed,
    State,
    Strategy,
    Supervisor,
    UnknownChild,
)

pytestmark = pytest.mark.anyio
Running = Callable[[Supervisor], AbstractAsyncContextManager[None]]


class World:
    """What is alive; two lives of one child at once, or a start out of turn, are noticed at once."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.alive: set[str] = set()
        self.begun: set[str] = set()

    def spec(self, child_id: str) -> ChildSpec:
        return ChildSpec(
            id=child_id, actor=lambda: Restless(self, child_id), grace=self.chance.choice([0.0, 1.0, 10.0])
        )


class Restless:
    """Fails to start, dawdles, crashes and is stubborn, all by chance."""

    def __init__(self, world: World, child_id: str) -> None:
        self.world = world
        self.child_id = child_id

    async def run(self, ctx: Context) -> None:
        chance = self.world.chance
        assert self.child_id not in self.world.alive, "two lives at once"
        self.world.alive.add(self.child_id)
        try:
            await anyio.sleep(chance.choice([0, 0, 1, 3]))
            if chance.random() < 0.1:
                raise OSError("did not start")
            ctx.ready()
            if chance.random() < 0.3:
                await anyio.sleep(chance.uniform(0, 20))
                raise ValueError("crash")
            with ctx.interruptible():
                await anyio.sleep_forever()
            await anyio.sleep(chance.choice([0, 2]))
        finally:
            self.world.alive.discard(self.child_id)


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("seed", range(6))
async def test_a_storm_of_changes_from_several_tasks_ends_in_the_set_they_agreed_on(
    strategy: Strategy, seed: int, running: Running
) -> None:
    chance = random.Random(seed)
    world = World(chance)
    pool = Supervisor(
        map(world.spec, ("static-1", "static-2")) if seed % 2 else (),
        strategy=strategy,
        max_restarts=10**9,
        backoff=Backoff(base=0.5, cap=2.0, random=chance.random),
        stop_together=chance.random() < 0.5,
    )
    expected = set(pool.children)

    async def change(number: int) -> None:
        """Each task has ids of its own, so it always knows which of them are there."""
        mine: set[str] = set()
        for _ in range(25):
            child_id = f"{number}/{chance.randrange(4)}"
            try:
                if chance.random() < 0.6:
                    await pool.add(world.spec(child_id))
                    assert child_id not in mine
                    mine.add(child_id)
                else:
                    await pool.remove(child_id)
                    assert child_id in mine
                    mine.discard(child_id)
                    assert child_id not in world.alive, "removed, and still alive"
            except DuplicateChild:
                assert child_id in mine
            except (StartFailed, UnknownChild):
                assert child_id not in mine
            if chance.random() < 0.5:
                await anyio.sleep(chance.uniform(0, 5))
        expected.update(mine)

    with anyio.fail_after(100_000):
        try:
            async with running(pool):
                expected.update(pool.children)
                async with anyio.create_task_group() as tasks:
                    for number in range(4):
                        tasks.start_soon(change, number)
                assert set(pool.children) == expected
                assert {child.state for child in pool.child_snapshots()} <= {
                    State.RUNNING,
                    State.STARTING,
                    State.BACKING_OFF,
                    State.STOPPING,
                }
        except* StartFailed:
            assert seed % 2, "a static child may have failed its first start"
    assert world.alive == set(), "nobody outlives the supervisor"
    assert all(child.state in (State.STOPPED, State.FAILED) for child in pool.child_snapshots())
